"""`make screenshots`: screenshots of the pages for the documentation.

They show a node with phantoms and invented names in Chromium, and no real data. All
screenshots are written to build/screenshots, and some are copied to docs/.
"""

import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright
from pydicom.uid import UID, generate_uid
from pynetdicom.events import Event

from config.destinations import Address
from config.settings import load
from dicom_node.commands.node import Node
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.log.format import configure_logging
from tests.support.limb_anatomy import ANATOMY, Limb
from tests.support.limb_phantom import draw_limb

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
[api]
port = 0
[exam]
quiet_s = 5
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = {archive}
results = ["secondary_capture", "exam_summary"]
[[destinations]]
name = "teleradiology"
type = "dicom"
ae_title = "TELERAD"
host = "127.0.0.1"
port = {refusing}
send_negative = false
"""
INSTANCES = 200
ROOMS = "ROOM1", "ROOM2", "MOBILE1"
NAMES = [
    *("Ahorn^Anna", "Birke^Ben", "Buche^Clara", "Eiche^David", "Erle^Emma"),
    *("Esche^Finn", "Fichte^Greta", "Hasel^Hugo", "Kiefer^Ida", "Linde^Jonas"),
    *("Pappel^Lea", "Ulme^Max", "Weide^Nora"),
]
DESKTOP, TABLET = (1400, 900), (820, 1180)
STUDY = "/studies/{study}"
SHOTS = [
    ("study", STUDY, DESKTOP, "dark"),
    ("study-light", STUDY, DESKTOP, "light"),
    ("study-tablet", STUDY, TABLET, "dark"),
    ("worklist", "/worklist", DESKTOP, "dark"),
    ("worklist-light", "/worklist", DESKTOP, "light"),
    ("worklist-tablet", "/worklist", TABLET, "dark"),
    ("worklist-images", "/worklist?list=images", DESKTOP, "dark"),
    ("failures", "/failures", DESKTOP, "dark"),
    ("destinations", "/destinations", DESKTOP, "dark"),
    ("health", "/health", DESKTOP, "dark"),
    ("health-light", "/health", DESKTOP, "light"),
    ("health-tablet", "/health", TABLET, "dark"),
    ("upload", "/upload", DESKTOP, "dark"),
]
KEPT = "study", "worklist"
"""The screenshots that the documentation shows."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A phantom to send, with its patient name, its sender (a room) and its study."""

    limb: Limb
    seed: int
    columns: int
    name: str
    room: str
    study: UID
    view: str = "AP"
    body_part: str | None = None


def main() -> None:
    """Start a node, fill it, and take the screenshots."""
    configure_logging("screenshots")
    screenshots = ROOT / "build" / "screenshots"
    screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as node:
        study = fill(node, Path(name))
        api = f"http://127.0.0.1:{node.api_port}"
        until(lambda: waiting(api) == 0)
        until(lambda: unfinished_examinations(api) == 0)
        shoot(api, study, screenshots)
    for kept in KEPT:
        shutil.copy(screenshots / f"{kept}.png", ROOT / "docs")


@contextmanager
def serving(folder: Path) -> Iterator[Node]:
    """Run a node with two destinations, and yield the node.

    One of the destinations refuses some results.
    """
    archive = start_archive(folder / "archive")
    refusing = start_archive(folder / "refusing", respond=status_for)
    config = folder / "node.toml"
    config.write_text(
        CONFIG.format(archive=archive.port, refusing=refusing.port), "utf-8"
    )
    with Node(load(config), config) as node, node.watched():
        until(lambda: is_ready(f"http://127.0.0.1:{node.api_port}/readyz"))
        yield node
    for each in (archive, refusing):
        each.stop()


def status_for(event: Event) -> int:
    """Return the status of the response to a C-STORE: a failure for some patients."""
    statuses = {"Erle^Emma": 0xC000, "Hasel^Hugo": 0xA900, "Pappel^Lea": 0xC000}
    return statuses.get(str(event.dataset.PatientName), 0x0000)


def fill(node: Node, folder: Path) -> UID:
    """Send phantoms; return the Study Instance UID of the last study.

    The last study has two views of a broken forearm. Of the other studies, every third
    has two views.
    """
    address = Address(ae_title="FRACTURE_AI", host="127.0.0.1", port=node.receiver_port)
    limbs, names, rooms = cycle(ANATOMY), cycle(NAMES[:-1]), cycle(ROOMS)
    for number in range(3 * (INSTANCES - 2) // 4):
        phantom = Sent(
            limb=next(limbs),
            seed=number % 40,
            columns=600,
            name=next(names),
            room=next(rooms),
            study=generate_uid(),
            body_part="CHEST" if number % 17 == 5 else None,
        )
        send_phantom(phantom, address, folder)
        if number % 3 == 0:
            seed = (number + 20) % 40
            send_phantom(replace(phantom, seed=seed, view="LL"), address, folder)
    study = generate_uid()
    for seed, view in ((4, "AP"), (13, "LL")):
        forearm = Sent("forearm", seed, 1800, NAMES[-1], ROOMS[0], study, view)
        send_phantom(forearm, address, folder)
    return study


def send_phantom(phantom: Sent, address: Address, folder: Path) -> None:
    """Send a phantom. It is broken if its seed is 1 modulo 3."""
    is_broken = phantom.seed % 3 == 1
    drawn = draw_limb(
        phantom.limb, broken=is_broken, columns=phantom.columns, seed=phantom.seed
    )
    dataset = phantom_dataset(drawn)
    dataset.PatientName = phantom.name
    dataset.PatientID = f"{4700 + NAMES.index(phantom.name)}"
    dataset.AccessionNumber = f"X{phantom.study[-5:]}"
    dataset.StudyInstanceUID, dataset.ViewPosition = phantom.study, phantom.view
    if phantom.body_part:
        dataset.BodyPartExamined = phantom.body_part
    path = folder / "sent.dcm"
    dataset.save_as(path, enforce_file_format=True)
    send([path], address, calling_ae_title=phantom.room)


def shoot(api: str, study: UID, folder: Path) -> None:
    """Take the screenshots of SHOTS, and write them to a folder.

    `api` is the base URL of the node. `study` is the UID of the study to show.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"),
            args=["--no-sandbox"],
        )
        for name, path, (width, height), theme in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.add_cookies([{"name": "theme", "value": theme, "url": api}])
            page = context.new_page()
            page.goto(api + path.format(study=study))
            page.wait_for_selector("body[data-ready]")
            page.wait_for_selector(".pane-notice:visible", state="detached")
            page.evaluate("new Promise((go) => requestAnimationFrame(go))")
            page.screenshot(path=folder / f"{name}.png")
            context.close()
        browser.close()


def waiting(api: str) -> int:
    """Return the number of unfinished instances. `api` is the base URL of the node."""
    states: dict[str, int] = httpx.get(f"{api}/api/v1/node").json()["states"]
    return states.get("received", 0) + states.get("delivering", 0)


def unfinished_examinations(api: str) -> int:
    """Return the number of examinations in state waiting, analyzing or delivering."""
    states = "state=waiting&state=analyzing&state=delivering"
    total: int = httpx.get(f"{api}/api/v1/studies?{states}").json()["total"]
    return total


def is_ready(address: str) -> bool:
    """Return whether a node is ready. `address` is the URL of its /readyz."""
    try:
        urllib.request.urlopen(address, timeout=5).close()  # noqa: S310 - own server
    except OSError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    while not condition():
        time.sleep(0.2)


if __name__ == "__main__":
    main()
