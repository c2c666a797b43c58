"""The receiver in its own process, with DCMTK's programs as modalities."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from blake3 import blake3
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from config.settings import load
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.network.sockets import listen
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import instance
from inference.phantom.long_bone import draw_phantom
from tests.support.databases import create_migrated
from tests.support.node import processor_s

pytestmark = [pytest.mark.integration, pytest.mark.dcmtk]
Find = Callable[[str], str]
PATIENCE_S = 60

# A receiver that records each instance in a file, and not in the journal.
STUB = """
import os, socket, sys
from pathlib import Path
from config.settings import load
from dicom_node.runtime.process import begin_role
from dicom_node.receiver.__main__ import run
from dicom_node.storage.spool import Spool

directory, fd, role = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = load(directory / "node.toml")
stop = begin_role(role, os.getppid())
record = os.open(directory / "record", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def accept(instance):
    line = f"{instance.id} {instance.header.sop_instance_uid}\\n"
    os.write(record, line.encode())
    os.fsync(record)

listening = socket.socket(fileno=fd)
run(settings.receiver, Spool(settings.storage), accept, {listening: None}, stop)
"""


@dataclass
class Process:
    """A listening socket, and the receiver processes that serve it."""

    directory: Path
    listening: socket.socket
    started: list[subprocess.Popen[bytes]]

    @property
    def address(self) -> list[str]:
        return [
            "-aec",
            "FRACTURE_AI",
            "127.0.0.1",
            str(self.listening.getsockname()[1]),
        ]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        number = self.listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", *command], pass_fds=[number], stderr=subprocess.PIPE
        )
        self.started.append(process)
        return process

    def start_stub(self, role: str = "receiver") -> subprocess.Popen[bytes]:
        number = str(self.listening.fileno())
        return self.start("-c", STUB, str(self.directory), number, role)

    def stored(self) -> list[Path]:
        return sorted((self.directory / "data" / "spool").glob("*.dcm"))

    def unfinished(self) -> list[Path]:
        return sorted((self.directory / "data" / "spool").glob("*.part"))

    def recorded(self) -> dict[str, str]:
        """Return the recorded SOP Instance UIDs by instance id."""
        lines = (self.directory / "record").read_text().splitlines()
        return dict(line.split(" ") for line in lines)


@contextmanager
def processes(directory: Path) -> Iterator[Process]:
    (directory / "node.toml").write_text("[storage]\nmin_free_mb = 0\n")
    with listen("127.0.0.1", 0) as listening:
        process = Process(directory, listening, [])
        yield process
        for each in process.started:
            each.kill()
            each.communicate()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A `Process` that has started no receiver, for tests that kill receivers."""
    with processes(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One receiver for all tests that do not kill it."""
    with processes(tmp_path_factory.mktemp("running")) as process:
        process.start_stub()
        yield process


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=300, columns=200))


def save(dataset: Dataset, path: Path) -> Path:
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    output = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, output
    return output


def test_echoscu_gets_a_success_response(running: Process, peer: Find) -> None:

    assert "Received Echo Response (Success)" in run(
        peer("echoscu"), "-v", *running.address
    )


@pytest.mark.parametrize(
    ("compress", "propose", "syntax"),
    [
        ([], "-xe", "1.2.840.10008.1.2.1"),
        ([], "-xb", "1.2.840.10008.1.2.2"),
        ([], "-xi", "1.2.840.10008.1.2"),
        ([], "-xd", "1.2.840.10008.1.2.1.99"),
        (["dcmcjpeg", "+e1"], "-xs", "1.2.840.10008.1.2.4.70"),
        (["dcmcjpeg", "+ee"], "-xx", "1.2.840.10008.1.2.4.51"),
        (["dcmcjpls"], "-xt", "1.2.840.10008.1.2.4.80"),
        (["dcmcjpls", "+en"], "-xu", "1.2.840.10008.1.2.4.81"),
        (["dcmcrle"], "-xr", "1.2.840.10008.1.2.5"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*retired")
def test_storescu_stores_in_nine_transfer_syntaxes(  # noqa: PLR0913, PLR0917
    running: Process,
    peer: Find,
    phantom: Dataset,
    tmp_path: Path,
    compress: list[str],
    propose: str,
    syntax: str,
) -> None:
    path = save(phantom, tmp_path / "image")
    sent = tmp_path / "sent"
    if compress:
        run(peer(compress[0]), *compress[1:], path, sent)
    else:
        run(peer("dcmconv"), f"+t{propose[2]}", path, sent)

    run(peer("storescu"), "-R", propose, *running.address, sent)

    expected = dcmread(sent)
    ids = {uid: id_ for id_, uid in running.recorded().items()}
    (stored,) = (
        dcmread(path)
        for path in running.stored()
        if path.stem == ids[expected.SOPInstanceUID]
    )
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored == expected


def test_storescu_gets_the_reason_of_a_refusal(
    running: Process, peer: Find, phantom: Dataset, tmp_path: Path
) -> None:
    path = save(phantom, tmp_path / "image")
    broken = dcmread(path)
    broken.Rows = 4000
    broken.save_as(path)

    output = subprocess.run(
        [peer("storescu"), "-d", *running.address, path],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )

    text = (output.stdout + output.stderr).decode()
    assert "0xc000" in text
    assert "1600000 are declared" in text


def test_killed_receiver_has_complete_files_of_all_acknowledged_instances(
    process: Process, peer: Find, phantom: Dataset, tmp_path: Path
) -> None:
    receiver = process.start_stub()
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(80):
        save(phantom, folder / str(number))
    with subprocess.Popen(
        [peer("storescu"), "-v", "+sd", *process.address, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as sender:
        assert sender.stdout
        lines = []
        for line in sender.stdout:
            lines.append(line.decode())
            if lines.count("I: Received Store Response (Success)\n") == 10:
                receiver.kill()
    acknowledged = lines.count("I: Received Store Response (Success)\n")
    sent = [
        dcmread(re.sub("^I: Sending file: ", "", line).strip()).SOPInstanceUID
        for line in lines
        if line.startswith("I: Sending file")
    ]

    assert 10 <= acknowledged < 80
    recorded = process.recorded()
    assert set(sent[:acknowledged]) <= set(recorded.values())
    whole = {path.stem: dcmread(path).SOPInstanceUID for path in process.stored()}
    assert recorded.items() <= whole.items()

    process.start_stub()  # removes the unfinished files of the killed receiver
    run(peer("echoscu"), *process.address)
    assert process.unfinished() == []


def test_connection_waits_on_the_socket_until_a_receiver_starts(
    process: Process, peer: Find
) -> None:
    with subprocess.Popen(
        [peer("echoscu"), "-v", *process.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as waiting:  # no receiver runs yet; the supervisor owns the socket
        process.start_stub()

        assert waiting.wait(PATIENCE_S) == 0
        assert waiting.stdout
        assert b"Received Echo Response (Success)" in waiting.stdout.read()


def test_two_receivers_share_a_socket_and_one_can_be_killed(
    process: Process, peer: Find, phantom: Dataset, tmp_path: Path
) -> None:
    first, _ = process.start_stub("one"), process.start_stub("two")
    path = save(phantom, tmp_path / "image")
    run(peer("storescu"), *process.address, path)

    first.kill()
    first.wait()

    for _ in range(5):
        run(peer("storescu"), *process.address, path)
    assert len(process.stored()) == 6


def test_sigterm_lets_an_association_finish_and_exits_with_0(
    process: Process, peer: Find, tmp_path: Path
) -> None:
    receiver = process.start_stub()
    folder = large_images(tmp_path, 1)
    sender = subprocess.Popen(
        [peer("storescu"), "-v", "--repeat", "5", *process.address, *folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert sender.stdout
    while b"Received Store Response" not in sender.stdout.readline():
        pass

    receiver.send_signal(signal.SIGTERM)
    output, _ = sender.communicate(timeout=PATIENCE_S)

    assert sender.returncode == 0
    assert output.count(b"Received Store Response (Success)") == 4
    assert receiver.wait(PATIENCE_S) == 0
    assert len(process.stored()) == 5


def large_images(folder: Path, count: int) -> list[Path]:
    """Save radiographs of 2,500 x 2,500 pixels, 12.5 MB each; return their paths."""
    dataset = phantom_dataset(draw_phantom(broken=True, rows=120, columns=90))
    dataset.Rows = dataset.Columns = 2500
    noise = np.random.default_rng(0).integers(0, 4096, (2500, 2500), np.uint16)
    dataset.PixelData = noise.tobytes()
    return [save(dataset, folder / f"large-{number}") for number in range(count)]


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


@pytest.mark.alone
def test_16_transfers_of_12_mb_add_less_than_one_image_to_the_real_receiver(
    process: Process, peer: Find, tmp_path: Path
) -> None:
    settings = load(tmp_path / "node.toml")
    create_migrated(settings.storage)
    config = f"--config={tmp_path / 'node.toml'}"
    number = process.listening.fileno()
    receiver = process.start("-m", "dicom_node.receiver", config, f"--fd={number}")
    run(peer("echoscu"), *process.address)
    idle = peak_mb(receiver)
    senders = [
        subprocess.Popen([peer("storescu"), *process.address, path])
        for path in large_images(tmp_path, 16)
    ]

    assert [sender.wait(PATIENCE_S) for sender in senders] == [0] * 16
    assert peak_mb(receiver) - idle < 12
    engine = open_engine(settings.storage.database_url)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(instance)).all()
    engine.dispose()
    assert {row.id for row in rows} == {path.stem for path in process.stored()}
    assert len(rows) == 16
    for row in rows:
        content = process.directory.joinpath("data", row.path).read_bytes()
        digest = blake3(content[-row.size :]).hexdigest()
        assert digest == row.content_digest


@pytest.mark.alone
def test_idle_associations_use_almost_no_processor_time(
    running: Process,
) -> None:
    (receiver,) = running.started
    with subprocess.Popen(
        [sys.executable, "-c", IDLE, running.address[-1]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as modality:
        assert modality.stdout
        assert modality.stdout.readline() == b"20\n"
        before = processor_s(receiver.pid)
        with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
            modality.wait(2)

        used = processor_s(receiver.pid) - before

        modality.communicate()
    # pynetdicom alone takes half a processor for 20 idle associations.
    assert used < 0.3


IDLE = """
import sys
from pynetdicom import AE

ae = AE()
ae.add_requested_context("1.2.840.10008.1.1")
port = int(sys.argv[1])
opened = [ae.associate("127.0.0.1", port, ae_title="FRACTURE_AI") for _ in range(20)]
print(sum(each.is_established for each in opened), flush=True)
sys.stdin.read()
for each in opened:
    each.abort()
"""
