"""`make scaling`: images per second with 1 to 8 workers, and the load on the database.

Each analysis is a fixed sleep, so that two cores can run eight workers. This measures
whether the queue, the journal and the deliveries slow down the workers. There are one
PostgreSQL server, which fsyncs, and one archive. PostgreSQL counts the statements and
their milliseconds (pg_stat_statements). The load of idle workers is subtracted.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from config.settings import Settings, load
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import migrate
from dicom_node.storage.spool import Spool

WORKERS = 1, 2, 4, 8
SLEEP_S = 2.0
EACH = 40  # instances per worker
IDLE_S = 10.0
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SETTINGS = """
[storage]
directory = "node"
min_free_mb = 1
database = "{database}"

[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""


@dataclass(frozen=True, slots=True)
class DatabaseLoad:
    """The load on PostgreSQL.

    Attributes:
        statements: Number of statements.
        transactions: Number of committed transactions.
        ms: Time that the statements took, in milliseconds.
    """

    statements: int
    transactions: int
    ms: float

    def __sub__(self, other: "DatabaseLoad") -> "DatabaseLoad":
        return DatabaseLoad(
            self.statements - other.statements,
            self.transactions - other.transactions,
            self.ms - other.ms,
        )

    def over(self, divisor: float) -> "DatabaseLoad":
        """Return the load divided by `divisor`, a number of seconds or of images.

        The numbers of statements and transactions are rounded.
        """
        statements = round(self.statements / divisor)
        return DatabaseLoad(
            statements, round(self.transactions / divisor), self.ms / divisor
        )


def main() -> None:
    """Print a row of measurements for each number of workers."""
    say(f"analysis: a sleep of {SLEEP_S:.0f} s. Of an image: statements, commits, ms;")
    say("idle: statements and ms a second; connections of all workers and this program")
    say("workers  images/s  of linear    image             idle        connections")
    first = 0.0
    for count in WORKERS:
        with tempfile.TemporaryDirectory(prefix="scaling-") as name:
            rate, image, idle, connections = measured(Path(name), count)
        first = first or rate
        say(
            f"{count:>7}  {rate:>8.2f}  {rate / first / count:>9.2f}"
            f"  {image.statements:>4}{image.transactions:>4}{image.ms:>6.1f} ms"
            f"  {idle.statements:>4}{idle.ms:>6.1f} ms  {connections:>10}"
        )


def measured(folder: Path, count: int) -> tuple[float, DatabaseLoad, DatabaseLoad, int]:
    """Measure `count` workers.

    Returns:
        Images per second, the additional load of an image, the load in an idle second,
            and the number of connections to the database.
    """
    with ExitStack() as stack:
        database = stack.enter_context(serving(folder))
        archive = start_archive(folder / "archive")
        stack.callback(archive.stop)
        config = folder / "node.toml"
        config.write_text(SETTINGS.format(database=database, port=archive.port))
        settings = load(config, {})
        migrate(settings.storage)
        stack.enter_context(working(config, count))
        before = database_load(database)
        time.sleep(IDLE_S)
        idle = (database_load(database) - before).over(IDLE_S)
        before, images = database_load(database), count * EACH
        seconds = analyzed(settings, archive, images)
        busy = database_load(database) - before
        while_idle = DatabaseLoad(
            round(idle.statements * seconds),
            round(idle.transactions * seconds),
            idle.ms * seconds,
        )
        image = (busy - while_idle).over(images)
        return images / seconds, image, idle, connections(database)


def analyzed(settings: Settings, archive: Archive, images: int) -> float:
    """Record `images` instances in the journal, which queues their analyses.

    Returns:
        The seconds until the archive has the last result.
    """
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    spool = Spool(settings.storage)
    arrived = [instance(spool) for _ in range(images)]
    start = time.monotonic()
    for each in arrived:
        journal.record(each)
    archive.wait(images, timeout_s=600)
    seconds = time.monotonic() - start
    engine.dispose()
    return seconds


def instance(spool: Spool) -> ReceivedInstance:
    """Return a new received instance with an empty file."""
    identity = uuid4().hex
    spool.path(identity).touch()
    dx, plain = DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
    return ReceivedInstance(
        id=identity,
        path=spool.path(identity),
        header=InstanceHeader(dx, generate_uid(), plain, generate_uid()),
        content_digest=identity,
        size=0,
        calling_ae_title="BENCH",
        calling_address="127.0.0.1",
        received_at=datetime.now(UTC),
    )


@contextmanager
def working(config: Path, count: int) -> Iterator[None]:
    """Run `count` workers during the block. All are ready when the block starts."""
    module = "tests.benchmarks.sleeping_worker"
    command = [sys.executable, "-m", module, str(SLEEP_S), f"--config={config}"]
    processes, logs = [], []
    for slot in range(count):
        log = config.parent / f"worker-{slot}.log"
        with log.open("w") as file:
            started = subprocess.Popen([*command, f"--slot={slot}"], stderr=file)
        processes.append(started)
        logs.append(log)
    try:
        while not all("Ready" in each.read_text() for each in logs):
            if any(each.poll() is not None for each in processes):
                sys.exit("a worker ended: " + "".join(e.read_text() for e in logs))
            time.sleep(0.1)
        yield
    finally:
        for each in processes:
            each.terminate()
        for each in processes:
            each.wait()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server that counts statements; yield its URL."""
    owner = "postgres" if os.geteuid() == 0 else None
    home = folder / "postgresql"
    home.mkdir()
    folder.chmod(0o755)
    if owner:
        shutil.chown(home, owner, owner)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [BINARIES[0] / program, "-D", home / "data", *arguments],
            user=owner,
            group=owner,
            extra_groups=None if owner is None else [],
            cwd="/",
            stdout=subprocess.DEVNULL,
            check=True,
        )

    run("initdb", "-U", "postgres", "--auth=trust", "--no-sync")
    options = (
        f"-c listen_addresses= -c unix_socket_directories={home} "
        "-c shared_preload_libraries=pg_stat_statements "
        "-c pg_stat_statements.track_utility=off"
    )
    run("pg_ctl", "-l", str(home / "log"), "--wait", "-o", options, "start")
    url = f"postgresql://postgres@/postgres?host={home}"
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        yield url
    finally:
        run("pg_ctl", "--mode=immediate", "stop")


def database_load(database: str) -> DatabaseLoad:
    """Return the load that PostgreSQL has counted since its start."""
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT sum(calls)::bigint, sum(total_exec_time) FROM pg_stat_statements"
        ).fetchone()
        commits = connection.execute(
            "SELECT sum(xact_commit)::bigint FROM pg_stat_database"
        ).fetchone()
    assert row is not None
    assert commits is not None
    return DatabaseLoad(row[0], commits[0], row[1])


def connections(database: str) -> int:
    """Return the number of connections, without the connection of this query."""
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def say(line: str) -> None:
    """Print a line immediately."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
