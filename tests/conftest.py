"""What many tests need: the real files where they are there, real peers, a port."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Debian keeps each version of PostgreSQL's server in a folder of its own.
POSTGRESQL = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
DEBIAN = ":".join(["/usr/bin", "/usr/sbin", *POSTGRESQL])


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


@pytest.fixture(scope="session")
def new_port() -> Callable[[], int]:
    """Finds TCP ports nobody listens on, for peers that cannot be told 'any'."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        return port

    return find


@pytest.fixture
def free_port(new_port: Callable[[], int]) -> int:
    """A TCP port nobody listens on."""
    return new_port()


@pytest.fixture(scope="session")
def postgresql(peer: Callable[[str], str]) -> Iterator[str]:
    """Run a PostgreSQL server; gives the URL of the database for administrators."""
    initdb, pg_ctl = peer("initdb"), peer("pg_ctl")
    # It refuses to be root. Its folder is not pytest's, which other users may not look
    # into and whose name is too long for a socket's.
    owner = "postgres" if os.geteuid() == 0 else None

    def run(*command: str) -> None:
        groups = None if owner is None else []
        subprocess.run(
            command,
            check=True,
            user=owner,
            group=owner,
            extra_groups=groups,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        if owner:
            shutil.chown(folder, owner, owner)
        data, log = f"{folder}/data", f"{folder}/log"
        run(initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -F"
        run(pg_ctl, "-D", data, "-l", log, "-o", options, "--wait", "start")
        yield f"postgresql://postgres@/postgres?host={folder}"
        run(pg_ctl, "-D", data, "--mode=immediate", "stop")
