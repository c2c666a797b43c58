"""A node in separate processes, with its archives, senders and faults."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from config.settings import load
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.journal.journal import Journal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.orphans import remove_orphans
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import result
from inference.phantom.long_bone import draw_phantom
from tests.support.node import NOTHING, PATIENCE_S, START, Served, counts, wait_for

SETTINGS = """
[receiver]
host = "127.0.0.1"
port = {port}
{receiver}
[storage]
directory = "node"
{storage}
[worker]
{worker}
[api]
port = {api_port}
"""
DESTINATION = """
[[destinations]]
name = "{name}"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""
# A prefix for commands, so that they run with the rights of an ordinary user.
ORDINARY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
MODULES: Mapping[str, str] = {
    "receiver": "dicom_node.receiver",
    "worker": "dicom_node.worker",
    "api": "api",
}
# The format of a log line: 2026-01-31 23:59:59,123 worker-0 INFO Ready
STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (\S+) \S+ (.*)")


class Night:
    """The folder of a node, its processes, and its archives and other peers.

    It is a context manager that calls `close` at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "node.toml"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes, and stop the archives. May be called twice."""
        self._stack.close()

    def archive(self, name: str = "archive", **options: object) -> Archive:
        """Start an archive in this process, and return it. `close` stops it."""
        started = start_archive(self.folder / name, **options)  # type: ignore[arg-type]
        self._stack.callback(started.stop)
        return started

    def settings(
        self, destinations: Mapping[str, int], ports: tuple[int, int], **more: str
    ) -> None:
        """Write the settings.

        Args:
            destinations: Ports of destinations by name.
            ports: Ports of the receiver and of the api.
            more: Further lines of the sections receiver, storage and worker, by section
                name. By default, storage has the line "min_free_mb = 1".
        """
        sections = {"receiver": "", "storage": "min_free_mb = 1", "worker": "", **more}
        text = SETTINGS.format(port=ports[0], api_port=ports[1], **sections)
        for name, port in destinations.items():
            text += DESTINATION.format(name=name, port=port)
        self.config.write_text(text)

    def start(self, environment: Mapping[str, str] = NOTHING) -> Served:
        """Start the node, and return it. `close` kills it."""
        node = Served(self.config, ORDINARY, environment)
        self._stack.callback(lambda: node.kill() if hasattr(node, "process") else None)
        node.start()
        return node

    def ends(self) -> tuple[int, str]:
        """Start a node that cannot run; return its exit status and standard error."""
        command = [*ORDINARY, *START, f"--config={self.config}"]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        )
        return ended.returncode, ended.stderr

    def run(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a program as a peer, and return its process. `close` kills it.

        Its output is appended to a file in the folder. The file has the name of the
        program, with the extension .log.
        """
        with (self.folder / f"{Path(command[0]).name}.log").open("a") as log:
            peer = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        self._stack.callback(peer.wait)
        self._stack.callback(peer.kill)
        return peer

    def counts(self) -> dict[str, int]:
        return counts(self.config)

    def wait_for_states(self, expected: Mapping[str, int]) -> float:
        """Wait until the number of instances in each state is as expected.

        The method returns the seconds that it has waited. The test fails if no number
        has changed for PATIENCE_S seconds. The whole time is not limited, because a
        slow machine may need minutes for hundreds of instances.
        """
        start = time.monotonic()
        last = self.counts()
        while last != dict(expected):
            try:
                wait_for(lambda: self.counts() != last)  # noqa: B023 - called here
            except AssertionError:
                log = (self.folder / "log").read_text().splitlines(keepends=True)
                pytest.fail(f"expected {expected}, found {last}\n{''.join(log[-40:])}")
            last = self.counts()
        return time.monotonic() - start

    def lines(self) -> list[tuple[float, str, str]]:
        """Return (seconds since 1970, role, message) of each line of the log.

        Lines without a time, such as those of a traceback, are left out.
        """
        return stamped((self.folder / "log").read_text())

    def said(self, role: str, words: str) -> int:
        """Return how often a role, such as "worker-0", logged the message `words`."""
        return sum(line[1:] == (role, words) for line in self.lines())

    def orphans(self) -> list[str]:
        """Remove orphans of any age, then compare the files with the journal.

        Returns:
            The paths of files that the journal does not name, and the paths in the
                journal without a file. They are relative to the storage directory.
        """
        settings = load(self.config, {})
        engine = open_engine(settings.storage.database_url)
        journal = Journal(engine, settings.storage.directory, settings.destinations)
        known = journal.stored_instances, journal.needed_result_files
        remove_orphans(Spool(settings.storage), *known, older_than_s=0)
        with reading(engine) as connection:
            results = {row.path for row in connection.execute(result.select())}
        paths = {row.path for row in History(engine).recent(1_000_000)}
        engine.dispose()
        folder = settings.storage.directory
        files = [*(folder / "spool").glob("*.*"), *(folder / "results").iterdir()]
        on_disk = {str(each.relative_to(folder)) for each in files}
        return sorted(on_disk.symmetric_difference(results | paths))

    def tracebacks(self) -> int:
        """Return the number of tracebacks in the log."""
        return (self.folder / "log").read_text().count("Traceback")


def stamped(log: str) -> list[tuple[float, str, str]]:
    """Return (seconds since 1970, role, message) of each line of a log.

    Lines without a time, such as those of a traceback, are left out.
    """
    found = map(STAMP.match, log.splitlines())
    return [
        (datetime.strptime(m[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), m[2], m[3])  # noqa: DTZ007 - the node's local time
        for m in found
        if m
    ]


@dataclass(frozen=True, slots=True)
class Sent:
    """Instances to send.

    Attributes:
        answered: SOP Instance UIDs of the instances that are analyzed and get a result.
        paths: The file of each instance by SOP Instance UID.
    """

    answered: frozenset[str]
    paths: Mapping[str, Path]

    @property
    def states(self) -> dict[str, int]:
        """The number of instances in each state after all work is done."""
        refused = len(self.paths) - len(self.answered)
        states = {"delivered": len(self.answered), "not_analyzed": refused}
        return {name: count for name, count in states.items() if count}


def mixed(
    folder: Path, count: int, real: Iterable[Path] = (), *, chests: bool = True
) -> Sent:
    """Write `count` instances to a folder, and return them.

    Their images are those of eight phantoms and of the files `real`, in turn. If
    `chests` is true, every tenth instance has the body part CHEST, which the node does
    not analyze.
    """
    folder.mkdir(exist_ok=True)
    sources = [_phantom(number) for number in range(8)] + [*map(dcmread, real)]
    paths, answered = {}, set()
    for number in range(count):
        source = sources[number % len(sources)]
        chest = chests and number % 10 == 9
        source.BodyPartExamined = "CHEST" if chest else "WRIST"
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(source, name, generate_uid())
        source.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
        path = folder / f"{number:04}.dcm"
        source.save_as(path, enforce_file_format=True)
        paths[str(source.SOPInstanceUID)] = path
        if not chest:
            answered.add(str(source.SOPInstanceUID))
    return Sent(frozenset(answered), paths)


def _phantom(number: int) -> Dataset:
    rows = (300, 300, 300, 1200)[number % 4]
    drawn = draw_phantom(
        broken=number % 2 == 0, rows=rows, columns=rows * 4 // 5, seed=number
    )
    return phantom_dataset(drawn)


def store(path: Path, node: Served) -> Outcome:
    """Send one instance once; return the outcome."""
    (outcome,) = send([path], node.address, calling_ae_title="SENDER")
    return outcome


def push(path: Path, node: Served) -> int:
    """Send one instance until it is acknowledged; return the number of attempts.

    Raise AssertionError if it is not acknowledged within PATIENCE_S seconds.
    """
    tries = 0
    deadline = time.monotonic() + PATIENCE_S
    while True:
        tries += 1
        if store(path, node).verdict is Verdict.STORED:
            return tries
        assert time.monotonic() < deadline, "the instance was never acknowledged"
        time.sleep(0.2)  # a refused sender waits before it retries


def side_by_side(works: Iterable[Callable[[], None]]) -> None:
    """Run functions at the same time, wait until all end, and raise the first error."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(each,)) for each in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]


def kill(node: Served, role: str, choose: Callable[[list[int]], int]) -> bool:
    """Kill a process of a role; return whether a process was killed.

    Args:
        node: The node.
        role: A key of MODULES, "supervisor", or "server" for one of the two servers
            that fork the roles.
        choose: Selects one of the process ids of the role.
    """
    if role == "supervisor":
        node.kill()
        return True
    pids = node.role_servers() if role == "server" else node.roles(MODULES[role])
    if not pids:
        return False
    try:
        os.kill(choose(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def study_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def lost(sent: Sent, studies: Collection[str]) -> list[str]:
    """Return the SOP Instance UIDs of analyzed instances without a result.

    `studies` are the Study Instance UIDs of all results.
    """
    return [uid for uid in sent.answered if study_of(sent.paths[uid]) not in studies]


def studies_in(archive: Archive) -> set[str]:
    """Return the Study Instance UIDs of the objects in an archive."""
    return {each.study_instance_uid for each in archive.log if each.path}


def has_each_once(archive: Archive, sent: Sent) -> str:
    """Assert that the archive has one object for each instance in `sent.answered`.

    The archive may have got an object several times, but always with the same bytes.

    Returns:
        A summary as text.
    """
    repeats, forms = twice(archive)
    objects = {each.sop_instance_uid for each in archive.log if each.path}
    missing = lost(sent, studies_in(archive))
    assert not missing
    assert len(objects) == len(sent.answered)
    assert forms == 0
    return f"0 lost, {len(objects)} objects, {len(repeats)} of them sent again"


def twice(archive: Archive) -> tuple[list[tuple[float, float]], int]:
    """Return the repeats of objects in an archive, and the number of altered objects.

    A repeat is (earlier, later), the times in seconds since 1970 at which the same
    object arrived. An object is altered if it came with different bytes.
    """
    times: dict[str, list[float]] = {}
    digests: dict[str, set[str]] = {}
    for each in archive.log:
        at = datetime.fromisoformat(each.time).timestamp()
        times.setdefault(each.sop_instance_uid, []).append(at)
        digests.setdefault(each.sop_instance_uid, set()).add(each.digest)
    repeats = [pair for each in times.values() for pair in pairwise(each)]
    return repeats, sum(len(each) > 1 for each in digests.values())
