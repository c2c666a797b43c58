"""The rows of heartbeats. Each receiver and each worker regularly updates its own row.

A heartbeat writes the time of the database's clock. Monitoring reads the rows. Workers
also read them, and take over the work of dead workers (see worker/takeover.py).
Locks in the database would not show which processes are alive. A restart of the
database would release the locks of living processes. A machine that has lost its
network connection would keep its locks.
"""

import time
from contextlib import suppress
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.storage.database import reading, upsert, writing
from dicom_node.storage.records import HeartbeatRecord
from dicom_node.storage.tables import heartbeat, read_one, read_records

DEAD_AFTER_S = 20.0
"""A process without a heartbeat for more than this many seconds is assumed dead.

The process may hang, or may have been killed or cut off from the database.
"""

# Rows without a heartbeat for more than this many seconds are deleted, except the last
# row of each role: see `has_run`.
RETENTION_S = 24 * 3600.0


class DuplicateNameError(Exception):
    """Two living processes have the same name."""


class HeartbeatRow:
    """The row of one process, which is updated at each heartbeat."""

    def __init__(self, engine: sa.Engine, role: str, name: str) -> None:
        """Choose a random id for the process. Nothing is written yet.

        Args:
            engine: Engine of the journal.
            role: Role of the process.
            name: Name of the process. If it is empty, the random id is the name.
        """
        self._engine = engine
        self._role = role
        self._process = uuid4().hex
        self._name = name or self._process
        self._was_sent = False

    def send(self) -> None:
        """Write a heartbeat. If the database fails in any way, do nothing.

        Raises:
            DuplicateNameError: Since the last heartbeat of this process, another
                process has sent a heartbeat with the same name.
        """
        with suppress(SQLAlchemyError), writing(self._engine) as connection:
            self._renew(connection)
            self._was_sent = True

    def record_shutdown(self) -> None:
        """Record that this process shut down. If the database fails, do nothing."""
        own_row = heartbeat.update().where(heartbeat.c.process == self._process)
        with suppress(SQLAlchemyError), writing(self._engine) as connection:
            connection.execute(own_row.values(ended_at=_now(connection)))

    def _renew(self, connection: sa.Connection) -> None:
        now = _now(connection)
        query = heartbeat.select().where(heartbeat.c.id == self._name)
        last = read_one(HeartbeatRecord, connection.execute(query))
        is_mine = last is not None and last.process == self._process
        # At the first heartbeat, the row may be of an earlier process with this name.
        if last and self._was_sent and not is_mine:
            raise DuplicateNameError
        continues = last and is_mine and now - last.at <= DEAD_AFTER_S
        since = last.since if last and continues else now
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


def seconds_since_last_heartbeat(engine: sa.Engine, role: str) -> float | None:
    """Return the seconds since the last heartbeat of any process of a role.

    Processes that shut down cleanly do not count. Return None if no process counts.
    """
    last = sa.select(sa.func.max(heartbeat.c.at)).where(
        heartbeat.c.role == role, _has_not_ended()
    )
    with reading(engine) as connection:
        at = connection.execute(last).scalar_one()
        return None if at is None else max(_now(connection) - at, 0.0)


def has_run(engine: sa.Engine, role: str) -> bool:
    """Return whether a process of a role has ever sent a heartbeat to this database."""
    query = sa.select(heartbeat.c.id).where(heartbeat.c.role == role).limit(1)
    with reading(engine) as connection:
        return connection.execute(query).first() is not None


def alive_workers(connection: sa.Connection, role: str) -> dict[str, float]:
    """Return for how long each living process of a role has sent heartbeats.

    The keys are the names of the processes. The values are times in seconds. A time
    starts again at 0 after a gap of more than DEAD_AFTER_S seconds, and after a restart
    of the process. If an earlier release wrote the row, the time is 0.
    """
    now = _now(connection)
    query = heartbeat.select().where(
        heartbeat.c.role == role,
        heartbeat.c.at > now - DEAD_AFTER_S,
        _has_not_ended(),
    )
    found = read_records(HeartbeatRecord, connection.execute(query))
    return {each.id: 0.0 if each.since is None else now - each.since for each in found}


def _has_not_ended() -> sa.ColumnElement[bool]:
    """Return the SQL condition that a process has not shut down cleanly.

    A process that has sent a heartbeat after `ended_at` was started again: the previous
    release does not clear `ended_at` at a start.
    """
    ended_at = heartbeat.c.ended_at
    return sa.or_(ended_at.is_(None), ended_at < heartbeat.c.at)


def _now(connection: sa.Connection) -> float:
    """Return the current time of the database's clock, in seconds since 1970.

    With SQLite, this is the clock of the machine. With PostgreSQL, it is the time of
    this call, not the time when the transaction began.
    """
    if connection.dialect.name == "sqlite":
        return time.time()
    clock = sa.select(sa.extract("epoch", sa.func.clock_timestamp()))
    return float(connection.execute(clock).scalar_one())
