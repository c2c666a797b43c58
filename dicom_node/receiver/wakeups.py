"""Wakes the two threads of an association when there is work for them.

Without this module, pynetdicom's threads poll a thousand times a second. With 40 idle
associations, the polling keeps a processor busy, and slows down an association that
receives data. With the classes of this module, a new item in a queue wakes the thread
that waits for it.
"""

import queue
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

# Each of the two threads wakes at least once in this many seconds, to check timeouts,
# and whether the other thread has died.
CHECK_INTERVAL_S = 0.5

Item = TypeVar("Item")


class NotifyingQueue(queue.Queue[Item], Generic[Item]):
    """A queue that calls a function each time an item is put."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Create an empty queue. `wake` is called after each item that is put."""
        super().__init__()
        self._wake = wake

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Put an item, then call `wake`."""
        super().put(item, block, timeout)
        self._wake()


class SocketWakeup:
    """A self-pipe, with which threads wake a thread that waits for data of a socket."""

    def __init__(self, watched: socket.socket) -> None:
        """Create the self-pipe.

        Args:
            watched: The socket from which the waiting thread reads data.
        """
        self._receiving, self._sending = socket.socketpair()
        self._receiving.settimeout(0)
        self._sending.settimeout(0)
        self._watched = watched.fileno()
        self._poll = select.poll()  # select() fails with many open files
        self._poll.register(watched, select.POLLIN)
        self._poll.register(self._receiving, select.POLLIN)

    def wake(self) -> None:
        """Wake the waiting thread. If no thread waits, the next `wait` returns at once.

        Errors are ignored.
        """
        with suppress(OSError):  # the buffer is full, or the socket is closed
            self._sending.send(b"!")

    def wait(self, timeout_s: float) -> bool:
        """Wait for data or a call of `wake`, at most `timeout_s` seconds.

        Returns:
            Whether the watched socket has data to read, or its connection has ended.
        """
        events = dict(self._poll.poll(timeout_s * 1000))
        if self._receiving.fileno() in events:
            with suppress(OSError):
                self._receiving.recv(4096)
        return self._watched in events

    def close(self) -> None:
        """Close the sockets of the self-pipe, but not the watched socket."""
        self._receiving.close()
        self._sending.close()


class ReactorEvent(threading.Event):
    """The event that the thread of an association waits for in each pass of its loop.

    It replaces pynetdicom's own event. That event is always set if the peer opened the
    association, so the thread would never wait. A wait for this event ends if one of
    the queues has an item, if the event is set, or after CHECK_INTERVAL_S.

    Attributes:
        queues: The queues with work for the thread.
    """

    def __init__(self) -> None:
        """Create an event without queues."""
        super().__init__()
        self.queues: Sequence[queue.Queue[Any]] = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as the docstring of the class says, clear the event, and return True.

        Args:
            timeout: Maximum time in seconds; None or 0 means CHECK_INTERVAL_S.
        """
        if all(each.empty() for each in self.queues):
            super().wait(timeout or CHECK_INTERVAL_S)
        self.clear()
        return True
