"""The whole node as a hospital runs it: real processes, senders and archive."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from pydicom.encaps import get_frame

from config.settings import load
from dicom_node.archive import Archive, Stored, start_archive
from dicom_node.database import open_engine, reading
from dicom_node.history import History
from dicom_node.outcome import Verdict
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.sender import send
from dicom_node.tables import DeliveryState, delivered_object, delivery
from dicom_node.tally import ANALYZED, DELIVERED, RECEIVED, Family, read
from inference.phantom import draw_phantom
from tests.mutated import phantoms as samples
from tests.mutations import Draft, Sample, closed, opened
from tests.raw_sender import raw_sender
from tests.served import (
    PATIENCE_S,
    Served,
    alive,
    counts,
    history,
    made_slow,
    reasons,
    serving,
    states,
    wait_for,
)

CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
processes = 2
[storage]
directory = "node"
min_free_mb = 1
[worker]
decode_timeout_s = 1
max_megapixels = 200
[api]
port = 0
processes = {api}
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def config(tmp_path: Path, archive: Archive) -> Path:
    """Settings of a node without an api, which takes long to start."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(port=archive.port, api=0))
    return path


@pytest.fixture
def whole(tmp_path: Path, archive: Archive) -> Path:
    """Settings of a node with all roles."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(port=archive.port, api=1))
    return path


@dataclass(frozen=True, slots=True)
class Hospital:
    """A node at work, its archive, and the folder of both."""

    node: Served
    archive: Archive
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    def wait(self, source: Path) -> Stored:
        """Wait for what comes back into the study of an instance."""
        study = dcmread(source).StudyInstanceUID
        found: list[Stored] = []

        def has_come() -> bool:
            log = self.archive.log
            found.extend(each for each in log if each.study_instance_uid == study)
            return bool(found)

        wait_for(has_come)
        return found[0]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """For tests that do not mind what others send: to start takes long."""
    folder = tmp_path_factory.mktemp("hospital")
    archive = start_archive(folder / "archive")
    text = CONFIG.format(port=archive.port, api=1) + '[log]\nformat = "json"\n'
    (folder / "node.toml").write_text(text)
    with serving(folder / "node.toml") as node:
        yield Hospital(node, archive, folder)
    archive.stop()


def phantoms(folder: Path, count: int) -> list[Path]:
    """Write small phantoms, every other one broken."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        drawn = draw_phantom(broken=number % 2 == 0, rows=300, columns=240, seed=number)
        paths.append(folder / f"{number}.dcm")
        phantom_dataset(drawn).save_as(paths[-1], enforce_file_format=True)
    return paths


