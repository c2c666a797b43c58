"""The process from which the fork servers of all decoding children are forked.

The supervisor starts this process as a role, as a fork of the server of the receivers
(commands/node.py). It has imported the codecs, and it has no secrets. A role that
decodes images requests a fork server of its own from it (decoder/server.py). So the
codecs are imported once, and all roles share their memory. If the role or its fork
server dies, the other roles are not affected. If this process dies, the decoders of all
roles die. The supervisor restarts it, and each image in progress is decoded again.
"""

import argparse
import logging
import os
from contextlib import suppress

from dicom_node.decoder.process import prepare, serve
from dicom_node.decoder.server import (
    MMAP_THRESHOLD,
    ONE_THREAD,
    PASSED_VARIABLES,
    TRIM_THRESHOLD,
)
from dicom_node.runtime.fork_server import serve_requests
from dicom_node.runtime.prctl import LIBC

OTHER_LIBRARIES_MB = 112
"""Address space that the libraries of the receivers occupy in this process.

It is added to the limit of each child, because a child does not use these libraries.
Without them, a new child occupies 460 MB, with them 560 MB.
"""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main() -> None:
    """Fork a fork server for each request; each of its forks then makes calls."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    arguments = parser.parse_args()
    _restrict_environment()
    _keep_freed_memory()
    prepare()
    _discard_output()
    orders = serve_requests(arguments.requests, arguments.supervisor)
    serve(orders, os.getppid(), additional_mb=OTHER_LIBRARIES_MB)


def _discard_output() -> None:
    """Discard what codecs write to the standard streams: values of an image."""
    logging.getLogger().setLevel(logging.WARNING)  # as in a new process
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


def _restrict_environment() -> None:
    for name in set(os.environ) - set(PASSED_VARIABLES):
        del os.environ[name]
    os.environ.update(ONE_THREAD)


def _keep_freed_memory() -> None:
    """Let the C library keep large memory blocks, as KEEPING_MEMORY does."""
    with suppress(AttributeError):  # the C library has no mallopt
        LIBC.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        LIBC.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
