"""Opens, reads and closes TCP sockets within deadlines."""

import socket
import time
from contextlib import suppress

BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return an open listening socket, which several processes may share.

    Port 0 means any free port. An IPv6 socket also accepts IPv4 connections if the
    system supports that.

    Raises:
        OSError: The port is in use, or the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
    )


def receive(connection: socket.socket, length: int, deadline: float) -> bytearray:
    """Return the next `length` bytes; fewer if the connection ends first.

    Args:
        connection: The connection. The function changes its timeout.
        length: Number of bytes to read.
        deadline: Time of the monotonic clock, in seconds, at which all bytes must have
            arrived.

    Raises:
        OSError: The connection broke, or the deadline has passed.
    """
    data = bytearray(length)
    with memoryview(data) as view:
        count = receive_into(connection, view, deadline)
    return data if count == length else data[:count]


def receive_into(connection: socket.socket, view: memoryview, deadline: float) -> int:
    """Fill `view` with bytes of a connection, and return the number of bytes read.

    The number is less than the length of the view if the connection ends first. See
    `receive` for the deadline and the errors.
    """
    count = 0
    while count < len(view):
        set_time_left(connection, deadline)
        received = connection.recv_into(view[count:])
        if not received:
            break
        count += received
    return count


def set_time_left(connection: socket.socket, deadline: float) -> None:
    """Set the timeout of a connection to the time that is left until a deadline.

    Args:
        connection: The connection.
        deadline: Time of the monotonic clock, in seconds.

    Raises:
        TimeoutError: The deadline has passed.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("The deadline has passed")
    connection.settimeout(left)


def shut_down(connection: socket.socket) -> None:
    """End a connection in both directions, but leave the socket open.

    If a thread waits for data of the connection, it wakes up. If the connection has
    ended already, nothing happens. The owner of the socket must close it.
    """
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
