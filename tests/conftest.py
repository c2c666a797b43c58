"""What many tests need: the real files where they are there, real peers, a port."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
DEBIAN = "/usr/bin:/usr/lib/postgresql/15/bin:/usr/sbin"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real DICOM files and radiographs; skips where it is absent."""
    if not (SHARED / "dicom" / "MANIFEST.csv").exists():
        pytest.skip("../shared is absent: no real files to test with")
    return SHARED


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Find a peer's program by name: DCMTK's, not pynetdicom's of the same name.

    Skips where it is absent, but in CI, which installs every peer, fails.
    """

    def find(program: str) -> str:
        path = shutil.which(program, path=DEBIAN)
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{program} is absent, and CI must install every peer")
        if path is None:
            pytest.skip(f"{program} is absent")
        return path

    return find


@pytest.fixture
def free_port() -> int:
    """A TCP port nobody listens on, for peers that cannot be told 'any'."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
