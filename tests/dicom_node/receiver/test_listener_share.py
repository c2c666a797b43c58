"""If listeners share a socket, an idle listener accepts most of the callers."""

import socket
import threading

import pytest

from dicom_node.network.sockets import listen
from dicom_node.receiver.listener import Listener, PendingAssociation

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
