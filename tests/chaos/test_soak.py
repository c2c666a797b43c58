"""Memory, threads, files and rows hardly grow in twenty minutes of mixed traffic.

The first five minutes are a warm-up and do not count.
"""

import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest
import sqlalchemy as sa

from config.settings import load
from dicom_node.delivery.c_store import echo
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.tables import metadata
from tests.chaos.night import MODULES, Night, mixed, push
from tests.support.node import Served

pytestmark = pytest.mark.soak

SOAK_S = 20 * 60
WARM_UP_S = 5 * 60
SAMPLE_S = 10
# In days: finished instances are removed after a minute, and their rows after two.
MINUTE = 1 / 1440
RETENTION = f"""
[retention]
delivered_days = {MINUTE:.6f}
failed_days = {MINUTE:.6f}
journal_days = {2 * MINUTE:.6f}
audit_days = {2 * MINUTE:.6f}
"""


class Gauge:
    """The resources that one process uses, one value for each sample."""

    def __init__(self) -> None:
        self.memory_mb: list[float] = []
        self.threads: list[int] = []
        self.files: list[int] = []

    def read(self, pid: int) -> None:
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        self.memory_mb.append(int(status["VmRSS"].split()[0]) / 1000)
        self.threads.append(int(status["Threads"]))
        self.files.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))


def test_resources_of_the_node_do_not_grow_in_twenty_minutes(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sources = mixed(night.folder / "sent", 400)
    archive, api_port = night.archive(), new_port()
    night.settings({"archive": archive.port}, (new_port(), api_port))
    night.config.write_text(night.config.read_text() + RETENTION)
    node = night.start()
    over = threading.Event()
    works = [sending(node, list(sources.paths.values())), probing(node, api_port)]
    threads = [threading.Thread(target=work, args=(over,)) for work in works]
    for each in threads:
        each.start()

    gauges = {name: Gauge() for name in MODULES}
    disk: list[tuple[int, int]] = []
    start = time.monotonic()
    while time.monotonic() - start < SOAK_S:
        over.wait(SAMPLE_S)
        for name, module in MODULES.items():
            (pid,) = node.roles(module)
            gauges[name].read(pid)
        disk.append((files_in(night.folder / "node"), rows_of(night)))
    over.set()
    for each in threads:
        each.join()

    warm = WARM_UP_S // SAMPLE_S
    for name, gauge in gauges.items():
        growth = grown(gauge.memory_mb[warm:])
        seen(f"soak, {name}: {gauge.memory_mb[-1]:.0f} MB, {growth:+.1%};")
        seen(f"  threads {gauge.threads[warm]} to {gauge.threads[-1]}, files")
        seen(f"  {gauge.files[warm]} to {gauge.files[-1]}")
    seen(f"soak: files on disk and rows {disk[warm]} to {disk[-1]}")
    seen(f"  {len(archive.log)} results, {night.counts()}")
    for gauge in gauges.values():
        assert grown(gauge.memory_mb[warm:]) < 0.05
        assert grown(gauge.threads[warm:]) < 0.25
        assert grown(gauge.files[warm:]) < 0.25
    assert grown([files for files, _ in disk[warm:]]) < 0.25
    assert grown([rows for _, rows in disk[warm:]]) < 0.25
    assert night.tracebacks() == 0


def grown(values: list[int] | list[float]) -> float:
    """Return the relative growth from the first quarter of the values to the last.

    The medians of both quarters are compared. 0 means no growth.
    """
    quarter = len(values) // 4
    first, last = sorted(values[:quarter]), sorted(values[-quarter:])
    return last[quarter // 2] / first[quarter // 2] - 1


def sending(node: Served, paths: list[Path]) -> Callable[[threading.Event], None]:
    """Return a function that sends the instances repeatedly, at random intervals.

    The function ends when its argument, an event, is set.
    """
    chance = random.Random(1)

    def send(over: threading.Event) -> None:
        fresh = iter(paths * 100)
        while not over.wait(chance.uniform(0.1, 1.5)):
            push(next(fresh), node)

    return send


def probing(node: Served, api_port: int) -> Callable[[threading.Event], None]:
    """Return a function that connects as load balancers, monitors and scanners do.

    The function repeats this until its argument, an event, is set.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    receiver = (node.address.host, node.address.port)

    def probe(over: threading.Event) -> None:
        while not over.wait(0.3):
            echo(node.address, calling_ae_title="MONITOR")
            socket.create_connection(receiver).close()
            with socket.create_connection(receiver) as scanner:
                scanner.sendall(b"GET / HTTP/1.1\r\n\r\n")
            for page in ("readyz", "metrics", ""):
                with suppress(HTTPError):  # a 503 of /readyz while the model loads
                    opener.open(f"http://127.0.0.1:{api_port}/{page}").read()

    return probe


def files_in(folder: Path) -> int:
    return sum(1 for each in folder.rglob("*") if each.is_file())


def rows_of(night: Night) -> int:
    """Return the number of rows in all tables of the node, without those of DBOS."""
    engine = open_engine(load(night.config, {}).storage.database_url)
    count = sa.select(sa.func.count())
    with reading(engine) as connection:
        tables = metadata.sorted_tables
        counts = [connection.scalar(count.select_from(each)) or 0 for each in tables]
    engine.dispose()
    return sum(counts)
