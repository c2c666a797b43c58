"""Wakes the threads that poll a work queue as soon as new work is queued.

A process that queues work on this machine sends a notification, and the polling thread
of DBOS polls at once. Work that other machines queued is found by a query, which looks
for work in all queues five times a second (`watch_queues`). With the query alone, an
instance would wait for its analysis for 100 ms on average, and its results would wait
for their delivery for another 100 ms.

A poll of one queue by DBOS takes three statements in two transactions. So DBOS polls a
queue only if a notification or the query reports work, and every WATCHED_POLL_S
seconds.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from dicom_node.storage.database import DatabaseError
from dicom_node.storage.dbos_adapter import StopEvent, replace_stop_event

logger = logging.getLogger(__name__)

SUFFIX = ".bell"  # processes of earlier releases use it, too
# The minimum time between two polls in seconds. Even if work is queued a thousand times
# a second, the queue is polled at most fifty times a second.
GAP_S = 0.02
# The longest time between two polls of a queue that is watched.
WATCHED_POLL_S = 5.0


class PollWakeup:
    """Replaces the stop event of a polling thread, and can also wake the thread.

    Attributes:
        is_watched: Whether `watch_queues` wakes the thread. If so, `wait` may wait
            longer.
    """

    def __init__(self) -> None:
        """Create a wakeup that has not been triggered."""
        self._woken = threading.Event()
        self._stop = threading.Event()
        self.is_watched = False

    def use_stop_event(self, stop: threading.Event) -> "PollWakeup":
        """Set the event that tells the thread to stop; return this wakeup."""
        self._stop = stop
        return self

    def wake(self) -> None:
        """End the current call of `wait`. If there is none, end the next call early."""
        self._woken.set()

    def is_set(self) -> bool:
        """Return whether the stop event is set."""
        return self._stop.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until `wake` is called, for at most `timeout` seconds.

        If `is_watched` is True, the maximum is WATCHED_POLL_S seconds instead. In the
        first GAP_S seconds, only the stop event ends the wait early. After them, only
        `wake` does.

        Returns:
            Whether the stop event is set.
        """
        if not self._stop.wait(min(timeout, GAP_S)):
            if self.is_watched:
                timeout = WATCHED_POLL_S
            self._woken.wait(max(timeout - GAP_S, 0))
        self._woken.clear()
        return self._stop.is_set()


def patch_queue_polling(*queues: str) -> tuple[PollWakeup, ...]:
    """Make the threads that poll DBOS queues use wakeups, and return the wakeups.

    Call this function before DBOS is launched. If this version of DBOS cannot be
    patched, the wakeups have no effect, and a warning is logged.

    Args:
        *queues: The names of the queues.

    Returns:
        The wakeup of each queue, in the order of `queues`.
    """
    wakeups = {each: PollWakeup() for each in queues}

    def stop_event_of(queue: str, stop: threading.Event) -> StopEvent:
        return wakeups[queue].use_stop_event(stop) if queue in wakeups else stop

    if not replace_stop_event(stop_event_of):
        logger.warning(
            "DBOS %s cannot be notified of new work. Work starts later, when its queue "
            "is polled.",
            version("dbos"),
        )
    return tuple(wakeups.values())


@contextmanager
def watch_queues(
    wakeups: Mapping[str, PollWakeup],
    queues_with_work: Callable[[], Collection[str]],
    interval_s: float,
) -> Iterator[None]:
    """Wake the polling threads of the queues that have work, while a block runs.

    A thread is also woken if its stop event is set. If the database fails, all threads
    are woken at each interval, so that DBOS handles the failure.

    Args:
        wakeups: The wakeup of each queue, by the name of the queue.
        queues_with_work: Returns the names of the queues in which work waits.
        interval_s: Seconds between two calls of `queues_with_work`.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(interval_s):
            try:
                names = queues_with_work()
            except DatabaseError:
                names = wakeups.keys()
            for name, wakeup in wakeups.items():
                if name in names or wakeup.is_set():
                    wakeup.wake()

    def mark(*, is_watched: bool) -> None:
        for wakeup in wakeups.values():
            wakeup.is_watched = is_watched

    mark(is_watched=True)
    threading.Thread(target=watch, name="queue-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        mark(is_watched=False)


@contextmanager
def listen_for_notifications(
    folder: Path, name: str, wakeup: PollWakeup
) -> Iterator[None]:
    """Let other processes of this machine trigger a wakeup, while a block runs.

    If the socket cannot be created in `folder`, the block runs without notifications.

    Args:
        folder: The folder for the socket, which only this user may access.
        name: Name of the socket in this folder, without SUFFIX.
        wakeup: The wakeup that a notification triggers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:

        def receive() -> None:
            with suppress(OSError):  # the socket was closed after the block
                while receiving.recv(1):
                    wakeup.wake()

        path = folder / f"{name}{SUFFIX}"
        # If this fails, DBOS only polls.
        with suppress(OSError), _short_path(folder) as short_path:
            path.unlink(missing_ok=True)
            receiving.bind(f"{short_path}/{path.name}")
            threading.Thread(target=receive, name="work-signal", daemon=True).start()
        yield
        path.unlink(missing_ok=True)


def notify_workers(folder: Path) -> None:
    """Wake all threads with a socket in `folder`: see `listen_for_notifications`.

    Raises:
        OSError: The folder does not exist.
    """
    names = [path.name for path in folder.glob(f"*{SUFFIX}")]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending,
        _short_path(folder) as short_path,
    ):
        sending.settimeout(0)
        for name in names:
            with suppress(OSError):  # the process has died, or its buffer is full
                sending.sendto(b"!", f"{short_path}/{name}")


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a path of a folder that is short enough for the address of a socket.

    The address of a Unix socket has at most 107 bytes. If there is no /proc, yield the
    unchanged path of the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short_path = f"/proc/self/fd/{descriptor}"
        yield short_path if Path(short_path).exists() else str(folder)
    finally:
        os.close(descriptor)
