"""Work that was just asked for is begun at once, not when its queue is next polled.

DBOS polls each queue five times a second, which is all that is needed to get work done:
an instance would wait 100 ms for its analysis on average, and its results 100 more for
their delivery. Whoever asks for work on this machine rings, and whoever polls for it
looks at once. A ring that nobody hears costs what it would have saved; work that other
machines asked for is found by polling.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dbos import DBOS, Queue, _queue

SUFFIX = ".bell"
# Work that is asked for a thousand times a second is looked for fifty times.
GAP_S = 0.02


class Bell:
    """What a thread that polls waits for, in place of the event that has it stop."""

    def __init__(self) -> None:
        """Be silent."""
        self._rung = threading.Event()
        self._stop = threading.Event()

    def hang(self, stop: threading.Event) -> "Bell":
        """Hang it where a thread waits to be stopped."""
        self._stop = stop
        return self

    def ring(self) -> None:
        """End the wait that is under way, or the next one."""
        self._rung.set()

    def is_set(self) -> bool:
        """Tell whether to stop."""
        return self._stop.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait, in seconds, for a ring or the end; tell whether to stop."""
        if not self._stop.wait(min(timeout, GAP_S)):
            self._rung.wait(max(timeout - GAP_S, 0))
        self._rung.clear()
        return self._stop.is_set()


def hang(queue: str) -> Bell:
    """Hang a bell at a queue of DBOS's. Before DBOS is launched.

    DBOS itself has none: of a thread that polls, the event is replaced for which it
    waits. Were DBOS to do that in another way, the bell would be one that nobody hears.
    """
    bell, poll = Bell(), getattr(_queue, "queue_worker_thread", None)
    if poll is not None:

        def listen(stop: threading.Event, dbos: DBOS, polled: Queue) -> None:
            poll(bell.hang(stop) if polled.name == queue else stop, dbos, polled)

        _queue.queue_worker_thread = listen  # type: ignore[assignment]
    return bell


@contextmanager
def heard(folder: Path, name: str, bell: Bell) -> Iterator[None]:
    """Have a bell be rung from other processes of this machine meanwhile.

    Args:
        folder: What they share; for this user alone.
        name: Whose bell it is.
        bell: The bell.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:

        def hear() -> None:
            with suppress(OSError):  # closed
                while hearing.recv(1):
                    bell.ring()

        path = folder / f"{name}{SUFFIX}"
        with suppress(OSError), _short(folder) as short:  # no bell, then
            path.unlink(missing_ok=True)
            hearing.bind(f"{short}/{path.name}")
            threading.Thread(target=hear, name="bell", daemon=True).start()
        yield
        path.unlink(missing_ok=True)


def ring(folder: Path) -> None:
    """Ring all bells of this machine."""
    bells = [path.name for path in folder.glob(f"*{SUFFIX}")]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ringing,
        _short(folder) as short,
    ):
        ringing.settimeout(0)
        for name in bells:
            with suppress(OSError):  # of who died, or has been rung often enough
                ringing.sendto(b"!", f"{short}/{name}")


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Give a folder a name that is short enough for a socket, whose path may have 107.

    Where there is no /proc, its own.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{descriptor}"
        yield short if Path(short).exists() else str(folder)
    finally:
        os.close(descriptor)
