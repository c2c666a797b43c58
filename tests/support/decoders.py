"""Fixtures: one common decoding server for all tests of a pytest process.

A test file gets its decoders from this server if it uses the fixture `common_decoders`.
The server imports the codecs once, which takes two seconds of processor time. Without
the fixture, each decoder has a fork server that imports the codecs itself.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.decoder import server

ROOT = Path(__file__).resolve().parents[2]
SERVE = "from dicom_node.decoder.common_server import main; main()"


@pytest.fixture(scope="session")
def decoder_requests() -> Iterator[socket.socket]:
    """Run a common decoding server; yield the socket for requests to it."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-c", SERVE),
                *(f"--requests={number}", f"--supervisor={os.getpid()}"),
            ],
            pass_fds=[number],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    with process, ours:
        yield ours
        process.kill()


@pytest.fixture(scope="module")
def common_decoders(decoder_requests: socket.socket) -> Iterator[None]:
    """Let the tests of a file get their decoders from the common decoding server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_common", decoder_requests)
        yield
