"""The review pages of a complete node: real senders, archives and browsers."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom import Dataset

from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from inference.phantom.long_bone import draw_phantom
from tests.api.auth.test_login_page import begin_session
from tests.api.v1.test_study_page import difference, drag, drawn, is_true
from tests.support.http_client import ACTING, DIGEST, LOOKING
from tests.support.node import Served, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.browser]

CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
allowed_callers = [{{ ae_title = "TEST" }}]
[storage]
directory = "node"
min_free_mb = 1
[api]
port = 0
tokens = [
    {{ name = "looking", role = "viewer", sha256 = "{digest}" }},
    {{ name = "acting", role = "operator", env = "ACTING" }},
]
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
[[destinations]]
name = "dead"
type = "dicom"
ae_title = "DEAD"
host = "127.0.0.1"
port = {dead}
retry_days = 0.00001
"""


@dataclass(frozen=True, slots=True)
class Hospital:
    """A node with an archive, and with a destination that has no listener.

    Attributes:
        node: The node.
        folder: The folder of the node and of the archive.
        dead: The port of the destination without a listener.
        port: The port of the pages.
    """

    node: Served
    folder: Path
    dead: int
    port: int

    @property
    def address(self) -> str:
        """The URL of the pages."""
        return f"http://127.0.0.1:{self.port}"

    def send(self, name: str, seed: int = 0) -> Dataset:
        """Send a broken phantom with this patient name; return its dataset."""
        drawn = draw_phantom(broken=True, rows=600, columns=450, seed=seed)
        dataset = phantom_dataset(drawn)
        dataset.PatientName = name
        path = self.folder / "sent.dcm"
        dataset.save_as(path, enforce_file_format=True)
        (outcome,) = send([path], self.node.address, calling_ae_title="TEST")
        assert outcome.verdict is Verdict.STORED
        return dataset


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, new_port: Callable[[], int]
) -> Iterator[Hospital]:
    folder, dead = tmp_path_factory.mktemp("hospital"), new_port()
    archive = start_archive(folder / "archive")
    text = CONFIG.format(archive=archive.port, dead=dead, digest=DIGEST)
    (folder / "node.toml").write_text(text)
    node = Served(folder / "node.toml", environment={"ACTING": ACTING})
    node.start()
    ports = json.loads((folder / "node/run/ports.json").read_text())
    yield Hospital(node, folder, dead, ports["api"])
    node.kill()
    archive.stop()


@pytest.fixture
def open_page(browser: Browser, hospital: Hospital) -> Iterator[Callable[..., Page]]:
    """Yield a function that logs in and opens a page in a new browser context."""
    with ExitStack() as stack:

        def open_as(path: str, token: str = ACTING) -> Page:
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: pytest.fail(str(error)))
            begin_session(page, hospital.port, token)
            page.goto(hospital.address + path)
            page.wait_for_selector("body[data-ready]")
            return page

        yield open_as


