"""Hostile files from a modality that is allowed to send."""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from dbos import DBOSClient
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

from config.settings import load
from dicom_node.decoder.client import DecoderProcess
from dicom_node.decoder.quick_client import FEWEST, SHORTEST_S
from dicom_node.journal.work_queue import ANALYZE, APPLICATION, VERSION
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from dicom_node.storage.database import open_engine
from tests.attack.assault import Cost, Seen, assault, note
from tests.attack.crafted import (
    deflated_items,
    noise_images,
    progressive_jpeg,
    scanned_image,
    trailing_elements,
)
from tests.attack.target import LOOKING, SECRET, Target, processes
from tests.support.http_client import bearing
from tests.support.mutations import Sample
from tests.support.node import SERVER, alive, children, memory, wait_for
from tests.support.raw_sender import RawSender

pytestmark = pytest.mark.attack

FILES, MANY = 3, 20
MODALITY, NEW_MODALITY = "", "127.0.3.1"
ONE, FIVE, TEN = (
    [f"127.0.1.{number}" for number in range(1, count + 1)] for count in (1, 5, 10)
)
ENDED = 'analyzed"'  # "analyzed" or "not analyzed", a step in the log
MOVED = "moved to the separate lane"
SECCOMP_FILTER = 2  # proc(5): Seccomp


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("2.5 million empty items in 35 kB, deflated", deflated_items),
        ("500,000 elements after Pixel Data", trailing_elements),
        ("a progressive JPEG of 400 scans", scanned_image),
    ],
)
def test_hostile_images_do_not_delay_a_good_image(
    target: Target, name: str, make: Callable[[], Sample]
) -> None:
    samples = [make() for _ in range(FILES)]

    def attack(cost: Cost) -> None:
        statuses = []
        sender = RawSender(target.receiver)
        for each in samples:
            response = sender.send(each)
            statuses.append(
                "none" if response.status is None else f"{response.status:#06x}"
            )
            cost.bytes += len(each.dataset)
        cost.note = f"answers {', '.join(sorted(set(statuses)))}"
        cost.ready.set()
        sender.close()

    seen = assault(target, 2, f"{FILES} times {name}", attack)

    seen.check()


