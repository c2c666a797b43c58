"""A hostile file from a modality that may send."""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from dbos import DBOSClient
from pydicom import Dataset, dcmread

from config.settings import load
from dicom_node.database import open_engine
from dicom_node.work import ANALYZE, APPLICATION, VERSION
from tests.asking import bearing
from tests.attack.assault import Cost, assault, note
from tests.attack.crafted import (
    deflated_items,
    noise_images,
    progressive_jpeg,
    scanned_image,
    trailing_elements,
)
from tests.attack.target import LOOKING, SECRET, Target, processes
from tests.mutations import Sample
from tests.raw_sender import RawSender
from tests.served import alive, children

pytestmark = pytest.mark.attack

FILES, MANY = 3, 20
DECODER = "dicom_node.decoding_process"
SECCOMP_FILTER = 2  # proc(5): Seccomp


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("2.5 million empty items in 30 kB, deflated", deflated_items),
        ("500,000 elements after Pixel Data", trailing_elements),
        ("a progressive JPEG of 400 scans", scanned_image),
    ],
)
def test_a_good_image_does_not_wait_for_bad_ones(
    target: Target, name: str, make: Callable[[], Sample]
) -> None:
    samples = [make() for _ in range(FILES)]

    def attack(cost: Cost) -> None:
        answers = []
        sender = RawSender(target.receiver)
        for each in samples:
            answer = sender.send(each)
            answers.append("none" if answer.status is None else f"{answer.status:#06x}")
            cost.bytes += len(each.dataset)
        cost.note = f"answers {', '.join(sorted(set(answers)))}"
        cost.ready.set()
        sender.close()

    seen = assault(target, 2, f"{FILES} times {name}", attack)

    seen.check()


def test_a_good_image_does_not_wait_for_twenty_slow_ones_of_ordinary_size(
    target: Target,
) -> None:
    """All come from one address."""
    samples = noise_images(MANY, 3500)

    def attack(cost: Cost) -> None:
        sender = RawSender(target.receiver)
        for each in samples:
            assert sender.send(each).status == 0
            cost.bytes += len(each.dataset)
        cost.ready.set()
        sender.close()

    seen = assault(target, 2, f"{MANY} images of noise in JPEG 2000", attack)
    target.damaged = True  # the slow lane is busy for minutes

    seen.check()


def test_a_jpeg_of_400_scans_does_not_hold_up_predict(target: Target) -> None:
    content = progressive_jpeg()

    def attack(cost: Cost) -> None:
        cost.ready.set()
        cost.bytes = len(content)
        start = time.monotonic()
        code = 0
        with suppress(httpx.HTTPError):
            code = httpx.post(
                f"http://127.0.0.1:{target.api}/predict",
                files={"file": content},
                headers=bearing(LOOKING),
                timeout=40,
                trust_env=False,
            ).status_code
        cost.note = f"answer {code} after {time.monotonic() - start:.1f} s"

    seen = assault(target, 2, "a JPEG of 400 scans for /predict", attack, at_least_s=45)

    took = float(seen.note.split()[-2]) if "after" in seen.note else math.inf
    seen.expect(took < 5, "/predict is busy with one picture")
    seen.check()


def test_the_decoder_has_no_secret_and_a_filter_of_system_calls(
    target: Target,
) -> None:
    seen = note(6, "what a decoder that obeys the attacker finds")
    found = processes(target.node.process.pid)
    holders = sorted({role for pid, role in found.items() if holds_secret(pid)})
    decoders = [pid for pid, role in found.items() if role == "decoder"]
    # The fork server never gets a byte of a sender; its children do.
    forks = [pid for each in decoders for pid in children(each, DECODER)]
    filters = {seccomp(pid) for pid in forks}

    seen.note = f"an operator's token is in: {', '.join(holders) or 'none'}"
    seen.note += f"; seccomp {sorted(filters)}"
    assert forks
    for role in ("decoder", "receiver"):
        seen.expect(role not in holders, f"{role} has the secret")
    seen.expect(filters == {SECCOMP_FILTER}, "the decoder may use any system call")
    seen.check()


