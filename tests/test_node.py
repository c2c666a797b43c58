"""The whole node as a hospital runs it: real processes, senders and archive."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from config.settings import Destination, load
from dicom_node.archive import Archive, start_archive
from dicom_node.database import open_engine
from dicom_node.history import History
from dicom_node.outcome import Verdict
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.sender import echo, send
from inference.phantom import draw_phantom

START = (sys.executable, "-P", "-m", "dicom_node.supervisor")
START_S = 60.0
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
processes = 2
[storage]
directory = "node"
min_free_mb = 1
[api]
port = 0
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""


class Served:
    """A node in processes of its own; may be killed and started again."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._ports = config.parent / "node" / "run" / "ports.json"

    def start(self) -> None:
        self._ports.unlink(missing_ok=True)
        with (self._config.parent / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*START, f"--config={self._config}"], stderr=log
            )
        wait_for(lambda: self._ports.exists() and self._ports.read_text() != "")
        self.address = Destination(
            name="node",
            type="dicom",
            ae_title="FRACTURE_AI",
            host="127.0.0.1",
            port=json.loads(self._ports.read_text())["receiver"],
        )
        wait_for(self._echoes)

    def kill(self) -> None:
        """Kill the supervisor; the kernel takes the roles with it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def roles(self, module: str) -> list[int]:
        """Process ids of a role."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if module.encode() in words and int(parent) == self.process.pid:
                found.append(int(entry.name))
        return found

    def _echoes(self) -> bool:
        outcome = echo(self.address, calling_ae_title="TEST")
        return outcome.verdict is Verdict.STORED


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again and again, since a process of its own can only be asked."""
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def config(tmp_path: Path, archive: Archive) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(port=archive.port))
    return path


@contextmanager
def serving(config: Path) -> Iterator[Served]:
    node = Served(config)
    node.start()
    try:
        yield node
    finally:
        node.kill()


def phantoms(folder: Path, count: int) -> list[Path]:
    """Write small phantoms, every other one broken."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        drawn = draw_phantom(broken=number % 2 == 0, rows=300, columns=240, seed=number)
        paths.append(folder / f"{number}.dcm")
        phantom_dataset(drawn).save_as(paths[-1], enforce_file_format=True)
    return paths


def counts(config: Path) -> dict[str, int]:
    """How many instances are in each state."""
    engine = open_engine(load(config, {}).storage.database_url)
    try:
        return History(engine).counts()
    finally:
        engine.dispose()


def test_a_radiograph_comes_back_annotated_in_its_study(
    config: Path, archive: Archive, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    with serving(config) as node:
        address = [node.address.host, str(node.address.port)]
        subprocess.run(
            [peer("storescu"), "-aec", "FRACTURE_AI", *address, str(path)], check=True
        )
        (stored,) = archive.wait(1, timeout_s=60)
        wait_for(lambda: counts(config) == {"delivered": 1})
        status = node.stop()

    source, result = dcmread(path), dcmread(archive.directory / stored.path)
    assert result.StudyInstanceUID == source.StudyInstanceUID
    assert result.PatientID == source.PatientID
    assert result.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert result.pixel_array.ndim == 3
    assert status == 0


def test_a_node_that_is_killed_at_its_work_loses_nothing(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    paths = phantoms(tmp_path / "phantoms", 50)
    with serving(config) as node:
        outcomes = send(paths[:30], node.address, calling_ae_title="TEST")
        archive.wait(5, timeout_s=60)
        node.kill()
        killed_at = time.time()

        node.start()
        outcomes += send(paths[30:], node.address, calling_ae_title="TEST")
        wait_for(lambda: counts(config) == {"delivered": 50})

    log = archive.log
    by_uid = {each.sop_instance_uid: each.digest for each in log}
    studies = {each.study_instance_uid for each in log}
    repeats = Counter(each.sop_instance_uid for each in log)
    assert {each.verdict for each in outcomes} == {Verdict.STORED}
    assert studies == {str(dcmread(path).StudyInstanceUID) for path in paths}
    assert len(by_uid) == 50
    # A repeat is the same object to the last byte, and only what was on its way when
    # the node was killed may be repeated: two deliveries at once.
    assert all(each.digest == by_uid[each.sop_instance_uid] for each in log)
    assert sum(count - 1 for count in repeats.values()) <= 2, killed_at


@pytest.mark.parametrize("module", ["dicom_node.receiver", "dicom_node.worker", "api"])
def test_a_role_that_is_killed_comes_back(
    config: Path, archive: Archive, tmp_path: Path, module: str
) -> None:
    with serving(config) as node:
        before = node.roles(module)
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: not set(node.roles(module)) <= set(before))
        wait_for(lambda: len(node.roles(module)) == len(before))

        outcomes = send(
            phantoms(tmp_path / "phantoms", 1), node.address, calling_ae_title="TEST"
        )
        archive.wait(1, timeout_s=60)

    assert [each.verdict for each in outcomes] == [Verdict.STORED]


def test_no_role_outlives_its_supervisor(config: Path) -> None:
    with serving(config) as node:
        roles = [
            *node.roles("dicom_node.receiver"),
            *node.roles("dicom_node.worker"),
            *node.roles("api"),
        ]
        node.kill()

        wait_for(lambda: not any(alive(each) for each in roles))

    assert len(roles) == 4


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sigterm_lets_what_is_under_way_finish(config: Path, tmp_path: Path) -> None:
    paths = phantoms(tmp_path / "phantoms", 12)
    with serving(config) as node:
        sent: list[Verdict] = []
        started = threading.Event()

        def sending() -> None:
            outcomes = send(
                paths,
                node.address,
                calling_ae_title="TEST",
                on_outcome=lambda *_: started.set(),
            )
            sent.extend(each.verdict for each in outcomes)

        sender = threading.Thread(target=sending)
        sender.start()
        started.wait(START_S)
        status = node.stop()
        sender.join()

    assert status == 0
    assert sent == [Verdict.STORED] * 12
    assert sum(counts(config).values()) == 12


def test_no_patient_data_in_the_logs(
    config: Path, archive: Archive, tmp_path: Path
) -> None:
    (path,) = phantoms(tmp_path / "phantoms", 1)
    dataset = dcmread(path)
    with serving(config) as node:
        send([path], node.address, calling_ae_title="TEST")
        archive.wait(1, timeout_s=60)
        wait_for(lambda: counts(config) == {"delivered": 1})
        node.stop()

    log = (tmp_path / "log").read_text()
    names = [str(each) for each in tmp_path.rglob("*")]
    assert str(dataset.SOPInstanceUID) in log
    for secret in (str(dataset.PatientName), dataset.PatientID):
        assert secret not in log
        assert not any(secret in name for name in names)
