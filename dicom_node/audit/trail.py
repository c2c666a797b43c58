"""Write the audit trail in a separate thread, so that recording an event never blocks.

Each event except a transfer becomes a row of the audit table. If the setting
`audit.file` is set, most events are also written to that file as a message. If the same
event happens again within a minute, it is only counted. After the minute, the count is
written. For example, a peer that is rejected a thousand times in a minute adds two
rows. If there are too many different events, similar events are counted together: see
folding.py. While the database is unavailable, at most MOST_WAITING rows wait in memory.
If the process is killed, events and counts that are not written yet are lost.

Transfers are written only to the file, because the journal already records them. One
message contains up to MOST_INSTANCES instances of a study that were transferred between
the same two applications within TRANSFER_S seconds.
"""

import logging
import os
import pwd
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import ENOSPC
from io import FileIO
from pathlib import Path

from config.settings import Settings
from dicom_node.audit.event import (
    TRANSFERS,
    AuditedInstance,
    AuditEvent,
    AuditEventType,
    disclosed,
)
from dicom_node.audit.folding import FLOODS, Folding, Spare, spare
from dicom_node.audit.message import KINDS, AuditSource, message
from dicom_node.storage.database import DatabaseError, Engine, open_engine, writing
from dicom_node.storage.spool import MB
from dicom_node.storage.tables import audit
from dicom_node.text import replace_unprintable

logger = logging.getLogger(__name__)

RecordEvent = Callable[[AuditEvent], None]
"""A function that records an event.

It never blocks and never raises an error. It may be called in any thread.
"""

