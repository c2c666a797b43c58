"""The private parts of DBOS that the node uses, under public names.

No other module of the node uses a private name of DBOS.
tests/project/test_private_names.py lists the private names. The test fails if the
installed version of DBOS lacks one of them.
"""

import inspect
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, Protocol

import sqlalchemy as sa
from dbos import DBOS, Queue
from dbos._serialization import DefaultSerializer

SCHEMA = "dbos"
"""The schema of DBOS's tables in PostgreSQL."""

# None if this version of DBOS has no such module: see `replace_stop_event`.
_queue = sys.modules.get("dbos._queue")
POLL = "queue_worker_thread"
POLL_PARAMETERS = ["stop_event", "dbos", "queue"]


class StopEvent(Protocol):
    """The methods of a stop event that a polling thread of DBOS calls."""

    def is_set(self) -> bool:
        """Return whether the thread is to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds; return whether the thread is to stop."""


class PickleRefusedError(Exception):
    """A row of DBOS's tables names the pickle serializer for its values, not JSON."""

    def __init__(self) -> None:
        super().__init__("A value in the database is a pickle. Only JSON is loaded.")


def refuse_pickles() -> None:
    """Let DBOS raise PickleRefusedError for each pickle, in the whole process.

    Each row of DBOS's tables names the serializer of its values. DBOS loads the values
    with that serializer, even if the DBOS client was created with another one. Loading
    a pickle can run code, so anybody who can write a row could run code in the process.
    """
    DefaultSerializer.deserialize = _refuse_pickle  # type: ignore[assignment, method-assign]


def _refuse_pickle(_serializer: DefaultSerializer, _text: str) -> NoReturn:
    raise PickleRefusedError


def work_table(dialect: sa.Dialect) -> sa.TableClause:
    """Return the table in which DBOS records all work, with four of its columns.

    The documentation of DBOS describes this table under "System Tables".
    """
    names = "workflow_uuid", "queue_name", "status", "priority"
    schema = None if dialect.name == "sqlite" else SCHEMA
    return sa.table("workflow_status", *map(sa.column, names), schema=schema)


def replace_stop_event(
    replacement: Callable[[str, threading.Event], StopEvent],
) -> bool:
    """Replace the event that each polling thread of DBOS waits for between two polls.

    Call this function before DBOS is launched. DBOS has no hook for this.

    Args:
        replacement: Returns the event for a thread. The arguments are the name of the
            queue, and DBOS's event that tells the thread to stop.

    Returns:
        True if the events are replaced. False if this version of DBOS has no polling
        function with the expected parameters. Then nothing is changed, and the threads
        wait for DBOS's own events.
    """
    poll = getattr(_queue, POLL, None)
    if poll is None or [*inspect.signature(poll).parameters] != POLL_PARAMETERS:
        return False

    def poll_with_replacement(
        stop_event: threading.Event, dbos: DBOS, queue: Queue
    ) -> None:
        poll(replacement(queue.name, stop_event), dbos, queue)

    setattr(_queue, POLL, poll_with_replacement)
    return True
