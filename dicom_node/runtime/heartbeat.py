"""Heartbeats: each process of the node regularly writes the time to a row.

The time is that of the database's clock. Monitoring reads the heartbeats. Workers read
them, too, and take over the work of dead workers (see worker/takeover.py). Locks in the
database are not suitable for this: if the database restarts, it releases the locks of
living processes, and a machine without a network connection keeps its locks.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.tables import heartbeat

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
DEAD_AFTER_S = 20.0
"""A process without a heartbeat for more than this many seconds is assumed dead.

It may hang, or may have been killed or cut off from the database.
"""

RETENTION_S = 24 * 3600.0


class DuplicateNameError(Exception):
    """Two living processes have the same name."""


def _ignore() -> None:
    pass


@contextmanager
def heartbeats(
    engine: sa.Engine,
    role: str,
    name: str = "",
    *,
    on_duplicate: Callable[[], None] = _ignore,
    every_s: float = INTERVAL_S,
) -> Iterator[None]:
    """Send heartbeats while a block runs.

    The first is sent before the block begins. After the block, the process is recorded
    as shut down. Heartbeats are skipped while the database cannot be reached.

    Args:
        engine: Engine of the journal.
        role: Role of this process.
        name: Name of this process, the same after a restart. If it is empty, the
            process gets a random name.
        on_duplicate: Called in the thread of the heartbeats if another process has the
            same name.
        every_s: Seconds between two heartbeats.
    """
    own_heartbeat, ended = _Heartbeat(engine, role, name), threading.Event()

    def keep_sending() -> None:
        while not ended.wait(every_s):
            try:
                own_heartbeat.send()
            except DuplicateNameError:
                on_duplicate()
            except Exception:
                # Continue: without heartbeats, the process is assumed dead.
                logger.exception("Cannot send a heartbeat")

    own_heartbeat.send()
    thread = threading.Thread(target=keep_sending, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        own_heartbeat.record_shutdown()


def seconds_since_last_heartbeat(engine: sa.Engine, role: str) -> float | None:
    """Return the seconds since the last heartbeat of any process of a role.

    Processes that shut down cleanly do not count. Return None if no other process of
    the role has sent a heartbeat.
    """
    last = sa.select(sa.func.max(heartbeat.c.at)).where(
        heartbeat.c.role == role, _has_not_ended()
    )
    with reading(engine) as connection:
        at = connection.execute(last).scalar_one()
        return None if at is None else max(_now(connection) - at, 0.0)


def has_run(engine: sa.Engine, role: str) -> bool:
    """Return whether a process of a role has ever worked on this database."""
    query = sa.select(heartbeat.c.id).where(heartbeat.c.role == role).limit(1)
    with reading(engine) as connection:
        return connection.execute(query).first() is not None


def alive_workers(connection: sa.Connection, role: str) -> dict[str, float]:
    """Return how long each living process of a role has sent heartbeats, by name.

    The time is in seconds. It starts at 0 again after a gap of more than DEAD_AFTER_S.
    """
    now = _now(connection)
    query = sa.select(heartbeat.c.id, heartbeat.c.since).where(
        heartbeat.c.role == role,
        heartbeat.c.at > now - DEAD_AFTER_S,
        _has_not_ended(),
    )
    found = connection.execute(query).all()
    return {row.id: now - (now if row.since is None else row.since) for row in found}


def _has_not_ended() -> sa.ColumnElement[bool]:
    """Return the SQL condition that a process has not shut down cleanly.

    A heartbeat after `ended_at` means that the process was started again: the previous
    release does not clear `ended_at` then.
    """
    ended_at = heartbeat.c.ended_at
    return sa.or_(ended_at.is_(None), ended_at < heartbeat.c.at)


class _Heartbeat:
    """The heartbeat of one process: a row that is updated regularly."""

    def __init__(self, engine: sa.Engine, role: str, name: str) -> None:
        self._engine = engine
        self._role = role
        self._process = uuid4().hex
        self._name = name or self._process
        self._was_sent = False

    def send(self) -> None:
        """Write a heartbeat, if the database can be reached.

        Raises:
            DuplicateNameError: After the last heartbeat of this process, another
                process with the same name has sent one.
        """
        with suppress(SQLAlchemyError), writing(self._engine) as connection:
            self._renew(connection)
            self._was_sent = True

    def record_shutdown(self) -> None:
        """Record that this process shut down, if the database can be reached."""
        own_row = heartbeat.update().where(heartbeat.c.process == self._process)
        with suppress(SQLAlchemyError), writing(self._engine) as connection:
            connection.execute(own_row.values(ended_at=_now(connection)))

    def _renew(self, connection: sa.Connection) -> None:
        now = _now(connection)
        query = heartbeat.select().where(heartbeat.c.id == self._name)
        row = connection.execute(query).one_or_none()
        is_mine = row is not None and row.process == self._process
        # At the first heartbeat, the row may be that of a process that had this name
        # and died.
        if row and self._was_sent and not is_mine:
            raise DuplicateNameError
        continues = row and is_mine and now - row.at <= DEAD_AFTER_S
        since = row.since if row and continues else now
        change = {"at": now, "since": since, "process": self._process}
        change |= {"ended_at": None}
        values = {"id": self._name, "role": self._role, **change}
        upsert(connection, heartbeat, values, change)
        newer = heartbeat.alias()
        is_last = ~sa.exists().where(
            newer.c.role == heartbeat.c.role, newer.c.at > heartbeat.c.at
        )
        old = heartbeat.delete().where(heartbeat.c.at < now - RETENTION_S, ~is_last)
        connection.execute(old)


def _now(connection: sa.Connection) -> float:
    """Return the current time of the database's clock, in seconds since 1970.

    With SQLite, this is the clock of the machine. With PostgreSQL, it is the time of
    this call, not the time when the transaction began.
    """
    if connection.dialect.name == "sqlite":
        return time.time()
    clock = sa.select(sa.extract("epoch", sa.func.clock_timestamp()))
    return float(connection.execute(clock).scalar_one())
