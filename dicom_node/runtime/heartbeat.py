"""Heartbeats: each receiver and each worker regularly writes the time to the database.

storage/heartbeat_rows.py explains what the rows with these times are used for.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicom_node.storage.database import Engine
from dicom_node.storage.heartbeat_rows import DuplicateNameError, HeartbeatRow

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0


def _ignore() -> None:
    pass


@contextmanager
def heartbeats(
    engine: Engine,
    role: str,
    name: str = "",
    *,
    on_duplicate: Callable[[], None] = _ignore,
    every_s: float = INTERVAL_S,
) -> Iterator[None]:
    """Send heartbeats while a block runs.

    The first heartbeat is sent before the block begins. After the block, the process is
    recorded as shut down. If the database fails, a heartbeat is skipped.

    Args:
        engine: Engine of the journal.
        role: Role of this process.
        name: Name of this process, the same after a restart. If it is empty, the
            process gets a random name.
        on_duplicate: Called in the thread of the heartbeats if another process has the
            same name.
        every_s: Seconds between two heartbeats.
    """
    row, ended = HeartbeatRow(engine, role, name), threading.Event()

    def keep_sending() -> None:
        while not ended.wait(every_s):
            try:
                row.send()
            except DuplicateNameError:
                on_duplicate()
            except Exception:
                # Continue, because a process without heartbeats is assumed dead.
                logger.exception("Cannot send a heartbeat")

    row.send()
    thread = threading.Thread(target=keep_sending, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        row.record_shutdown()
