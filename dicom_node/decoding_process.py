"""The child of `decoding_child.py`: does as it is told until its parent is gone.

What it will need is imported here, before the first image comes.
"""

import ctypes
import logging
import os
import resource
import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dicom_node.decode
import dicom_node.results.encode  # noqa: F401 - both only to have them ready
from dicom_node.decoding_child import (
    LOG,
    OUT_OF_MEMORY,
    RAISED,
    RETURNED,
    receive,
    send,
)
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.logs import log_uncaught
from dicom_node.reasons import Failure
from inference.plain_image import PlainImageError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OUR_OWN = ("dicom_node", "inference")


class _Relay(logging.Handler):
    """Hands what this process logs to the parent, which has a log."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        message = (record.name, record.levelno, record.getMessage())
        send(self._connection, (LOG, message))


def main() -> None:
    """Serve calls: `decoding_process.py SOCKET MEMORY_MB PARENT`."""
    socket, memory_mb, parent = map(int, sys.argv[1:])
    _die_with(parent)
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # A core dump would hold somebody's radiograph.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C and `systemctl stop` go to every process, and when to end is the parent's
    # business: were this one to die at its work, that would count against an image.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    connection = Connection(socket)
    for name in OUR_OWN:
        logging.getLogger(name).addHandler(_Relay(connection))
    log_uncaught()
    send(connection, (RETURNED, None))
    try:
        while True:
            send(connection, _called(connection))
    except (EOFError, OSError):
        return  # the parent is gone, or wants no more


def _die_with(parent: int) -> None:
    """Have the kernel kill this process, busy or not, when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(1)


def _called(connection: Connection) -> tuple[str, Any]:
    """Take one call and make it."""
    function, args = receive(connection)
    try:
        return RETURNED, function(*args)
    except (DicomNodeError, PlainImageError) as error:
        return RAISED, error
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - a bug, and no reason to die
        return RAISED, AnalysisError(
            f"Decoding failed unexpectedly: {type(error).__name__} {_where(error)}.",
            Failure.PROGRAM,
        )


def _where(error: Exception) -> str:
    """Where a bug is, without the values that its message may quote."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"


if __name__ == "__main__":
    main()