# Maximum number of rows that wait for the database, and of instances of transfers that
# wait for their message.
MOST_WAITING = 20_000
SAME_FOR_S = 60.0  # a repetition of an event within this time is only counted
WRITE_INTERVAL_S = 0.2
TRANSFER_S = 5.0  # transfers of one study within this time are one message
MOST_INSTANCES = 500  # in one message
RETRY_AFTER_S = 1.0  # until the next attempt if the database is unavailable
LONGEST_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that waits to be written: a row of the table, and perhaps a message.

    Attributes:
        event: The event.
        at: The time that the row states, in seconds since 1970.
        times: Number of occurrences of the event that the row reports.
    """

    event: AuditEvent
    at: float
    times: int = 1


@dataclass(slots=True)
class Transfer:
    """Transferred instances of one study that are reported together.

    Attributes:
        event: The event of the first instance. The events of the other instances are
            the same except for `instance`.
        since: Time of the first event, in seconds since 1970.
        until: Time of the last event, in seconds since 1970.
        instances: All instances, including the first.
    """

    event: AuditEvent
    since: float
    until: float
    instances: list[AuditedInstance]


def os_user() -> str:
    """Return the name of the user that runs this process.

    If the user has no name, the user id is returned. Environment variables have no
    influence, because a user can change them.
    """
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user of a container may have no name
        return str(uid)


@contextmanager
def auditing(
    settings: Settings,
    engine: Engine,
    role: str,
    *,
    by_hand: bool = False,
    process: int | None = None,
) -> Iterator[RecordEvent]:
    """Open the audit trail for a block; at the end of the block, close the trail.

    Args:
        settings: The settings of the node.
        engine: The engine of the database.
        role: The name of the role or command that this process runs.
        by_hand: Whether a user, not the supervisor, started this role. If so, the
            start and the end of the process are recorded, too.
        process: The id of the process that the events are about; None means this
            process.

    Yields:
        The function that records an event.
    """
    node = f"{settings.receiver.ae_title}@{socket.gethostname()}"
    file, storage = settings.audit.file, settings.storage
    folders = [storage.directory, *([file.parent] if file else [])]
    disk = spare(folders, storage.min_free_mb * MB)
    trail = Trail(engine, AuditSource(node, role, process or os.getpid()), file, disk)
    try:
        if by_hand:
            trail.record_event(started(settings))
        yield trail.record_event
    finally:
        if by_hand:
            trail.record_event(stopped())
        trail.close()


def record(
    settings: Settings, role: str, event: AuditEvent, process: int | None = None
) -> None:
    """Write one event, and wait until it is written.

    If the database does not accept the row of the event within LONGEST_END_S seconds,
    the row is lost. `process` is the id of the process that the event is about; None
    means this process.
    """
    engine = open_engine(settings.storage.database_url)
    with auditing(settings, engine, role, process=process) as record_event:
        record_event(event)
    engine.dispose()


def started(settings: Settings) -> AuditEvent:
    """Return the event of the start of a process, with the settings in force."""
    return AuditEvent(AuditEventType.STARTED, os_user(), details=disclosed(settings))


def stopped() -> AuditEvent:
    """Return the event of the end of a process."""
    return AuditEvent(AuditEventType.STOPPED, os_user())


class Trail:
    """The audit trail of one process. A thread writes it until `close` is called."""

    def __init__(
        self,
        engine: Engine,
        source: AuditSource,
        file: Path | None,
        spare_bytes: Spare = lambda: float("inf"),
    ) -> None:
        """Start the thread that writes the events.

        Args:
            engine: The engine of the database.
            source: The process that reports events.
            file: The file for messages; None to write only rows.
            spare_bytes: Returns the number of bytes of disk that the trail may use. If
                the number is small, more events are counted together.
        """
        self._engine = engine
        self._source = source
        self._file = file
        self._spare_bytes = spare_bytes
        self._lock = threading.Lock()  # for the state that record_event changes
        self._lost = 0
        self._seen: dict[AuditEvent, Entry] = {}
        self._folding = Folding()
        self._fresh: list[Entry] = []
        self._transfers: dict[tuple[AuditEvent, str], Transfer] = {}
        self._instances = 0  # number of instances in `_transfers`
        self._rows: list[Entry] = []
        self._not_before = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="audit")
        self._thread.start()

    def record_event(self, event: AuditEvent) -> None:
        """Record an event without waiting.

        If `audit.file` is not set, transfers are ignored.
        """
        is_transfer = event.event_type in TRANSFERS
        if is_transfer and self._file is None:
            return
        with self._lock:
            if is_transfer:
                self._add_transfer(event)
            else:
                self._add(event)

    def close(self) -> None:
        """Write the remaining events, and end the thread.

        Rows that the database does not accept within LONGEST_END_S seconds are lost.
        """
        self._ended.set()
        self._thread.join()

    def _keep_writing(self) -> None:
        while not self._ended.wait(WRITE_INTERVAL_S):
            self._write(time.time())
        until = time.monotonic() + LONGEST_END_S
        self._write(float("inf"))
        while self._rows and time.monotonic() < until:
            time.sleep(WRITE_INTERVAL_S)
            self._write_rows()
        self._lost += len(self._rows)
        self._log_loss()

    def _write(self, now: float) -> None:
        """Write new events, counts of repeated events, and completed transfers.

        Args:
            now: Time in seconds since 1970; infinity to write all counts and transfers.
        """
        try:
            fresh = [*self._take_new(), *self._expire(now)]
            self._rows += fresh
            if self._file is not None:
                messages = [*self._messages(fresh), *self._completed(now)]
                self._write_file(self._file, messages)
            self._write_rows()
        except Exception:
            logger.exception("Cannot write the audit trail")

    def _log_loss(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            logger.error("%s audit events were not written", lost)

    def _take_new(self) -> list[Entry]:
        """Return and remove the new entries, and update the limits of folding."""
        spare_bytes = self._spare_bytes()
        with self._lock:
            fresh, self._fresh = self._fresh, []
            self._folding.spare_bytes = spare_bytes
            waiting = len(self._rows) + len(fresh)
            self._folding.spare_rows = MOST_WAITING // 2 - waiting
        return fresh

    def _add(self, event: AuditEvent) -> None:
        """Add an event; if it repeats an event of the last minute, only count it."""
        event = self._folding.fold(event)
        if known := self._seen.get(event):
            self._seen[event] = replace(known, times=known.times + 1)
        else:
            entry = Entry(event, time.time())
            self._seen[event] = replace(entry, times=0)
            self._fresh.append(entry)

    def _add_transfer(self, event: AuditEvent) -> None:
        """Add the instance of an event to the transfer of its study and peer.

        If there is no such transfer, the event begins one. If MOST_WAITING instances
        wait already, the event is lost.
        """
        assert event.instance is not None  # noqa: S101 - transfers have one
        if self._instances >= MOST_WAITING:
            self._lost += 1
            return
        uid = event.instance.study_instance_uid
        key, now = (replace(event, instance=None), uid), time.time()
        transfer = self._transfers.setdefault(key, Transfer(event, now, now, []))
        transfer.until = now
        transfer.instances.append(event.instance)
        self._instances += 1

    def _messages(self, entries: list[Entry]) -> Iterator[str]:
        """Yield the message of each event that has one in PS3.15 A.5.3."""
        for each in entries:
            if each.event.event_type in KINDS:
                yield message(each.event, self._source, each.at, each.times)

    def _completed(self, now: float) -> Iterator[str]:
        """Remove complete transfers, and yield their messages.

        A transfer is complete TRANSFER_S seconds after it began.
        """
        with self._lock:
            transfers = self._transfers.items()
            old = {k: t for k, t in transfers if abs(now - t.since) >= TRANSFER_S}
            for key, each in old.items():
                del self._transfers[key]
                self._instances -= len(each.instances)
        for each in old.values():
            for start in range(0, len(each.instances), MOST_INSTANCES):
                some = each.instances[start : start + MOST_INSTANCES]
                yield message(each.event, self._source, each.until, 1, some)

    def _expire(self, now: float) -> list[Entry]:
        """Forget events older than SAME_FOR_S seconds; return those that were repeated.

        Each event is returned with the number of its repetitions.
        """
        with self._lock:
            old = [e for e in self._seen.values() if abs(now - e.at) >= SAME_FOR_S]
            for each in old:
                del self._seen[each.event]
                self._folding.forget(each.event)
        if old:  # about once a minute
            self._log_loss()
        return [Entry(e.event, time.time(), e.times) for e in old if e.times]

    def _write_rows(self) -> None:
        self._drop_too_many()
        if not self._rows or time.monotonic() < self._not_before:
            return
        try:
            with writing(self._engine) as connection:
                rows = [_row(each, self._source) for each in self._rows]
                connection.execute(audit.insert(), rows)
        except DatabaseError:
            self._not_before = time.monotonic() + RETRY_AFTER_S
            return
        self._rows = []

    def _drop_too_many(self) -> None:
        """Drop rows if more than MOST_WAITING wait.

        Rows with an event type in FLOODS are dropped before other rows, and old rows
        before new ones. Rows are seldom dropped, because events are counted together if
        many rows wait.
        """
        excess = len(self._rows) - MOST_WAITING
        if excess <= 0:
            return
        floods = [each for each in self._rows if each.event.event_type in FLOODS]
        others = [each for each in self._rows if each.event.event_type not in FLOODS]
        dropped = {id(each) for each in [*floods, *others][:excess]}
        self._rows = [each for each in self._rows if id(each) not in dropped]
        self._lost += excess

    def _write_file(self, path: Path, lines: list[str]) -> None:
        if not lines:
            return
        lost, reason = len(lines), os.strerror(ENOSPC)
        try:
            lost -= _append(path, lines)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        if lost:
            text = "Cannot write %s messages to audit.file: %s. They are lost. Events "
            text += "are also in the database, and transfers in the journal."
            logger.error(text, lost, reason)


def _append(path: Path, lines: list[str]) -> int:
    """Append lines to a file, and create it if it is absent.

    The file is opened each time, because it may be rotated. If the file ends in the
    middle of a line, because the disk was full, the new lines begin after a line end.

    Returns:
        The number of lines that were written completely. It is less than the number of
        lines if the disk is nearly full.

    Raises:
        OSError: The file cannot be opened, or nothing can be written.
    """
    line_end = b"\n" if _is_cut_off(path) else b""
    content = "".join(f"{line}\n" for line in lines).encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with FileIO(os.open(path, flags, 0o600), "a") as file:
        # A single write, because other processes append to the file, too.
        written = file.write(line_end + content) - len(line_end)
    return content[: max(written, 0)].count(b"\n")


def _is_cut_off(path: Path) -> bool:
    """Return whether a file ends in the middle of a line; False if it is unreadable."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # also if the file is empty
        return False


def _row(entry: Entry, source: AuditSource) -> dict[str, object]:
    event = entry.event
    return {
        "at": entry.at,
        "role": source.role,
        "what": event.event_type,
        "who": replace_unprintable(event.user_id),
        "address": replace_unprintable(event.address),
        "about": replace_unprintable(event.details),
        "sop_instance_uid": event.instance and event.instance.sop_instance_uid,
        "times": entry.times,
    }