@pytest.mark.parametrize(
    ("addresses", "are_known", "good_from"),
    [
        (ONE, False, MODALITY),
        (ONE, False, NEW_MODALITY),
        (FIVE, False, MODALITY),
        (FIVE, False, NEW_MODALITY),
        (TEN, True, MODALITY),
    ],
)
def test_a_good_image_does_not_wait_for_twenty_slow_ones_of_ordinary_size(
    target: Target,
    addresses: Sequence[str],
    are_known: bool,  # noqa: FBT001
    good_from: str,
) -> None:
    """The slow images come from one other address, or in turn from several.

    If the addresses are known, each one has sent a quick image before. The good image
    is sent after the first slow one of each address.
    """
    samples = noise_images(MANY, 3500)
    senders = [RawSender(target.receiver, source=each) for each in addresses]
    if are_known:
        ended = target.log.count(ENDED)
        send_in_turn(noise_images(len(addresses), 300), senders)
        wait_for(lambda: target.log.count(ENDED) >= ended + len(addresses))
    known = "known" if are_known else "unknown"
    name = f"{MANY} slow images from {len(addresses)} {known} addresses"
    if good_from:
        name += "; a new modality"

    with target.sending_from(good_from):
        seen = slow_images(target, name, samples, senders, len(senders))

    seen.check()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_good_image_does_not_wait_for_slow_ones_of_its_own_modality(
    target: Target, syntax: UID
) -> None:
    """The slow images have the transfer syntax JPEG 2000.

    The good images have this transfer syntax, too, or Explicit VR Little Endian.
    """
    samples = noise_images(MANY, 3500)
    name = f"{MANY} slow images from the good image's own address; it is {syntax.name}"
    with target.sending_as(syntax):
        target.turnaround()  # a good image is known to be quick

        senders = [RawSender(target.receiver)]
        seen = slow_images(target, name, samples, senders, MANY // 2)

    seen.check()


def slow_images(
    target: Target,
    name: str,
    samples: Sequence[Sample],
    senders: Sequence[RawSender],
    earlier: int,
) -> Seen:
    """Send slow images, and a good image after the first `earlier` slow images.

    Args:
        target: A running node.
        name: Name of the attack in the table.
        samples: The slow images.
        senders: The senders, which take turns. At each turn, one slow image is sent.
        earlier: Number of slow images that are sent before the good image.

    Returns:
        The row of the attack in the table.
    """

    def attack(cost: Cost) -> None:
        send_in_turn(samples[:earlier], senders)
        cost.ready.set()
        send_in_turn(samples[earlier:], senders)
        cost.bytes = sum(len(each.dataset) for each in samples)
        for sender in senders:
            sender.close()

    before = target.log.count(MOVED)
    seen = assault(target, 2, name, attack)
    target.damaged = True  # the slow lane is busy for minutes
    seen.expect(target.log.count(MOVED) > before, "no image was slow")
    seen.expect(not seen.note, "the attack did not end")
    return seen


def test_a_good_image_does_not_wait_for_many_that_are_almost_slow(
    target: Target,
) -> None:
    """Three addresses send images that take almost as long as the normal lane allows.

    Then they send images that take about twice as long. The first images do not raise
    the limit of the normal lane, because the limit follows the address with the
    quickest images.
    """
    senders = [RawSender(target.receiver, source=f"127.0.4.{n}") for n in range(1, 4)]
    side_per_second = 1000 / math.sqrt(decoding_s(target.folder, 1000))
    longest_s, number = SHORTEST_S * 0.85, 3 * FEWEST
    almost_slow = noise_images(number, int(side_per_second * math.sqrt(longest_s)))
    analyzed(target, senders, almost_slow)
    slower = noise_images(MANY, int(side_per_second * math.sqrt(2 * longest_s)))

    def attack(cost: Cost) -> None:
        send_in_turn(slower[:6], senders)
        cost.ready.set()
        send_in_turn(slower[6:], senders)
        cost.bytes = sum(len(each.dataset) for each in [*almost_slow, *slower])
        for sender in senders:
            sender.close()

    name = f"{number} almost slow images of 3 addresses, then {MANY} of twice the time"
    seen = assault(target, 2, name, attack)
    target.damaged = True

    seen.expect(not seen.note, "the attack did not end")
    seen.check()


def decoding_s(folder: Path, side: int) -> float:
    """Return the seconds to decode a square of noise: the fewest of three attempts.

    `side` is the height and width of the square in pixels.
    """
    path = folder / "noise.dcm"
    path.write_bytes(noise_images(1, side)[0].part10)
    rules = ScreeningRules(
        max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
    )
    options = DecodeOptions(window=1, max_megapixels=100)
    decoder = DecoderProcess(timeout_s=60, memory_mb=4096)
    durations = []
    try:
        for _ in range(3):
            began = time.monotonic()
            decoder.run(decode_file, path, rules, options)
            durations.append(time.monotonic() - began)
    finally:
        decoder.close()
    return min(durations)


def analyzed(
    target: Target, senders: Sequence[RawSender], samples: Sequence[Sample]
) -> None:
    """Send images, each with the next of the senders, and wait for their analyses.

    Each image is sent after the analysis of the previous image has ended.
    """
    for each, sender in zip(samples, cycle(senders), strict=False):
        ended = target.log.count(ENDED)
        assert sender.send(each).status == 0
        wait_for(lambda ended=ended: target.log.count(ENDED) > ended)


def send_in_turn(samples: Sequence[Sample], senders: Sequence[RawSender]) -> None:
    """Send images, each with the next of the senders, without waiting for analyses."""
    for each, sender in zip(samples, cycle(senders), strict=False):
        assert sender.send(each).status == 0


def test_jpeg_with_400_scans_does_not_block_predict(target: Target) -> None:
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

    duration = float(seen.note.split()[-2]) if "after" in seen.note else math.inf
    seen.expect(duration < 5, "/predict is busy with one picture")
    seen.check()


def test_decoder_has_no_secret_and_runs_with_a_seccomp_filter(
    target: Target,
) -> None:
    seen = note(6, "what a decoder that obeys the attacker finds")
    found = processes(target.node.process.pid)
    roles_with_secret = sorted(
        {role for pid, role in found.items() if holds_secret(pid)}
    )
    # The fork servers never read received bytes. Their children do.
    servers = target.node.decoding_servers()
    decoding_children = [pid for each in servers for pid in children(each, SERVER)]
    filters = {seccomp(pid) for pid in decoding_children}

    seen.note = f"an operator's token is in: {', '.join(roles_with_secret) or 'none'}"
    seen.note += f"; seccomp {sorted(filters)}"
    assert decoding_children
    for role in ("decoder", "receiver", "worker", "server of the roles"):
        seen.expect(role not in roles_with_secret, f"{role} has the secret")
    seen.expect(filters == {SECCOMP_FILTER}, "the decoder may use any system call")
    seen.check()


def holds_secret(pid: int) -> bool:
    """Return whether the secret is in the environment or the memory of a process.

    If the process has ended or cannot be read, the result is False.
    """
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        return SECRET.encode() in environment + memory(pid)
    return False


def seccomp(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("Seccomp:")]
    return int(line.split()[1])


class Pickled:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_worker_does_not_unpickle_a_database_row(target: Target) -> None:
    seen = note(7, "a pickle in a row of the database")
    created_folder = target.folder / "ran"
    engine = open_engine(load(target.config, {}).storage.database_url)
    client = DBOSClient(system_database_engine=engine, application_name=APPLICATION)
    client.enqueue(
        {
            "workflow_name": ANALYZE,
            "queue_name": ANALYZE,
            "workflow_id": "pickled",
            "app_version": VERSION,
        },
        Pickled(created_folder),
        1,
    )
    after = target.turnaround()  # the worker has started all earlier work
    engine.dispose()

    seen.before, seen.during = target.usual_s, after
    seen.note = "the code ran" if created_folder.exists() else "refused"
    seen.expect(not created_folder.exists(), "a worker unpickled a row")
    workers = [
        p for p, r in processes(target.node.process.pid).items() if r == "worker"
    ]
    seen.expect(any(map(alive, workers)), "the worker is gone")
    seen.check()


def denoiser() -> Dataset:
    """Return a Contributing Equipment item of a denoiser.

    A denoiser detects no fractures, so the node must analyze its images.
    """
    purpose, item = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "1110003", "99IHE"
    purpose.CodeMeaning = "Processing Algorithm"
    item.Manufacturer, item.ManufacturerModelName = "Detectors Inc.", "DENOISE 2"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def own_name() -> Dataset:
    item = denoiser()
    item.Manufacturer = item.ManufacturerModelName = "fracture-node"
    return item


@pytest.mark.parametrize(
    ("name", "make"), [("a denoiser", denoiser), ("our own name", own_name)]
)
def test_contributing_equipment_does_not_suppress_the_response_to_a_radiograph(
    target: Target, name: str, make: Callable[[], Dataset]
) -> None:
    """The node sends a result or a notice."""
    seen = note(10, f"a radiograph with {name} as equipment")
    seen.before = target.usual_s
    seen.during = target.turnaround(20, ContributingEquipmentSequence=[make()])

    seen.expect(seen.during < math.inf, "it has neither result nor notice")
    seen.check()


@pytest.mark.parametrize("study", ["the same study", "another study"])
def test_false_image_with_a_real_uid_does_not_suppress_the_real_image(
    target: Target, study: str
) -> None:
    """The real image has the same SOP Instance UID and another patient."""
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
    has_response = wait(lambda: patient in target.patients(), 20)
    seen.seconds = time.monotonic() - start

    seen.expect(has_response, "the real patient gets neither result nor notice")
    seen.check()


def copy_picture(false: Path, real: Path) -> None:
    """Copy the SOP Instance UID and the pixels of the false image to the real one."""
    source, dataset = dcmread(false), dcmread(real)
    dataset.PixelData = source.PixelData
    dataset.SOPInstanceUID = source.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
    dataset.save_as(real, enforce_file_format=True)


def wait(condition: Callable[[], bool], longest_s: float) -> bool:
    """Wait until a condition is true; return whether it was true in time."""
    end, pause = time.monotonic() + longest_s, threading.Event()
    while time.monotonic() < end:
        if condition():
            return True
        pause.wait(0.1)
    return condition()