def holds_secret(pid: int) -> bool:
    """Whether a secret is in the environment that a process was started with."""
    with suppress(OSError):
        return SECRET.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def seccomp(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("Seccomp:")]
    return int(line.split()[1])


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_a_row_of_the_database_runs_no_code(target: Target) -> None:
    seen = note(7, "a pickle in a row of the database")
    proof = target.folder / "ran"
    engine = open_engine(load(target.config, {}).storage.database_url)
    client = DBOSClient(system_database_engine=engine, application_name=APPLICATION)
    client.enqueue(
        {
            "workflow_name": ANALYZE,
            "queue_name": ANALYZE,
            "workflow_id": "pickled",
            "app_version": VERSION,
        },
        Pickled(proof),
        1,
    )
    after = target.turnaround()  # the worker has taken up what came before it
    engine.dispose()

    seen.before, seen.during = target.usual_s, after
    seen.note = "the code ran" if proof.exists() else "refused"
    seen.expect(not proof.exists(), "a worker unpickled a row")
    workers = [
        p for p, r in processes(target.node.process.pid).items() if r == "worker"
    ]
    seen.expect(any(map(alive, workers)), "the worker is gone")
    seen.check()


def equipment() -> Dataset:
    """What a detector's denoiser writes, which is no AI that looks for fractures."""
    purpose, item = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "1110003", "99IHE"
    purpose.CodeMeaning = "Processing Algorithm"
    item.Manufacturer, item.ManufacturerModelName = "Detectors Inc.", "DENOISE 2"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def ours() -> Dataset:
    item = equipment()
    item.Manufacturer = item.ManufacturerModelName = "fracture-node"
    return item


@pytest.mark.parametrize(
    ("name", "make"), [("a denoiser", equipment), ("our own name", ours)]
)
def test_contributing_equipment_silences_no_radiograph(
    target: Target, name: str, make: Callable[[], Dataset]
) -> None:
    """It gets a result or a notice, which is a Secondary Capture, too."""
    seen = note(10, f"a radiograph with {name} as equipment")
    seen.before = target.usual_s
    seen.during = target.turnaround(20, ContributingEquipmentSequence=[make()])

    seen.expect(seen.during < math.inf, "it has neither result nor notice")
    seen.check()


@pytest.mark.parametrize("study", ["the same study", "another study"])
def test_a_false_first_sender_silences_no_patient(target: Target, study: str) -> None:
    """The real image follows under the same SOP Instance UID, for another patient."""
    seen = note(10, f"a false image under the UID of a real one, {study}")
    false, false_study = target.image(PatientID="FALSE", PatientName="False^Patient")
    same = {"StudyInstanceUID": false_study} if study == "the same study" else {}
    patient = f"REAL{len(same)}"
    real, _ = target.image(PatientID=patient, PatientName="Real^Patient", **same)
    copy_picture(false, real)
    seen.sent, start = false.stat().st_size, time.monotonic()
    assert target.store(false, "INTRUDER")
    wait(lambda: target.has_result(false_study), 20)
    assert target.store(real)
    is_told = wait(lambda: patient in target.patients(), 20)
    seen.seconds = time.monotonic() - start

    seen.expect(is_told, "the real patient gets neither result nor notice")
    seen.check()


def copy_picture(false: Path, real: Path) -> None:
    """Give an image the SOP Instance UID and the pixels of another."""
    source, dataset = dcmread(false), dcmread(real)
    dataset.PixelData = source.PixelData
    dataset.SOPInstanceUID = source.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
    dataset.save_as(real, enforce_file_format=True)


def wait(condition: Callable[[], bool], longest_s: float) -> bool:
    """Wait until something is so; returns whether it came in time."""
    end, pause = time.monotonic() + longest_s, threading.Event()
    while time.monotonic() < end:
        if condition():
            return True
        pause.wait(0.1)
    return condition()
