"""A network line from the node to an archive or a database, with adjustable faults."""

import socket
import threading
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

CHUNK = 4096


class State(Enum):
    """How the line handles data and connections."""

    GOOD = auto()
    HANGS = auto()  # accepts data until its buffers are full, and transfers nothing
    SLOW = auto()  # 10 kB/s
    DOWN = auto()  # refuses connections
    CUTS = auto()  # closes each new connection


class Line:
    """A proxy that forwards data between its port and another port or a Unix socket."""

    def __init__(self, target: int | Path) -> None:
        """Start to forward to `target`: a port of this host, or a Unix socket."""
        self._target = target
        self._ends: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._state = State.GOOD
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self._start_accepting()

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        """Set the state, for open and new connections.

        Open connections are closed if the previous state was neither GOOD nor SLOW, or
        if the new state is DOWN.
        """
        with self._changed:
            before, self._state = self._state, state
            self._changed.notify_all()
        if before is State.DOWN and state is not State.DOWN:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
            self._start_accepting()
        if state is State.DOWN:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        if State.GOOD is not before is not State.SLOW or state is State.DOWN:
            self._break()

    def close(self) -> None:
        self.state = State.DOWN

    def _break(self) -> None:
        with self._changed:
            ends = list(self._ends)
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _start_accepting(self) -> None:
        threading.Thread(
            target=self._accept, args=(self._listening,), daemon=True
        ).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            if self._state is State.CUTS:
                near.close()
                continue
            try:
                far = _connect(self._target)
            except OSError:
                near.close()
                continue
            with self._changed:
                self._ends |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(
                    target=self._forward, args=(one, other), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self._ends.discard(source)
        source.close()

    def _wait(self) -> None:
        with self._changed:
            if self._state is State.SLOW:
                changed = lambda: self._state is not State.SLOW  # noqa: E731
                self._changed.wait_for(changed, CHUNK / 10_000)
            self._changed.wait_for(lambda: self._state is not State.HANGS)


def _connect(target: int | Path) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection(("127.0.0.1", target))
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(target))
    except OSError:
        connection.close()
        raise
    return connection
