"""The common decoding server: the process that forks the fork servers of all decoders.

The supervisor starts this process like a role: it is a fork of the server of the
receivers (commands/node.py). The process has imported the codecs, and has no secrets.
Each role that decodes images requests its own fork server from this process
(decoder/server.py). So the codecs are imported once, and all decoders share the memory
of the codecs. If a role or its fork server dies, the other roles are not affected. If
this process dies, the decoders of all roles die. The supervisor then restarts this
process, and each image in progress is decoded again.
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
"""Address space in MB that the libraries of the receivers occupy in this process.

This number is added to the memory limit of each child, because a child inherits these
libraries, but does not use them.
"""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main() -> None:
    """Fork a fork server for each request. The forks of a fork server are decoders."""
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
    """Discard standard output and error, because codecs write values of an image there.

    Standard input is empty.
    """
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
    """Let the C library keep large memory blocks: see KEEPING_MEMORY in server.py."""
    with suppress(AttributeError):  # the C library has no mallopt
        LIBC.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        LIBC.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
