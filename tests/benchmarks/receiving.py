"""`make bench`: compare the receivers of the node with storescp of DCMTK.

storescp forks and does not fsync. Each sender is a storescu process of DCMTK that sends
its share of the instances over one association. The node runs two receivers, which
fsync and record each instance. A node runs for months, so the node and storescp receive
some instances before the measurement. There is no analysis, so that the machine only
receives. The node and storescp are measured in turn, several times. The output has the
medians.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import generate_uid

from config.destinations import Address
from config.settings import load
from dicom_node.commands.node import DRAIN_S
from dicom_node.commands.role_modules import RECEIVER
from dicom_node.delivery.c_store import echo
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.log.format import configure_logging
from dicom_node.network.sockets import listen
from dicom_node.outcome import Verdict
from dicom_node.receiver.ports import FD
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.heartbeat_rows import alive_workers
from dicom_node.storage.migration import migrate
from inference.phantom.long_bone import draw_phantom
from tests.benchmarks.compare import say

STORESCU, STORESCP = "/usr/bin/storescu", "/usr/bin/storescp"
ASSOCIATIONS = 1, 4, 16, 64
PAIRS = 5
SETTLED_S = 1.0  # from the first heartbeat until a receiver listens
# Instances per run by image side: images of 12.5 MB and of 0.5 MB.
SIZES = {2500: 64, 500: 128}
FIRST = 8  # instances before the measurement, one per association
TITLE = "FRACTURE_AI"
SETTINGS = """
[receiver]
ae_title = "FRACTURE_AI"
max_associations = 100
max_associations_per_caller = 100

[storage]
directory = "node"
min_free_mb = 1
"""

Way = Callable[[Path], AbstractContextManager[int]]


def main() -> None:
    """Print a row for each image size and number of associations."""
    configure_logging("bench")
    say(f"{'receiving, MB/s':<44}{'ours':>10}{'storescp':>10}{'ratio':>8}")
    for side, count in SIZES.items():
        dataset = phantom_dataset(draw_phantom(broken=True, rows=side, columns=side))
        for senders in ASSOCIATIONS:
            with tempfile.TemporaryDirectory() as name:
                compare(Path(name), dataset, senders, count)


def compare(folder: Path, dataset: Dataset, senders: int, count: int) -> None:
    """Send instances alternately to the node and to storescp, and print a row.

    Each time, `count` instances are sent over `senders` associations.
    """
    first = written(dataset, folder / "first", FIRST, FIRST)
    shares = written(dataset, folder / "sent", senders, count)
    pairs = [
        [seconds(way, folder, first, shares) for way in (node_receivers, storescp)]
        for _ in range(PAIRS)
    ]
    megabytes = dataset.Rows * dataset.Columns * 2 * count / 1e6
    first, second = (megabytes / statistics.median(s) for s in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    words = f"{megabytes / count:.1f} MB, {senders} associations"
    say(f"{words:<44}{first:>10.0f}{second:>10.0f}{ratio:>7.2f}x")


def written(dataset: Dataset, folder: Path, senders: int, count: int) -> list[Path]:
    """Distribute `count` new instances to `senders` folders; return the folders."""
    for number in range(count):
        share = folder / str(number % senders)
        share.mkdir(parents=True, exist_ok=True)
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(share / f"{number}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def seconds(
    way: Way, folder: Path, first: Sequence[Path], shares: Sequence[Path]
) -> float:
    """Return the seconds in which the node or storescp receives the files in `shares`.

    `way` runs the node or storescp, and yields the port. The files in `first` are sent
    before the measurement. `shares` and `first` have one folder for each association.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name, way(Path(name)) as port:
        send(port, first)
        start = time.perf_counter()
        send(port, shares)
        return time.perf_counter() - start


def send(port: int, shares: Sequence[Path]) -> None:
    """Send the files of each folder over an association, all folders at the same time.

    If a sender fails, the program exits.
    """
    call = [STORESCU, "-R", "+sd", "-aec", TITLE, "127.0.0.1", str(port)]
    senders = [subprocess.Popen([*call, str(share)]) for share in shares]
    if any(codes := [each.wait() for each in senders]):
        sys.exit(f"senders failed: {codes}")


@contextmanager
def node_receivers(folder: Path) -> Iterator[int]:
    """Run two receivers that share a port; yield the port."""
    config = folder / "node.toml"
    config.write_text(SETTINGS)
    migrate(load(config, {}).storage)
    with listen("127.0.0.1", 0) as listening:
        arguments = [f"--config={config}"]
        server = RoleServer.start(secrets=())
        pids = [
            server.fork_role(
                RoleProcess(f"receiver-{n}", RECEIVER, arguments, [FD]),
                [listening.fileno()],
            )
            for n in range(2)
        ]
        engine = open_engine(load(config, {}).storage.database_url)
        while count_receivers(engine) < len(pids):
            time.sleep(0.05)
        engine.dispose()
        time.sleep(SETTLED_S)
        yield listening.getsockname()[1]
        for pid in pids:
            server.terminate(pid)
            server.end(pid, DRAIN_S)
        server.close()


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """Run storescp with one process for each association; yield its port.

    The received files are written to `folder`.
    """
    with listen("127.0.0.1", 0) as free:
        port: int = free.getsockname()[1]
    options = ["--fork", "-pdu", "131072", "-aet", TITLE, "-od", str(folder)]
    acceptor = subprocess.Popen([STORESCP, *options, str(port)])
    wait_for_echo(port)
    yield port
    acceptor.terminate()
    acceptor.wait()


def count_receivers(engine: sa.Engine) -> int:
    """Return the number of receivers that send heartbeats."""
    with reading(engine) as connection:
        return len(alive_workers(connection, "receiver"))


def wait_for_echo(port: int) -> None:
    """Wait until the Storage SCP on a port responds to C-ECHO."""
    address = Address(ae_title=TITLE, host="127.0.0.1", port=port)
    while echo(address, calling_ae_title="BENCH").verdict is not Verdict.STORED:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
