"""The complete node: real processes, senders and archive."""

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
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, Stored, start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.metrics.counters import ANALYZED, DELIVERED, RECEIVED, MetricFamily
from dicom_node.outcome import Verdict
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine, reading, writing
from dicom_node.storage.tables import DeliveryState, delivered_object, delivery
from dicom_node.storage.tally import read
from inference.phantom.long_bone import draw_phantom
from tests.support.mutation_runs import phantoms as samples
from tests.support.mutations import Draft, Sample, closed, opened
from tests.support.node import (
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
from tests.support.raw_sender import raw_sender

pytestmark = pytest.mark.acceptance

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
    """Return settings of a node without the role api, because the api starts slowly."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(port=archive.port, api=0))
    return path


@pytest.fixture
def config_with_api(tmp_path: Path, archive: Archive) -> Path:
    """Return settings of a node with all roles."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(port=archive.port, api=1))
    return path


@dataclass(frozen=True, slots=True)
class Hospital:
    """A running node, its archive, and the folder of both."""

    node: Served
    archive: Archive
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    def wait(self, source: Path) -> Stored:
        """Wait for a result in the study of `source`, and return the first one."""
        study = dcmread(source).StudyInstanceUID
        found: list[Stored] = []

        def has_arrived() -> bool:
            log = self.archive.log
            found.extend(each for each in log if each.study_instance_uid == study)
            return bool(found)

        wait_for(has_arrived)
        return found[0]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Run and yield a node with an archive.

    Tests that tolerate the images of other tests share this node.
    """
    folder = tmp_path_factory.mktemp("hospital")
    archive = start_archive(folder / "archive")
    text = CONFIG.format(port=archive.port, api=1) + '[log]\nformat = "json"\n'
    (folder / "node.toml").write_text(text)
    with serving(folder / "node.toml") as node:
        yield Hospital(node, archive, folder)
    archive.stop()


def phantoms(folder: Path, count: int) -> list[Path]:
    """Write small phantoms; return their paths. Numbers 0, 2, 4, … are broken."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        drawn = draw_phantom(broken=number % 2 == 0, rows=300, columns=240, seed=number)
        paths.append(folder / f"{number}.dcm")
        phantom_dataset(drawn).save_as(paths[-1], enforce_file_format=True)
    return paths


def test_annotated_result_is_stored_in_the_study_of_the_radiograph(
    hospital: Hospital, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    address = hospital.node.address
    command = [
        peer("storescu"),
        "-aec",
        address.ae_title,
        address.host,
        str(address.port),
    ]

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
Damage = Callable[[Draft], None]


def unchanged(_draft: Draft) -> None:
    pass


def with_foreign_elements(draft: Draft) -> None:
    found = draft.find(0x00100020)
    assert found is not None
    draft.splice(found.start, found.start, JPEG)
    draft.splice(0, 0, COMMAND + JPEG)


def in_several_fragments(draft: Draft) -> None:
    """Split the frame into fragments, with one offset for each fragment.

    The standard requires one offset for each frame.
    """
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


NONCONFORMANT: list[tuple[int, Damage, str, str]] = [
    (0, unchanged, "1.2.7.0", "1.2.8.0"),
    (0, with_foreign_elements, "1.2.7.1", "1.2.8.1"),
    (1, with_foreign_elements, "1.2.7.2", "1.2.8.2"),
    (2, with_foreign_elements, "1.2.7.3", "1.2.8.3"),
    (2, in_several_fragments, "1.2.7.4", "1.2.8.4"),
    (0, unchanged, "1.2.7.5", LONG[:67]),
    (1, unchanged, LONG[:66], "1.02..8"),
]
"""(number of the phantom, change to it, SOP Instance UID, Study Instance UID)."""


@pytest.mark.filterwarnings("ignore:The value length")  # the sender's pydicom
def test_nonconformant_datasets_with_the_same_picture_get_the_same_answer(
    hospital: Hospital,
) -> None:
    plain = samples()
    sent: list[Sample] = []
    for number, damage, uid, study in NONCONFORMANT:
        draft = opened(plain[number], random.Random(0))
        draft.put("SOPInstanceUID", uid.encode())
        draft.put("StudyInstanceUID", study.encode())
        damage(draft)
        head = plain[number].syntax, plain[number].sop_class_uid
        sent.append(Sample(damage.__name__, *head, uid, closed(draft)))

    with raw_sender(hospital.node.address.port) as sender:
        answers = [sender.send(sample) for sample in sent]
    uids, studies = ([each[column] for each in NONCONFORMANT] for column in (2, 3))
    wait_for(
        lambda: [states(hospital.config, uid) for uid in uids] == [["delivered"]] * 7
    )

    assert [answer.status for answer in answers] == [0] * 7
    with history(hospital.config) as entries:
        rows = [entries.by_uid(uid)[0] for uid in uids]
    assert len({row.probability for row in rows}) == 1  # they are the same picture
    assert [row.study_instance_uid for row in rows] == studies
    delivered = {each.study_instance_uid for each in hospital.archive.log}
    assert delivered >= set(studies)


def test_same_picture_in_another_patient_or_study_gets_its_own_result(
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
def test_instance_that_dcmtk_sends_with_a_truncated_uid_has_its_full_uid(
    hospital: Hospital, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    draft = opened(samples()[0], random.Random(0))
    draft.put("SOPInstanceUID", LONG[:70].encode())
    path = tmp_path / "long.dcm"
    path.write_bytes(replace(samples()[0], dataset=closed(draft)).part10)
    address = hospital.node.address
    command = [
        peer("storescu"),
        "-aec",
        address.ae_title,
        address.host,
        str(address.port),
    ]

    subprocess.run([*command, path], check=True)

    wait_for(lambda: states(hospital.config, LONG[:70]) == ["delivered"])
    assert states(hospital.config, LONG[:64]) == []


@pytest.mark.postgresql
def test_node_works_on_postgresql_and_survives_its_restart(
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
            # A restart of the server ends all connections, as this does.
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


def test_image_that_decodes_too_slowly_fails_alone(
    hospital: Hospital, tmp_path: Path
) -> None:
    before, slow, after = phantoms(tmp_path / "phantoms", 3)
    made_slow(slow)

    outcomes = send(
        [before, slow, after], hospital.node.address, calling_ae_title="TEST"
    )
    hospital.wait(before)
    hospital.wait(after)
    uid = str(dcmread(slow, stop_before_pixels=True).SOPInstanceUID)
    wait_for(lambda: reasons(hospital.config, uid) != [""])

    (reason,) = reasons(hospital.config, uid)
    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert "longer than 1 s (decode_timeout_s" in reason
    assert counts(hospital.config)["failed"] == 1


def test_killed_node_ends_its_roles_and_loses_nothing(
    config_with_api: Path, archive: Archive, tmp_path: Path
) -> None:
    paths = phantoms(tmp_path / "phantoms", 10)
    with serving(config_with_api) as node:
        outcomes = send(paths[:8], node.address, calling_ae_title="TEST")
        archive.wait(3, timeout_s=PATIENCE_S)
        wait_for(lambda: recorded(config_with_api) != set())
        modules = ("dicom_node.receiver", "dicom_node.worker", "api")
        roles = [each for module in modules for each in node.roles(module)]
        node.kill()
        killed_at = datetime.now(UTC)
        wait_for(lambda: not any(alive(each) for each in roles))
        known = recorded(config_with_api)

        node.start()
        outcomes += send(paths[8:], node.address, calling_ae_title="TEST")
        wait_for(lambda: counts(config_with_api) == {"delivered": 10})

    log = archive.log
    by_uid = {each.sop_instance_uid: each.digest for each in log}
    studies = {each.study_instance_uid for each in log}
    repeats = Counter(each.sop_instance_uid for each in log)
    # The counters are correct, too, although the node was killed.
    assert counted(config_with_api) == {RECEIVED: 10, ANALYZED: 10, DELIVERED: 10}
    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert studies == {str(dcmread(path).StudyInstanceUID) for path in paths}
    assert len(by_uid) == 10
    assert len(roles) == 4
    # A repeated object has the same bytes. Only deliveries that were in progress when
    # the node was killed (at most two) may be repeated, not those that were recorded.
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
    """Return the UIDs of the results that the node has recorded as delivered."""
    engine = open_engine(load(config, {}).storage.database_url)
    arrived = delivered_object.c.state == DeliveryState.DELIVERED
    with reading(engine) as connection:
        query = sa.select(delivered_object.c.sop_instance_uid).where(arrived)
        uids = set(connection.execute(query).scalars())
    engine.dispose()
    return uids


def counted(config: Path) -> dict[MetricFamily, int]:
    """Return the counts of three metric families, summed over all labels."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        tallies = read(connection)
    engine.dispose()
    return {
        family: sum(each.times for each in tallies if each.name == family.name)
        for family in (RECEIVED, ANALYZED, DELIVERED)
    }


def test_waiting_results_arrive_within_seconds_after_an_archive_returns(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    archive.stop()
    paths = phantoms(tmp_path / "phantoms", 20)
    with serving(config) as node:
        send(paths, node.address, calling_ae_title="TEST")
        wait_for(lambda: sum(tried(config).values()) == 20)
        attempts = tried(config)
        log = (tmp_path / "log").read_text()
        restarted = start_archive(tmp_path / "back", port=archive.port)
        try:
            stored = restarted.wait(20, timeout_s=PATIENCE_S)
            wait_for(lambda: counts(config) == {"delivered": 20})
            scheduled = last_scheduled(config)
        finally:
            restarted.stop()

    times = sorted(datetime.fromisoformat(each.time) for each in stored)
    # The first success releases all other deliveries at once.
    assert (scheduled - times[0]).total_seconds() < 5
    # It takes 2 s on two idle cores; other tests may run beside this one.
    assert (times[-1] - times[0]).total_seconds() < 30
    # Of the 20 waiting deliveries, only the probes were tried more than once.
    assert sum((count - 1) * number for count, number in attempts.items()) < 8
    reason = f"ARCHIVE at 127.0.0.1:{archive.port} refuses the connection"
    assert log.count(f"WARNING Deliveries to archive fail: {reason}") == 1
    assert f" s: archive: 1 object: {reason}\n" in log


def tried(config: Path) -> Counter[int]:
    """Return the number of attempted deliveries by their number of attempts."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        found = connection.execute(sa.select(delivery.c.attempts)).scalars()
        counted = Counter(count for count in found if count)
    engine.dispose()
    return counted


def last_scheduled(config: Path) -> datetime:
    """Return the latest time for which an attempt was scheduled."""
    engine = open_engine(load(config, {}).storage.database_url)
    with reading(engine) as connection:
        found = connection.execute(sa.select(sa.func.max(delivery.c.next_at)))
        last = found.scalar_one()
    engine.dispose()
    return datetime.fromtimestamp(last, UTC)


def test_work_of_a_worker_that_no_longer_exists_is_taken_over(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    with serving(config) as node:
        wait_for(lambda: node.roles("dicom_node.worker") != [])
        (worker,) = node.roles("dicom_node.worker")
        freeze([worker], config)  # the worker starts no work
        (outcome,) = send([path], node.address, calling_ae_title="TEST")
        node.kill()
        with suppress(ProcessLookupError):  # usually it ended with the node
            os.kill(worker, signal.SIGKILL)
        engine = open_engine(load(config, {}).storage.database_url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE workflow_status SET status = 'PENDING', executor_id = 'local:7'"
            )
        engine.dispose()
        node.start()

        archive.wait(1, timeout_s=PATIENCE_S)

    assert outcome.verdict is Verdict.STORED


def freeze(processes: list[int], config: Path) -> None:
    """Stop processes of a node with SIGSTOP while none of them writes to the database.

    SQLite has one writer. If a process were stopped while it writes, no other process
    could write.
    """
    assert processes
    engine = open_engine(load(config, {}).storage.database_url)
    with writing(engine):
        for each in processes:
            os.kill(each, signal.SIGSTOP)
    engine.dispose()


@pytest.mark.parametrize("module", ["dicom_node.receiver", "dicom_node.worker", "api"])
def test_killed_role_is_restarted(
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


def test_sigterm_finishes_work_in_progress_and_keeps_the_rest(
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
    """Return the number of analyses that were started and have not ended."""
    engine = open_engine(load(config, {}).storage.database_url)
    rows = History(engine).recent(100)
    engine.dispose()
    return sum(row.state == "received" and row.attempts > 0 for row in rows)


def test_metrics_include_the_counts_of_all_processes(
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

    reason = "called AE title not recognized"
    wait_for(lambda: more("turnaround_seconds_count") == 1)
    wait_for(lambda: more("associations_rejected_total", reason=reason) == 1)
    wait_for(lambda: more("stage_seconds_count", stage="receive") == 1)
    for stage in ("wait", "decode", "classify", "encode"):
        assert more("stage_seconds_count", stage=stage) == 1
    assert more("instances_received_total") == 1
    assert more("delivery_seconds_count", destination="archive") == 1
    assert more("deliveries_delivered_total", destination="archive") == 1


def test_frozen_worker_makes_the_node_not_ready_but_not_the_api(
    hospital: Hospital,
) -> None:
    ports = json.loads((hospital.folder / "node" / "run" / "ports.json").read_text())
    address = f"http://127.0.0.1:{ports['api']}/readyz"
    wait_for(lambda: httpx.get(address, timeout=60).status_code == 200)
    workers = hospital.node.roles("dicom_node.worker")

    freeze(workers, hospital.config)
    try:
        wait_for(lambda: httpx.get(address, timeout=60).status_code == 503)
        frozen = httpx.get(address, timeout=60).json()
        api_only = httpx.get(f"{address}?role=api", timeout=60)
        figures = scraped(hospital)
    finally:
        for each in workers:
            os.kill(each, signal.SIGCONT)

    worker_reason = frozen.pop("worker")
    assert worker_reason.startswith("no worker has sent a heartbeat for ")
    assert set(frozen.values()) == {"ok"}
    assert api_only.status_code == 200
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
    own_lines = [
        e for e in lines if e.get("sop_instance_uid") == dataset.SOPInstanceUID
    ]
    names = [str(each) for each in hospital.folder.rglob("*")]
    # The spool holds patient data, and the journal can hold some.
    assert (hospital.folder / "node").stat().st_mode & 0o077 == 0
    assert (hospital.folder / "node" / "node.sqlite").stat().st_mode & 0o077 == 0
    steps = [each["step"] for each in own_lines if "step" in each]
    assert steps == ["received", "analyzed", "delivered"]
    assert len({each["instance_id"] for each in own_lines}) == 1
    assert {each["role"] for each in own_lines} >= {"worker-0", "receiver"}
    for secret in (str(dataset.PatientName), dataset.PatientID):
        assert secret not in log
        assert not any(secret in name for name in names)
