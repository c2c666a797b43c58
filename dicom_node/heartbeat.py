"""Signs of life of the node's own processes, for whoever watches over it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.database import reading, upsert
from dicom_node.tables import heartbeat

EVERY_S = 10.0
DEAD_AFTER_S = 30.0
"""Whoever was silent for longer is taken for dead: hung, killed, or cut off."""

KEPT_S = 24 * 3600.0


@contextmanager
def beating(engine: sa.Engine, role: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Give signs of life meanwhile. None while the database is away.

    Args:
        engine: Of the journal.
        role: What this process is.
        every_s: How often, in seconds.
    """
    process, ended = uuid4().hex, threading.Event()

    def keep_beating() -> None:
        while True:
            with suppress(SQLAlchemyError):
                _beat(engine, process, role)
            if ended.wait(every_s):
                return

    thread = threading.Thread(target=keep_beating, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        mine = heartbeat.delete().where(heartbeat.c.id == process)
        with suppress(SQLAlchemyError), engine.begin() as connection:
            connection.execute(mine)


def silence_s(engine: sa.Engine, role: str) -> float | None:
    """Look up for how long no process of a role has given a sign of life, in seconds.

    None where none has within a day, or the last ones ended as they were told to.
    """
    last = sa.select(sa.func.max(heartbeat.c.at)).where(heartbeat.c.role == role)
    with reading(engine) as connection:
        at = connection.execute(last).scalar_one()
    return None if at is None else max(time.time() - at, 0.0)


def _beat(engine: sa.Engine, process: str, role: str) -> None:
    now = time.time()
    old = heartbeat.delete().where(heartbeat.c.at < now - KEPT_S)
    with engine.begin() as connection:
        connection.execute(old)
        values = {"id": process, "role": role, "at": now}
        upsert(connection, heartbeat, values, {"at": now})