def test_a_radiograph_comes_back_annotated_in_its_study(
    hospital: Hospital, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    where = hospital.node.address
    command = [peer("storescu"), "-aec", where.ae_title, where.host, str(where.port)]

    subprocess.run([*command, path], check=True)
    stored = hospital.wait(path)

    source, result = dcmread(path), dcmread(hospital.archive.directory / stored.path)
    assert result.StudyInstanceUID == source.StudyInstanceUID
    assert result.PatientID == source.PatientID
    assert result.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert result.pixel_array.ndim == 3


LONG = "1.2.840.113845.11." + "1234567890" * 8
JPEG = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.4.70"
COMMAND = b"\0\0\x02\0\6\0\0\x001.2.3\0"
Harm = Callable[[Draft], None]


def as_it_is(_draft: Draft) -> None:
    pass


def with_foreign_elements(draft: Draft) -> None:
    found = draft.find(0x00100020)
    assert found is not None
    draft.splice(found.start, found.start, JPEG)
    draft.splice(0, 0, COMMAND + JPEG)


def in_several_fragments(draft: Draft) -> None:
    """Divide the one frame, with an offset for each piece."""
    pixels = draft.find(0x7FE00010)
    assert pixels is not None
    items = draft.data[pixels.value : pixels.end - 8]
    frame = get_frame(items, 0, number_of_frames=1)
    size = len(frame) // 6 * 2
    pieces = [frame[at : at + size] for at in range(0, len(frame), size)]
    offsets = [number * (size + 8) for number in range(len(pieces))]
    table = struct.pack(f"<{len(offsets)}L", *offsets)
    items = b"".join(map(draft.encoding.item, (table, *pieces)))
    draft.splice(pixels.value, pixels.end - 8, items)


ODD: list[tuple[int, Harm, str, str]] = [
    (0, as_it_is, "1.2.7.0", "1.2.8.0"),
    (0, with_foreign_elements, "1.2.7.1", "1.2.8.1"),
    (1, with_foreign_elements, "1.2.7.2", "1.2.8.2"),
    (2, with_foreign_elements, "1.2.7.3", "1.2.8.3"),
    (2, in_several_fragments, "1.2.7.4", "1.2.8.4"),
    (0, as_it_is, "1.2.7.5", LONG[:67]),
    (1, as_it_is, LONG[:66], "1.02..8"),
]
"""Which of the phantoms, what is done to it, its SOP and Study Instance UID."""


@pytest.mark.filterwarnings("ignore:The value length")  # the sender's pydicom
def test_datasets_that_break_the_standard_are_analyzed_as_the_picture_in_them(
    hospital: Hospital,
) -> None:
    plain = samples()
    sent: list[Sample] = []
    for which, harm, uid, study in ODD:
        draft = opened(plain[which], random.Random(0))
        draft.put("SOPInstanceUID", uid.encode())
        draft.put("StudyInstanceUID", study.encode())
        harm(draft)
        head = plain[which].syntax, plain[which].sop_class_uid
        sent.append(Sample(harm.__name__, *head, uid, closed(draft)))

    with raw_sender(hospital.node.address.port) as sender:
        answers = [sender.send(sample) for sample in sent]
    uids, studies = ([each[place] for each in ODD] for place in (2, 3))
    wait_for(
        lambda: [states(hospital.config, uid) for uid in uids] == [["delivered"]] * 7
    )

    assert [answer.status for answer in answers] == [0] * 7
    with history(hospital.config) as told:
        rows = [told.by_uid(uid)[0] for uid in uids]
    assert len({row.probability for row in rows}) == 1  # they are the same picture
    assert [row.study_instance_uid for row in rows] == studies
    delivered = {each.study_instance_uid for each in hospital.archive.log}
    assert delivered >= set(studies)


def test_the_same_picture_under_another_patient_or_study_comes_back_there(
    hospital: Hospital,
) -> None:
    first = samples()[0]
    study = b"1.2.9.1"

    def changed(**values: bytes) -> Sample:
        draft = opened(first, random.Random(0))
        for keyword, value in ({"StudyInstanceUID": study} | values).items():
            draft.put(keyword, value)
        return replace(first, dataset=closed(draft))

    with raw_sender(hospital.node.address.port) as sender:
        for number, sample in enumerate(
            (
                changed(PatientName=b"Before^A"),
                changed(PatientName=b"Corrected^A"),
                changed(PatientName=b"Corrected^A", StudyInstanceUID=b"1.2.9.2"),
            ),
            start=1,
        ):
            assert sender.send(sample).status == 0
            wait_for(
                lambda count=number: (  # type: ignore[misc]
                    states(hospital.config, first.sop_instance_uid)
                    == ["delivered"] * count
                )
            )

    results = [
        dcmread(hospital.archive.directory / each.path)
        for each in hospital.archive.log
        if each.study_instance_uid.startswith("1.2.9.")
    ]
    assert [
        (str(each.StudyInstanceUID), str(each.PatientName)) for each in results
    ] == [
        ("1.2.9.1", "Before^A"),
        ("1.2.9.1", "Corrected^A"),
        ("1.2.9.2", "Corrected^A"),
    ]
    assert len({each.SOPInstanceUID for each in results}) == 3


@pytest.mark.dcmtk
def test_an_instance_that_dcmtk_sends_under_a_uid_that_it_cut_has_its_whole_uid(
    hospital: Hospital, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    draft = opened(samples()[0], random.Random(0))
    draft.put("SOPInstanceUID", LONG[:70].encode())
    path = tmp_path / "long.dcm"
    path.write_bytes(replace(samples()[0], dataset=closed(draft)).part10)
    where = hospital.node.address
    command = [peer("storescu"), "-aec", where.ae_title, where.host, str(where.port)]

    subprocess.run([*command, path], check=True)

    wait_for(lambda: states(hospital.config, LONG[:70]) == ["delivered"])
    assert states(hospital.config, LONG[:64]) == []


@pytest.mark.postgresql
def test_the_node_works_on_postgresql_and_outlives_its_restart(
    config: Path, archive: Archive, tmp_path: Path, postgresql: str
) -> None:
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute("CREATE DATABASE node")
        url = postgresql.replace("/postgres?", "/node?")
        text = config.read_text()
        config.write_text(text.replace("[worker]", f'database = "{url}"\n[worker]'))
        migrate = (sys.executable, "-P", "-m", "dicom_node.commands.migrate")
        subprocess.run([*migrate, f"--config={config}"], check=True)
        one, *others = phantoms(tmp_path / "phantoms", 3)

        with serving(config) as node:
            outcomes = send([one], node.address, calling_ae_title="TEST")
            archive.wait(1, timeout_s=PATIENCE_S)
            # What a restart of the server does to those who are connected.
            administration.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'node'"
            )
            outcomes += send(others, node.address, calling_ae_title="TEST")
            archive.wait(3, timeout_s=PATIENCE_S)
            wait_for(lambda: counts(config) == {"delivered": 3})
            status = node.stop()

    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert len({each.sop_instance_uid for each in archive.log}) == 3
    assert not (tmp_path / "node" / "node.sqlite").exists()
    assert status == 0


def test_a_poison_image_fails_in_words_and_takes_nothing_with_it(
    hospital: Hospital, tmp_path: Path
) -> None:
    before, poison, after = phantoms(tmp_path / "phantoms", 3)
    made_slow(poison)

    outcomes = send(
        [before, poison, after], hospital.node.address, calling_ae_title="TEST"
    )
    hospital.wait(before)
    hospital.wait(after)
    uid = str(dcmread(poison, stop_before_pixels=True).SOPInstanceUID)
    wait_for(lambda: reasons(hospital.config, uid) != [""])

    (reason,) = reasons(hospital.config, uid)
    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert "longer than 1 s (decode_timeout_s" in reason
    assert counts(hospital.config)["failed"] == 1


def test_a_node_that_is_killed_at_its_work_takes_its_roles_along_and_loses_nothing(
    whole: Path, archive: Archive, tmp_path: Path
) -> None:
    paths = phantoms(tmp_path / "phantoms", 10)
    with serving(whole) as node:
        outcomes = send(paths[:8], node.address, calling_ae_title="TEST")
        archive.wait(3, timeout_s=PATIENCE_S)
        wait_for(lambda: recorded(whole) != set())
        modules = ("dicom_node.receiver", "dicom_node.worker", "api")
        roles = [each for module in modules for each in node.roles(module)]
        node.kill()
        killed_at = datetime.now(UTC)
        wait_for(lambda: not any(alive(each) for each in roles))
        known = recorded(whole)

        node.start()
        outcomes += send(paths[8:], node.address, calling_ae_title="TEST")
        wait_for(lambda: counts(whole) == {"delivered": 10})

    log = archive.log
    by_uid = {each.sop_instance_uid: each.digest for each in log}
    studies = {each.study_instance_uid for each in log}
    repeats = Counter(each.sop_instance_uid for each in log)
    # What is counted is whole, too, whatever was killed in the middle.
    assert counted(whole) == {RECEIVED: 10, ANALYZED: 10, DELIVERED: 10}
    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert studies == {str(dcmread(path).StudyInstanceUID) for path in paths}
    assert len(by_uid) == 10
    assert len(roles) == 4
    # A repeat is the same object to the last byte, and only what was on its way when
    # the node was killed may be repeated, not what it knew to have arrived: two
    # deliveries at once.
    assert all(each.digest == by_uid[each.sop_instance_uid] for each in log)
    repeated = {uid for uid, count in repeats.items() if count > 1}
    assert not repeated & known
    assert sum(count - 1 for count in repeats.values()) <= 2
    for uid in repeated:
        first, second = (
            datetime.fromisoformat(each.time)
            for each in log
            if each.sop_instance_uid == uid
        )
        assert first < killed_at + timedelta(seconds=2)
        assert second > killed_at


def recorded(config: Path) -> set[str]:
    """SOP Instance UIDs of the results of which the node knows that they arrived."""
    engine = open_engine(load(config, {}).storage.database_url)
    arrived = delivered_object.c.state == DeliveryState.DELIVERED
    with reading(engine) as connection:
        query = sa.select(delivered_object.c.sop_instance_uid).where(arrived)
        uids = set(connection.execute(query).scalars())
    engine.dispose()
    return uids


def counted(config: Path) -> dict[Family, int]:
    """How often what has happened, by whatever label."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        tallies = read(connection)
    engine.dispose()
    return {
        family: sum(each.times for each in tallies if each.name == family.name)
        for family in (RECEIVED, ANALYZED, DELIVERED)
    }


def test_when_an_archive_returns_all_that_waited_arrives_within_seconds(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    archive.stop()
    paths = phantoms(tmp_path / "phantoms", 20)
    with serving(config) as node:
        send(paths, node.address, calling_ae_title="TEST")
        wait_for(lambda: sum(tried(config).values()) == 20)
        attempts = tried(config)
        log = (tmp_path / "log").read_text()
        back = start_archive(tmp_path / "back", port=archive.port)
        try:
            stored = back.wait(20, timeout_s=PATIENCE_S)
            wait_for(lambda: counts(config) == {"delivered": 20})
            scheduled = last_scheduled(config)
        finally:
            back.stop()

    times = sorted(datetime.fromisoformat(each.time) for each in stored)
    # The answer to the first one releases the others, all at once.
    assert (scheduled - times[0]).total_seconds() < 5
    # It takes 2 s on two idle cores; other tests may run beside this one.
    assert (times[-1] - times[0]).total_seconds() < 30
    # Of 20 that waited, only the probes were tried more than once.
    assert sum((count - 1) * number for count, number in attempts.items()) < 8
    why = f"ARCHIVE at 127.0.0.1:{archive.port} refuses the connection"
    assert log.count(f"WARNING Deliveries to archive fail: {why}") == 1
    assert f" s: archive: 1 object: {why}\n" in log


def tried(config: Path) -> Counter[int]:
    """How many deliveries were tried how often; those that were tried."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        found = connection.execute(sa.select(delivery.c.attempts)).scalars()
        counted = Counter(count for count in found if count)
    engine.dispose()
    return counted


def last_scheduled(config: Path) -> datetime:
    """For when the last attempt of any delivery was scheduled."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        found = connection.execute(sa.select(sa.func.max(delivery.c.next_at)))
        last = found.scalar_one()
    engine.dispose()
    return datetime.fromtimestamp(last, UTC)


def test_work_of_a_worker_that_is_no_more_is_taken_over(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    with serving(config) as node:
        wait_for(lambda: node.roles("dicom_node.worker") != [])
        (worker,) = node.roles("dicom_node.worker")
        os.kill(worker, signal.SIGSTOP)  # it takes up nothing
        send([path], node.address, calling_ae_title="TEST")
        node.kill()
        with suppress(ProcessLookupError):  # it may have been stopped while importing
            os.kill(worker, signal.SIGKILL)
        engine = open_engine(load(config, {}).storage.database_url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE workflow_status SET status = 'PENDING', executor_id = 'local:7'"
            )
        engine.dispose()
        node.start()

        archive.wait(1, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("module", ["dicom_node.receiver", "dicom_node.worker", "api"])
def test_a_role_that_is_killed_comes_back(
    hospital: Hospital, tmp_path: Path, module: str
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    node = hospital.node
    before = node.roles(module)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: not set(node.roles(module)) <= set(before))
    wait_for(lambda: len(node.roles(module)) == len(before))

    outcomes = send([path], node.address, calling_ae_title="TEST")
    hospital.wait(path)

    assert [each.verdict for each in outcomes] == [Verdict.STORED]


def test_sigterm_lets_what_is_under_way_finish_and_the_rest_wait(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    paths = phantoms(tmp_path / "phantoms", 10)
    with serving(config) as node:
        send(paths[:5], node.address, calling_ae_title="TEST")
        archive.wait(1, timeout_s=PATIENCE_S)  # the worker is at work
        sent: list[Verdict] = []
        started = threading.Event()

        def sending() -> None:
            outcomes = send(
                paths[5:],
                node.address,
                calling_ae_title="TEST",
                on_outcome=lambda *_: started.set(),
            )
            sent.extend(each.verdict for each in outcomes)

        sender = threading.Thread(target=sending)
        sender.start()
        started.wait(PATIENCE_S)
        status = node.stop()
        sender.join()
        states, begun = counts(config), unfinished(config)
        node.start()
        wait_for(lambda: counts(config) == {"delivered": 10})

    assert status == 0
    assert sent == [Verdict.STORED] * 5
    assert begun == 0
    assert sum(states.values()) == 10
    assert states.keys() <= {"received", "delivering", "delivered"}


def unfinished(config: Path) -> int:
    """How many analyses were begun and have not ended."""
    engine = open_engine(load(config, {}).storage.database_url)
    rows = History(engine).recent(100)
    engine.dispose()
    return sum(row.state == "received" and row.attempts > 0 for row in rows)


def test_what_went_through_the_processes_is_told_in_one_place(
    hospital: Hospital, tmp_path: Path
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    before = scraped(hospital)
    send([path], hospital.node.address, calling_ae_title="TEST")
    other = hospital.node.address.model_copy(update={"ae_title": "ANY-SCP"})
    send([path], other, calling_ae_title="TEST")
    hospital.wait(path)

    def more(name: str, **labels: str) -> float:
        key = f"fracture_node_{name}", frozenset(labels.items())
        return scraped(hospital)[key] - before[key]

    why = "called AE title not recognized"
    wait_for(lambda: more("turnaround_seconds_count") == 1)
    wait_for(lambda: more("associations_rejected_total", reason=why) == 1)
    wait_for(lambda: more("stage_seconds_count", stage="receive") == 1)
    for stage in ("wait", "decode", "classify", "encode"):
        assert more("stage_seconds_count", stage=stage) == 1
    assert more("instances_received_total") == 1
    assert more("delivery_seconds_count", destination="archive") == 1
    assert more("deliveries_delivered_total", destination="archive") == 1


def test_a_frozen_worker_makes_the_node_not_ready_and_leaves_the_api_so(
    hospital: Hospital,
) -> None:
    ports = json.loads((hospital.folder / "node" / "run" / "ports.json").read_text())
    address = f"http://127.0.0.1:{ports['api']}/readyz"
    workers = hospital.node.roles("dicom_node.worker")
    wait_for(lambda: httpx.get(address, timeout=60).status_code == 200)

    for each in workers:
        os.kill(each, signal.SIGSTOP)
    try:
        wait_for(lambda: httpx.get(address, timeout=60).status_code == 503)
        frozen = httpx.get(address, timeout=60).json()
        alone = httpx.get(f"{address}?role=api", timeout=60)
        figures = scraped(hospital)
    finally:
        for each in workers:
            os.kill(each, signal.SIGCONT)

    silent = frozen.pop("worker")
    assert silent.startswith("no worker has given a sign of life for ")
    assert set(frozen.values()) == {"ok"}
    assert alone.status_code == 200
    ready = {
        role: figures["fracture_node_ready", frozenset({("check", role)})]
        for role in ("worker", "receiver", "model")
    }
    assert ready == {"worker": 0, "receiver": 1, "model": 1}
    wait_for(lambda: httpx.get(address, timeout=60).status_code == 200)


def scraped(hospital: Hospital) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    ports = json.loads((hospital.folder / "node" / "run" / "ports.json").read_text())
    text = httpx.get(f"http://127.0.0.1:{ports['api']}/metrics", timeout=60).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }


def test_no_patient_data_in_the_logs(hospital: Hospital, tmp_path: Path) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    dataset = dcmread(path)
    send([path], hospital.node.address, calling_ae_title="TEST")
    hospital.wait(path)
    wait_for(lambda: counts(hospital.config).keys() <= {"delivered", "failed"})

    log = (hospital.folder / "log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    mine = [e for e in lines if e.get("sop_instance_uid") == dataset.SOPInstanceUID]
    names = [str(each) for each in hospital.folder.rglob("*")]
    # The journal may hold what an archive says of a patient; the spool surely does.
    assert (hospital.folder / "node").stat().st_mode & 0o077 == 0
    assert (hospital.folder / "node" / "node.sqlite").stat().st_mode & 0o077 == 0
    steps = [each["step"] for each in mine if "step" in each]
    assert steps == ["received", "analyzed", "delivered"]
    assert len({each["instance_id"] for each in mine}) == 1
    assert {each["role"] for each in mine} >= {"worker-0", "receiver"}
    for secret in (str(dataset.PatientName), dataset.PatientID):
        assert secret not in log
        assert not any(secret in name for name in names)
