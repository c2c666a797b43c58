"""Common fixtures: real files, programs that tests use as peers, and a journal."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from socketserver import BaseServer
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, expect, sync_playwright
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from config.settings import StorageSettings
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import (
    audit,
    commitment,
    delivered_object,
    delivery,
    echo,
    event,
    examination,
    feedback,
    finding,
    heartbeat,
    instance,
    patient,
    paused_destination,
    peer_state,
    result,
    storage,
)
from tests.support.certificates import Certificates, make_certificates
from tests.support.databases import create_migrated
from tests.support.decoders import (  # noqa: F401 - fixtures
    common_decoders,
    decoder_requests,
)
from tests.support.journals import Receive, destination, work_item
from tests.support.levels import (  # noqa: F401 - hooks of pytest
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_runtest_protocol,
)
from tests.support.preloaded import (  # noqa: F401 - fixtures
    preloaded_model,
    shipped_model,
)
from tests.support.roles import role_server  # noqa: F401 - a fixture
from tests.support.validators import Complaints, dciodvfy_errors

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Debian has a separate folder for each version of the PostgreSQL server.
POSTGRESQL = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
# Shell script that runs a PostgreSQL server until its input ends, which also happens
# when pytest is killed. Its arguments are the paths of initdb and pg_ctl, and a folder.
SERVE = """
"$1" -D "$3/data" -U postgres --auth=trust --no-sync >/dev/null || exit
"$2" -D "$3/data" -l "$3/log" --wait start >/dev/null \\
    -o "-c listen_addresses= -c unix_socket_directories=$3 -F" || exit
echo ready
read -r _
"$2" -D "$3/data" --mode=immediate stop >/dev/null
rm -rf "$3/data"
"""
EXPECT_MS = 30_000  # for a busy machine; usually much shorter
CHROMIUM = [
    # CI runs as root in a container, where the sandbox does not work.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # A host name in a local network, for which browsers send no Sec-Fetch-Site.
    "--host-resolver-rules=MAP node.test 127.0.0.1",
]
# Hundreds of tests shut down a server of socketserver. By default, a server notices
# this up to half a second later.
BaseServer.serve_forever.__defaults__ = (0.02,)
DEBIAN = ":".join(["/usr/bin", "/usr/sbin", *POSTGRESQL])


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real files: DICOM files in `dicom`, and radiographs.

    If the folder is absent, the test is skipped.
    """
    if not (SHARED / "dicom" / "MANIFEST.csv").exists():
        pytest.skip("../shared is absent: no real files to test with")
    return SHARED


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Return a function that returns the path of a program of Debian by its name.

    For example, it finds echoscu of DCMTK and not echoscu of pynetdicom. If the program
    is absent, the test is skipped. In CI, which installs every peer, the test fails.
    """

    def find(program: str) -> str:
        path = shutil.which(program, path=DEBIAN)
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{program} is absent, and CI must install every peer")
        if path is None:
            pytest.skip(f"{program} is absent")
        return path

    return find


@pytest.fixture(scope="module")
def browser(peer: Callable[[str], str]) -> Iterator[Browser]:
    """Yield Debian's Chromium without windows, which makes no background requests."""
    expect.set_options(timeout=EXPECT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=peer("chromium-headless-shell"), args=CHROMIUM
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def certificates(
    peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Certificates:
    """Return certificates for DICOM TLS."""
    return make_certificates(peer, tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def complaints(peer: Callable[[str], str]) -> Complaints:
    """Return a function that returns the errors of dciodvfy for a file.

    An error names its attribute without the sequences that contain it.
    """
    return partial(dciodvfy_errors, peer("dciodvfy"))


@pytest.fixture(scope="session")
def new_port() -> Callable[[], int]:
    """Return a function that returns an unused TCP port.

    It is for peers that cannot choose a port themselves.
    """

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        return port

    return find


@pytest.fixture
def free_port(new_port: Callable[[], int]) -> int:
    """Return an unused TCP port."""
    return new_port()


@pytest.fixture(scope="session")
def postgresql(peer: Callable[[str], str]) -> Iterator[str]:
    """Run a PostgreSQL server; yield the URL of its administration database."""
    initdb, pg_ctl = peer("initdb"), peer("pg_ctl")
    # The server refuses to run as root. It cannot use a folder of pytest, because other
    # users have no access to it and its name is too long for a socket.
    owner = "postgres" if os.geteuid() == 0 else None

    start = partial(
        subprocess.Popen,
        user=owner,
        group=owner,
        extra_groups=None if owner is None else [],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must only reach pytest
    )
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        Path(folder).chmod(0o755)  # for clients of any user; the data stays private
        if owner:
            shutil.chown(folder, owner, owner)
        with start(["sh", "-c", SERVE, "sh", initdb, pg_ctl, folder]) as server:
            assert server.stdout.readline() == b"ready\n", "PostgreSQL does not start"
            yield f"postgresql://postgres@/postgres?host={folder}"
            server.communicate()


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
)
def create(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], StorageSettings]:
    """Return a function that returns settings for a new database.

    The database has no tables. On SQLite, its file does not exist yet.
    """

    def make() -> StorageSettings:
        directory, url = tmp_path_factory.mktemp("database"), ""
        if request.param == "postgresql":
            administration: str = request.getfixturevalue("postgresql")
            name = f"test_{uuid4().hex}"
            with psycopg.connect(administration, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            url = administration.replace("/postgres?", f"/{name}?")
        return StorageSettings(directory=directory, database=url, min_free_mb=0)

    return make


@pytest.fixture(scope="module")
def migrated(create: Callable[[], StorageSettings]) -> StorageSettings:
    """Create a migrated database for all tests of a file; return its settings."""
    storage = create()
    create_migrated(storage)
    return storage


@pytest.fixture(scope="module")
def common_engine(migrated: StorageSettings) -> Iterator[sa.Engine]:
    """Yield the engine for all tests of a file.

    The tests share it, because it keeps the statements that it compiled.
    """
    engine = open_engine(migrated.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(common_engine: sa.Engine) -> sa.Engine:
    """Delete all rows of the journal and of the queue; return the common engine.

    This is faster than a new database. The counters of the metrics keep their values.
    """
    with common_engine.begin() as connection:
        leaves = commitment, delivered_object, delivery, result, event, patient, finding
        others = (
            instance,
            examination,
            paused_destination,
            peer_state,
            audit,
            echo,
            heartbeat,
        )
        for table in (*leaves, feedback, *others, storage):
            connection.execute(table.delete())
        connection.execute(work_item(common_engine).delete())
    return common_engine


@pytest.fixture
def journal(engine: sa.Engine, tmp_path: Path) -> Journal:
    return Journal(engine, tmp_path, [destination("pacs"), destination("backup")])


@pytest.fixture
def receive(tmp_path: Path) -> Receive:
    def make(digest: str = "d1", **header: str) -> ReceivedInstance:
        identity = uuid4().hex
        (tmp_path / "spool").mkdir(exist_ok=True)
        (tmp_path / "spool" / f"{identity}.dcm").touch()
        known = {
            "sop_class_uid": DigitalXRayImageStorageForPresentation,
            "sop_instance_uid": generate_uid(),
            "transfer_syntax_uid": ExplicitVRLittleEndian,
            "study_instance_uid": "1.2.3",
        }
        return ReceivedInstance(
            id=identity,
            path=tmp_path / "spool" / f"{identity}.dcm",
            header=InstanceHeader(**known | header),
            content_digest=digest,
            size=1000,
            calling_ae_title="MODALITY",
            calling_address="127.0.0.1",
            received_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )

    return make
