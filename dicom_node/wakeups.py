"""Waking the two threads of an association when, and only when, there is work.

pynetdicom's threads look around a thousand times a second. 40 open associations on
which nothing moves keep a processor busy so, and take the time of the one that sends.
Here a queue wakes whoever waits for it.
"""

import queue
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

# Timeouts are checked this often, too, and whether the other thread has died.
LOOK_AROUND_S = 0.5

Item = TypeVar("Item")


class WakingQueue(queue.Queue[Item], Generic[Item]):
    """A queue that tells somebody of each item."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Make an empty queue; `wake` is called after each item that is put."""
        super().__init__()
        self._wake = wake

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Put an item and wake the one who waits for it."""
        super().put(item, block, timeout)
        self._wake()


class Doorbell:
    """Wakes a thread that waits for a socket."""

    def __init__(self, watched: socket.socket) -> None:
        """Wait for what comes in at a connection, or for a ring."""
        self._bell, self._button = socket.socketpair()
        self._bell.settimeout(0)
        self._button.settimeout(0)
        self._watched = watched.fileno()
        self._poll = select.poll()  # select() fails with many open files
        self._poll.register(watched, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)

    def ring(self) -> None:
        """Wake the thread that waits, now or as soon as it does."""
        with suppress(OSError):  # rung often enough already, or gone
            self._button.send(b"!")

    def wait(self, timeout_s: float) -> bool:
        """Wait; say whether the connection has something to read, be it its end."""
        events = dict(self._poll.poll(timeout_s * 1000))
        if self._bell.fileno() in events:
            with suppress(OSError):
                self._bell.recv(4096)
        return self._watched in events

    def close(self) -> None:
        """Let go of the sockets."""
        self._bell.close()
        self._button.close()


class Checkpoint(threading.Event):
    """What an association's thread passes in each of its rounds.

    pynetdicom's is open at all times for an acceptor. This one is passed when there is
    something in one of the queues, when somebody sets it, or to look around.
    """

    def __init__(self) -> None:
        """Make a checkpoint without queues."""
        super().__init__()
        self.queues: Sequence[queue.Queue[Any]] = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for something to do."""
        if all(each.empty() for each in self.queues):
            super().wait(timeout or LOOK_AROUND_S)
        self.clear()
        return True
