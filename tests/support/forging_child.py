"""A decoder that an attacker controls. It runs the Python code in each call.

It imports no codecs, so that it starts quickly.
"""

import json
import pickle
import socket
import struct
from io import BytesIO
from typing import Any

from dicom_node.runtime.fork_server import command_line, serve_forks

END: socket.socket


def send(*parts: bytes) -> None:
    """Send bytes to the parent process, without framing."""
    END.sendall(b"".join(parts))


def answer(content: Any, *buffers: bytes) -> None:  # noqa: ANN401 - any JSON value
    """Send a framed message: a head and buffers.

    The head is `content`, which is encoded as JSON unless it is bytes.
    """
    head = content if isinstance(content, bytes) else json.dumps(content).encode()
    sizes = [struct.pack("<Q", len(each)) for each in buffers]
    send(struct.pack("<IQ", len(buffers), len(head)), *sizes, head, *buffers)


class Arguments(pickle.Unpickler):
    """An unpickler of calls. It returns the name of a function, not the function."""

    def find_class(self, module: str, name: str) -> str:
        return f"{module}.{name}"


def serve(end: socket.socket) -> None:
    """Send the message that reports readiness, then run the code of each call."""
    global END  # noqa: PLW0603
    END = end
    answer(["returned", {"landlock": 0, "seccomp": False}])
    while header := END.recv(12, socket.MSG_WAITALL):
        _, length = struct.unpack("<IQ", header)
        call = BytesIO(END.recv(length, socket.MSG_WAITALL))
        _, args = Arguments(call).load()
        exec(args[0], globals())  # noqa: S102


def main() -> None:
    """Run the fork server. Each fork serves calls."""
    arguments, _ = command_line().parse_known_args()
    (end,) = serve_forks(arguments.orders, arguments.supervisor).files
    serve(socket.socket(fileno=end))