@pytest.mark.alone
def test_two_browsers_show_a_new_instance_within_two_seconds(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    pages = [open_page("/worklist"), open_page("/worklist", LOOKING)]
    for page in pages:
        page.wait_for_selector("body[data-live]")

    hospital.send("Schmidt^Anna")
    stored = time.monotonic()

    for page in pages:
        row = page.locator("#rows tr", has_text="Schmidt, Anna")
        expect(row).to_be_visible(timeout=2000)
        assert time.monotonic() - stored < 2
    expect(row).to_contain_text("Definite fracture", timeout=60_000)


def test_a_row_opens_its_study(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    sent = hospital.send("Huber^Eva", seed=3)
    page = open_page("/worklist?q=huber")
    page.click("#rows tr")

    page.wait_for_url(f"**/studies/{sent.StudyInstanceUID}?image=*")
    expect(page.locator("h1")).to_have_text("Huber, Eva")
    expect(page.locator("canvas")).to_have_count(1)
    expect(page.locator("#panel .deliveries")).to_contain_text(
        "archive", timeout=60_000
    )
    expect(page.locator(".pane-notice")).to_be_hidden()
    # Heatmap and arrow are layers over the image. Zoom and window change the image.
    wait_for(lambda: np.ptp(drawn(page), axis=2).max() > 20)
    page.click("#heatmap[aria-pressed=true]")
    page.click("#arrow[aria-pressed=true]")
    gray = drawn(page)
    assert np.ptp(gray, axis=2).max() == 0
    page.click("#full")
    assert difference(drawn(page), gray) > 1
    page.click("#fit")
    drag(page, -150, 0)
    is_true(page)
    assert difference(drawn(page), gray) > 5


def test_failed_deliveries_are_retried_after_the_destination_works_again(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    names = "Doe^John", "Doe^Jane"
    for seed, name in enumerate(names):
        hospital.send(name, seed=10 + seed)
    page = open_page("/failures")
    card = page.locator(".card", has_text="Delivery to dead").first
    expect(card).to_be_visible(timeout=60_000)
    worklist = open_page("/worklist?q=doe")
    rows = worklist.locator("#rows tr .state[data-state=failed]")
    expect(rows).to_have_count(2, timeout=60_000)

    # A viewer sees the same page without buttons.
    looking = open_page("/failures", LOOKING)
    expect(looking.locator(".card").first).to_be_visible()
    expect(looking.locator("#main button:visible")).to_have_count(0)
    refused = looking.request.post(f"{hospital.address}/api/v1/failures/retry")
    assert refused.status == 403

    archive = start_archive(
        hospital.folder / "mended", ae_title="DEAD", port=hospital.dead
    )
    try:
        card.locator("summary").click()
        card.locator("tr", has_text="Doe, Jane").get_by_text("Retry").click()
        expect(worklist.locator("#rows tr", has_text="Doe, Jane")).to_contain_text(
            "delivered", timeout=20_000
        )
        expect(rows).to_have_count(1)
        page.click("#all")
        expect(rows).to_have_count(0, timeout=20_000)
        expect(page.locator("#empty")).to_be_visible(timeout=20_000)
        wait_for(lambda: len(archive.log) >= len(names))
    finally:
        archive.stop()


def test_destination_is_tested_paused_and_resumed(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    page = open_page("/destinations")
    page.click("#echo-archive")
    card = page.get_by_label("archive", exact=True)
    expect(card.locator(".signs")).to_contain_text("succeeded", timeout=20_000)
    page.click("#echo-dead")
    dead = page.get_by_label("dead", exact=True)
    expect(dead.locator(".signs")).to_contain_text("acting", timeout=20_000)
    expect(dead.locator(".card-head")).to_contain_text("failing")
    reason = f"DEAD at 127.0.0.1:{hospital.dead} refuses the connection"
    expect(dead.locator(".signs")).to_contain_text(reason)

    page.click("#toggle-archive")
    expect(card.locator(".card-head")).to_contain_text("paused")
    hospital.send("Paused^Paula", seed=20)
    expect(card.locator("dl")).to_contain_text("Waiting1", timeout=20_000)
    page.click("#toggle-archive")
    expect(card.locator("dl")).to_contain_text("Waiting0", timeout=20_000)
    expect(card.locator(".card-head")).to_contain_text("delivering")
    # The instance could not be delivered to the destination `dead`.
    expect(dead.locator("dl")).to_contain_text("Failing since", timeout=20_000)
    expect(dead.locator("dl")).to_contain_text(reason)


def test_rejected_caller_is_listed_with_the_setting_to_change(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    path = hospital.folder / "sent.dcm"
    phantom_dataset(draw_phantom(broken=False)).save_as(path, enforce_file_format=True)
    send([path], hospital.node.address, calling_ae_title="STRANGER")

    page = open_page("/destinations")

    row = page.locator("#callers tr", has_text="STRANGER")
    expect(row).to_contain_text("rejected", timeout=30_000)
    expect(row).to_contain_text("allowed_callers")


def test_health_page_shows_all_roles(open_page: Callable[..., Page]) -> None:
    page = open_page("/health")

    # Only the check of the destination `dead` may fail, because it has no listener.
    states = page.request.get(page.url.replace("/health", "/api/v1/node")).json()
    failing = {status for status in states["destinations"].values() if status != "ok"}
    count = len(failing)
    verdict = f"{count} check fails" if count else "All checks pass"
    expect(page.locator("#checks .verdict")).to_have_text(verdict)
    assert all("refuses the connection" in status for status in failing)
    assert set(states["checks"].values()) == {"ok"}
    for role in ("Receiver", "Worker", "Model", "Database", "Spool"):
        expect(page.locator("#checks")).to_contain_text(f"{role}ok")
    expect(page.locator("#checks")).to_contain_text(states["decoding"])
    page.click("#throughput summary")
    counts = page.locator("#throughput tbody tr").last.locator("td").all_inner_texts()
    assert sum(map(int, counts)) > 0
    expect(page.locator("#disk")).to_contain_text("free of")


def test_uploaded_folder_is_received_and_analyzed(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    page = open_page("/upload")
    folder = hospital.folder / "to upload" / "series"
    folder.mkdir(parents=True)
    for number in range(2):
        dataset = phantom_dataset(
            draw_phantom(broken=True, rows=600, columns=450, seed=30 + number)
        )
        dataset.PatientName = f"Uploaded^{'AB'[number]}"
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("This is no image.")
    png = draw_phantom(broken=True, rows=600, columns=450).radiograph().pixels
    cv2.imwrite(str(folder / "picture.png"), png)

    page.set_input_files("#folder", folder.parent)

    expect(page.locator("#summary")).to_have_text("4 of 4 done", timeout=60_000)
    dicom = page.locator("#rows tr", has_text="Uploaded, A")
    expect(dicom).to_contain_text("Definite fracture", timeout=60_000)
    expect(page.locator("#rows tr", has_text="picture.png")).to_contain_text("fracture")
    failed = page.locator("#rows tr", has_text="notes.txt")
    expect(failed).to_contain_text("Upload failed")
    dicom.locator("a").click()
    expect(page.locator("h1")).to_have_text("Uploaded, A")


def test_upload_of_a_single_file_opens_its_study(
    hospital: Hospital, open_page: Callable[..., Page]
) -> None:
    path = hospital.folder / "single.dcm"
    dataset = phantom_dataset(draw_phantom(broken=False, rows=600, columns=450, seed=7))
    dataset.PatientName = "Single^Sina"
    dataset.save_as(path, enforce_file_format=True)
    page = open_page("/upload")

    page.set_input_files("#files", path)

    page.wait_for_url("**/studies/**")
    expect(page.locator("h1")).to_have_text("Single, Sina")


@pytest.fixture(scope="module")
def secret(hospital: Hospital) -> Dataset:
    """Return the dataset of an instance that the node has received."""
    return hospital.send("Secret^Sam", seed=40)


@pytest.fixture(scope="module")
def stranger(browser: Browser) -> Iterator[Page]:
    """Yield a page without a session."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(
    "path",
    ["/worklist", "/studies/1.2", "/failures", "/destinations", "/health", "/upload"],
)
def test_pages_show_no_patient_data_without_a_session(
    hospital: Hospital, stranger: Page, secret: Dataset, path: str
) -> None:
    page, study = stranger, str(secret.StudyInstanceUID)
    requested: list[str] = []
    page.on("response", lambda response: requested.append(response.url))

    page.goto(hospital.address + path.replace("1.2", study))

    assert "/login" in page.url
    assert "Secret" not in page.content()
    assert not [url for url in requested if "/api/v1/" in url]
    for api in ("instances", f"studies/{study}", "failures/instances"):
        assert page.request.get(f"{hospital.address}/api/v1/{api}").status == 401
