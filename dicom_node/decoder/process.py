"""The decoder: runs the function calls that another process sends (decoder/client.py).

A decoder is a fork of a fork server, which runs this module (runtime/fork_server.py).
In this module, the parent of a decoder is the process that sends the calls. A decoder
cannot open files, so this module imports everything that a decoder will need.
"""

import codecs
import encodings
import logging
import os
import pkgutil
import resource
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

import cv2
import numpy.ma  # noqa: F401 - numpy imports it when it is first needed
from PIL import Image, ImageFont

import dicom_node.dataset.local_file
import dicom_node.pixels.decode
import dicom_node.pixels.rendering
import dicom_node.results.encode
import dicom_node.results.examination_picture  # noqa: F401 - a child cannot import any
from dicom_node.decoder.client import (
    LOG,
    LOGGED_PACKAGES,
    MAX_RECORDS,
    OUT_OF_MEMORY,
    RAISED,
    RETURNED,
)
from dicom_node.decoder.confinement import confine
from dicom_node.decoder.messages import (
    MAX_TEXT,
    Channel,
    pack_error,
    pack_response,
    unpack_call,
)
from dicom_node.decoder.server import LIMITS
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.log.format import log_of_main_thread, log_uncaught
from dicom_node.reasons import Failure
from dicom_node.results.measurement_report import load_tables
from dicom_node.runtime.fork_server import command_line, serve_forks
from dicom_node.runtime.prctl import name_process
from inference.plain_image import PlainImageError


class _Relay(logging.Handler):
    """A handler that sends log records to the parent.

    After MAX_RECORDS records, it drops all further records until `left` is reset.
    `_serve` resets `left` before each call.

    Attributes:
        left: Number of records that may be sent until the next reset.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self.left = MAX_RECORDS

    def emit(self, record: logging.LogRecord) -> None:
        if self.left:
            self.left -= 1
            message = record.getMessage()[:MAX_TEXT]
            content = record.name, record.levelno, message
            self._channel.send(*pack_response(LOG, content))


def main() -> None:
    """Run the fork server of the decoders. Each fork is a decoder."""
    arguments = command_line().parse_args()
    prepare()
    serve(arguments.orders, arguments.supervisor)


def prepare() -> None:
    """Ignore SIGINT, SIGTERM and warnings; load the modules that the forks need."""
    # Ctrl-C and `systemctl stop` send a signal to every process, but the parent decides
    # when a decoder ends. If a decoder died during a call, the image would be blamed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    _load_lazy_modules()


def serve(orders: int, parent: int, additional_mb: int = 0) -> None:
    """Fork a decoder for each order. This function never returns.

    The server ends when the process that sends the orders has ended. A fork runs calls
    until the other end of its socket is closed, and then ends.

    Args:
        orders: The descriptor of the socket for orders: see `serve_forks`.
        parent: The id of the process that started or forked this server. If it dies,
            the kernel kills the server.
        additional_mb: MB to add to the memory limit in an order.
    """
    order = serve_forks(orders, parent)
    # From here on, this process is a child. It ends without the cleanup of the
    # interpreter, because the confinement does not permit that.
    status = 1
    try:
        memory_mb, niceness = LIMITS.unpack(order.content)
        os.nice(niceness)
        _limit_memory((memory_mb + additional_mb) * 2**20)
        name_process("decoder")
        (end,) = order.files
        _serve(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, end))
        status = 0
    finally:
        os._exit(status)


def _limit_memory(size: int) -> None:
    """Limit the address space to `size` bytes, or to the hard limit if it is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _serve(end: socket.socket) -> None:
    """Confine this process, report the confinement to the parent, and run its calls.

    Return when the parent has ended or has closed the socket. After a MemoryError, end
    the process with the status OUT_OF_MEMORY.
    """
    channel = Channel(end)
    relay = _Relay(channel)
    for name in LOGGED_PACKAGES:
        logging.getLogger(name).addHandler(relay)
    log_uncaught()
    sys.excepthook = _end_without_memory
    channel.send(*pack_response(RETURNED, confine()))
    try:
        while True:
            relay.left = MAX_RECORDS
            _serve_one_call(channel)
    except (EOFError, OSError):
        return  # the parent has ended, or has closed the socket
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _end_without_memory(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """End the process after a MemoryError in a codec that is written in Rust.

    Such a codec does not raise the error: it calls `sys.excepthook`, and then panics.
    The panic is not an Exception, so `_serve_one_call` does not catch it. Other errors
    are logged.
    """
    if issubclass(kind, MemoryError):
        os._exit(OUT_OF_MEMORY)
    log_of_main_thread(kind, error, trace)


def _load_lazy_modules() -> None:
    """Load the modules and tables that libraries load when an image needs them."""
    cv2.setNumThreads(1)  # the confinement does not allow cv2 to start threads
    datetime.strptime("2000", "%Y")  # noqa: DTZ007
    Image.init()
    ImageFont.load_default(10)
    load_tables()
    # A file may name any Python encoding as its character set. The East Asian encodings
    # load their tables when an encoder is made.
    for encoding in pkgutil.iter_modules(encodings.__path__):
        with suppress(LookupError, TypeError):  # not an encoding, or not on this system
            codecs.getincrementalencoder(encoding.name)()


def _serve_one_call(channel: Channel) -> None:
    """Receive one call, run its function, and send the result or error.

    Raises:
        EOFError, OSError: The parent has ended, or has closed the socket.
        MemoryError: The call needs more memory than this process may have.
    """
    head, buffers, files = channel.receive_call()
    try:
        function, args = unpack_call(head, buffers, files)
        del head, buffers  # free what the arguments do not use
        response = pack_response(RETURNED, function(*args))
    except (DicomNodeError, PlainImageError) as error:
        response = pack_response(RAISED, pack_error(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a bug must not end the process
        unexpected = AnalysisError(
            f"Decoding failed unexpectedly: {type(error).__name__} {_position(error)}.",
            Failure.PROGRAM,
        )
        response = pack_response(RAISED, pack_error(unexpected))
    finally:
        for each in files:
            os.close(each)
    channel.send(*response)


def _position(error: Exception) -> str:
    """Return the function, file and line where an error was raised, as a text.

    The message of the error is omitted, because it may quote values of the image.
    """
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
