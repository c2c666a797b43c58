"""The child of `decoding_child.py`: makes the calls that its parent sends.

The fork server runs this module, and each child is a fork of it (fork_server.py). A
child cannot open a file, so all that it will need is imported here.
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

import cv2
import numpy.ma  # noqa: F401 - numpy imports it when it is first needed
from PIL import Image, ImageFont

import dicom_node.decode
import dicom_node.local_file
import dicom_node.results.encode
import dicom_node.viewing  # noqa: F401 - all four only to have them ready
from dicom_node.confinement import confine
from dicom_node.decoding_child import (
    LOG,
    MAX_RECORDS,
    OUR_OWN,
    OUT_OF_MEMORY,
    RAISED,
    RETURNED,
)
from dicom_node.decoding_messages import (
    MAX_TEXT,
    Channel,
    pack_answer,
    pack_error,
    unpack_call,
)
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.fork_server import serve_forks
from dicom_node.logs import log_uncaught
from dicom_node.reasons import Failure
from dicom_node.results.measurement_report import load_tables
from inference.plain_image import PlainImageError


class _Relay(logging.Handler):
    """Hands what this process logs to the parent, which has a log."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self.left = MAX_RECORDS

    def emit(self, record: logging.LogRecord) -> None:
        if self.left:
            self.left -= 1
            message = record.getMessage()[:MAX_TEXT]
            content = record.name, record.levelno, message
            self._channel.send(*pack_answer(LOG, content))


def main() -> None:
    """Fork children: `decoding_process.py SOCKET PARENT MEMORY_MB NICENESS`."""
    memory_mb, niceness = map(int, sys.argv[3:])
    os.nice(niceness)
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Ctrl-C and `systemctl stop` go to every process, and when to end is the parent's
    # business: were this one to die at its work, that would count against an image.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    _load_what_is_loaded_late()
    serve_forks(_serve)


def _serve(end: socket.socket) -> None:
    """Confine this process, and make the calls that come through a socket."""
    channel = Channel(end)
    relay = _Relay(channel)
    for name in OUR_OWN:
        logging.getLogger(name).addHandler(relay)
    log_uncaught()
    channel.send(*pack_answer(RETURNED, confine()))
    with suppress(EOFError, OSError):  # the parent is gone, or wants no more
        while True:
            relay.left = MAX_RECORDS
            _serve_one_call(channel)


def _load_what_is_loaded_late() -> None:
    """Load what libraries would load at the first image that needs it."""
    cv2.setNumThreads(1)  # it would start threads, which the confinement denies
    datetime.strptime("2000", "%Y")  # noqa: DTZ007
    Image.init()
    ImageFont.load_default(10)
    load_tables()
    # A file may name any encoding of Python as its character set. Those of East Asia
    # load their tables when an encoder is made.
    for encoding in pkgutil.iter_modules(encodings.__path__):
        with suppress(LookupError, TypeError):  # not an encoding, or not of this system
            codecs.getincrementalencoder(encoding.name)()


def _serve_one_call(channel: Channel) -> None:
    """Take one call, make it, and send what came of it."""
    head, buffers, files = channel.receive_call()
    try:
        function, args = unpack_call(head, buffers, files)
        del head, buffers  # what they hold need not be held twice
        answer = pack_answer(RETURNED, function(*args))
    except (DicomNodeError, PlainImageError) as error:
        answer = pack_answer(RAISED, pack_error(error))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - a bug, and no reason to die
        unexpected = AnalysisError(
            f"Decoding failed unexpectedly: {type(error).__name__} {_where(error)}.",
            Failure.PROGRAM,
        )
        answer = pack_answer(RAISED, pack_error(unexpected))
    finally:
        for each in files:
            os.close(each)
    channel.send(*answer)


def _where(error: Exception) -> str:
    """Where a bug is, without the values that its message may quote."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"


if __name__ == "__main__":
    main()
