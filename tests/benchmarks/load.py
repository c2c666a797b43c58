"""`make bench`: a whole node under load.

First, several senders send as fast as they get responses. The rate is the number of
images per second until the last result is stored. Then one sender sends at four fifths
of this rate for some minutes, to see whether the age of the oldest queued instance
grows. Each instance is a DX image of 12.5 MB. The archive and the senders run on the
same machine.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from pydicom import Dataset

from config.destinations import Address
from config.settings import load
from dicom_node.commands.node import Node
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.demo import CONFIG
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.log.format import configure_logging
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.tables import InstanceState, instance
from inference.phantom.long_bone import draw_phantom
from tests.benchmarks.compare import CALLING, SIDE, address, fresh, say
from tests.benchmarks.figures import peak_mb

SENDERS, IMAGES = 4, 300
SHARE, MINUTES = 0.8, 5
MAX_LATE_S = 5  # delay of the sender at the end
LOOK_EVERY_S = 1.0


def main() -> None:
    """Measure the node under load, and print the figures."""
    configure_logging("bench")
    dataset = phantom_dataset(draw_phantom(broken=True, rows=SIDE, columns=SIDE))
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name)) as (
            node,
            archive,
            engine,
        ),
    ):
        folder, where = Path(name), address("FRACTURE_AI", node.receiver_port)
        send([fresh(dataset, folder / "first.dcm")], where, **CALLING)
        archive.wait(1, timeout_s=120)
        rate = sustained(dataset, folder, where, archive)
        steady(dataset, folder, where, engine, rate * SHARE)
        for role in node.roles:
            if role.pid:
                say(f"peak memory, {role.process.name}: {peak_mb(role.pid):.0f} MB")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Node, Archive, sa.Engine]]:
    """Run a node and its archive; yield (node, archive, engine of the journal)."""
    archive = start_archive(folder / "archive")
    config = folder / "node.toml"
    config.write_text(CONFIG.format(receiver=0, api=0, archive=archive.port))
    settings = load(config)
    with Node(settings, config) as node, node.watched():
        engine = open_engine(settings.storage.database_url)
        yield node, archive, engine
        engine.dispose()
    archive.stop()


def sustained(
    dataset: Dataset, folder: Path, where: Address, archive: Archive
) -> float:
    """Send images as fast as possible; print and return the images per second.

    The measurement ends when the archive has stored the last result.
    """
    paths = [fresh(dataset, folder / f"{n}.dcm") for n in range(IMAGES)]
    known, start = len(archive.log), time.perf_counter()
    senders = [
        threading.Thread(target=send, args=(paths[n::SENDERS], where), kwargs=CALLING)
        for n in range(SENDERS)
    ]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    sent = time.perf_counter() - start
    archive.wait(known + IMAGES, timeout_s=1200)
    rate = IMAGES / (time.perf_counter() - start)
    for path in paths:
        path.unlink()
    say(
        f"{IMAGES} images from {SENDERS} senders: {rate:.2f} images/s until the last "
        f"result is stored, {IMAGES / sent:.1f} images/s received"
    )
    return rate


def steady(
    dataset: Dataset, folder: Path, where: Address, engine: sa.Engine, rate: float
) -> None:
    """Send at a fixed rate for MINUTES minutes, and print how long instances wait.

    The printed ages are those of the oldest instance without a finished analysis.
    `rate` is in images per second. If the sender is more than MAX_LATE_S seconds late
    at the end, the program exits.
    """
    finished, ages = threading.Event(), list[float]()

    def sample_ages() -> None:
        while not finished.wait(LOOK_EVERY_S):
            ages.append(oldest_s(engine))

    sampler = threading.Thread(target=sample_ages)
    sampler.start()
    start, count = time.perf_counter(), round(rate * MINUTES * 60)
    for number in range(count):
        path = fresh(dataset, folder / "next.dcm")
        time.sleep(max(start + number / rate - time.perf_counter(), 0))
        send([path], where, **CALLING)
    late = time.perf_counter() - start - count / rate
    finished.set()
    sampler.join()
    if late > MAX_LATE_S:
        sys.exit(f"the sender itself was {late:.0f} s late")
    fifth = len(ages) // 5
    words = ", ".join(
        f"{statistics.mean(ages[n * fifth : (n + 1) * fifth]):.2f}" for n in range(5)
    )
    say(
        f"{count} images at {rate:.2f}/s for {MINUTES} minutes: age of the oldest in "
        f"the queue, mean of each fifth: {words} s, longest {max(ages):.1f} s"
    )


def oldest_s(engine: sa.Engine) -> float:
    """Return the age in seconds of the oldest instance without a finished analysis.

    If there is no such instance, the age is 0.
    """
    query = sa.select(sa.func.min(instance.c.received_at)).where(
        instance.c.state == InstanceState.RECEIVED
    )
    with reading(engine) as connection:
        at = connection.execute(query).scalar_one()
    return 0.0 if at is None else max(time.time() - at, 0.0)


if __name__ == "__main__":
    main()
