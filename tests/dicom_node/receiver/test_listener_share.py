"""How listeners share a socket, and how many connections of an address may wait."""

import socket
import threading
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from dicom_node.network.sockets import listen
from dicom_node.receiver.listener import (
    CROWDED,
    MOST_WAITING_PER_ADDRESS,
    Listener,
    PendingAssociation,
)

pytestmark = pytest.mark.integration

# The header of an A-ASSOCIATE-RQ, and a body of the declared length (PS3.8 9.3.2).
REQUEST = bytes([1, 0, 0, 0, 0, 4]) + bytes(4)
CALLS = 20


def test_idle_listener_accepts_most_callers_of_a_shared_socket() -> None:
    taken: list[str] = []
    changed = threading.Condition()

    def serve(name: str, caller: PendingAssociation) -> None:
        with changed:
            taken.append(name)
            changed.notify_all()
        caller.socket.close()

    with listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        shared = {name: listening.dup() for name in ("busy", "idle")}
        loads = {"busy": 20, "idle": 0}
        listeners = [
            Listener(
                {each: None},
                lambda caller, name=name: serve(name, caller),  # type: ignore[misc]
                busy=lambda name=name: loads[name],  # type: ignore[misc]
            )
            for name, each in shared.items()
        ]
        for number in range(CALLS):
            with socket.create_connection(address) as connection, changed:
                connection.sendall(REQUEST)
                assert changed.wait_for(lambda n=number: len(taken) > n, 30)  # type: ignore[misc]
        for each in listeners:
            each.stop()

    assert taken.count("idle") >= CALLS * 3 // 4


class FromOneNetwork(socket.socket):
    """A listening socket on which each caller has a new address in 2001:db8::/64."""

    _numbers = count(1)

    def accept(self) -> tuple[socket.socket, Any]:
        connection, _ = super().accept()
        return connection, (f"2001:db8::{next(self._numbers):x}", 104, 0, 0)


def test_waiting_connections_of_one_ipv6_network_are_counted_together() -> None:
    failed: list[tuple[str, str]] = []
    first_closed = threading.Event()

    def note(address: str, reason: str) -> None:
        failed.append((address, reason))
        first_closed.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        listening = FromOneNetwork(fileno=server.detach())
    listener = Listener({listening: None}, lambda _: None, on_failed=note)
    with ExitStack() as callers:
        for _ in range(MOST_WAITING_PER_ADDRESS + 1):
            callers.enter_context(socket.create_connection(address))
        is_closed = first_closed.wait(5)
        listener.stop()

    assert is_closed
    assert failed == [("2001:db8::1", CROWDED)]
