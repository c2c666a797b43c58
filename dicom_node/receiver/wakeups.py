"""Wakes the two threads of an association when there is work for them.

pynetdicom's threads poll a thousand times a second. With 40 open associations that are
idle, they keep a processor busy, and slow down an association that is sending. In this
module, a queue wakes the thread that waits for it.
"""

import queue
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

# The threads also wake this often to check timeouts, and whether the other thread has
# died.
CHECK_INTERVAL_S = 0.5

Item = TypeVar("Item")


class NotifyingQueue(queue.Queue[Item], Generic[Item]):
    """A queue that calls a function after each item."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Create an empty queue. `wake` is called after each item that is put."""
        super().__init__()
        self._wake = wake

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Put an item, and wake the thread that waits for it."""
        super().put(item, block, timeout)
        self._wake()


class SocketWakeup:
    """Lets other threads wake a thread that waits for a socket (self-pipe)."""

    def __init__(self, watched: socket.socket) -> None:
        """Watch a connection."""
        self._receiving, self._sending = socket.socketpair()
        self._receiving.settimeout(0)
        self._sending.settimeout(0)
        self._watched = watched.fileno()
        self._poll = select.poll()  # select() fails with many open files
        self._poll.register(watched, select.POLLIN)
        self._poll.register(self._receiving, select.POLLIN)

    def wake(self) -> None:
        """Wake the thread that waits, now or when it next waits."""
        with suppress(OSError):  # the buffer is full, or the socket is closed
            self._sending.send(b"!")

    def wait(self, timeout_s: float) -> bool:
        """Wait for data or a call of `wake`.

        Returns:
            Whether the connection has something to read. Its end counts, too.
        """
        events = dict(self._poll.poll(timeout_s * 1000))
        if self._receiving.fileno() in events:
            with suppress(OSError):
                self._receiving.recv(4096)
        return self._watched in events

    def close(self) -> None:
        """Close the sockets of the self-pipe, but not the connection."""
        self._receiving.close()
        self._sending.close()


class ReactorEvent(threading.Event):
    """The event on which an association's thread waits in each of its rounds.

    For an acceptor, pynetdicom's event is always set, so its thread never waits. A wait
    for this event ends if one of the queues has an item, if the event is set, or after
    CHECK_INTERVAL_S.
    """

    def __init__(self) -> None:
        """Create an event without queues."""
        super().__init__()
        self.queues: Sequence[queue.Queue[Any]] = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as described for the class, clear the event, and return True."""
        if all(each.empty() for each in self.queues):
            super().wait(timeout or CHECK_INTERVAL_S)
        self.clear()
        return True
