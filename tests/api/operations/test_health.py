"""The responses of /healthz and /readyz, and their checks."""

import asyncio
import socket
import sqlite3
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import FastAPI

import dicom_node.storage.database
from api.auth.access import Access
from api.auth.middleware import AuthMiddleware
from api.operations.health import (
    Check,
    NotReadyError,
    Readiness,
    check_database,
    check_spool,
    router,
    storage_checks,
)
from config.settings import StorageSettings, load
from dicom_node.storage.migration import migrate

pytestmark = pytest.mark.integration


def succeeds() -> None:
    """A check that succeeds."""


def fails() -> None:
    raise NotReadyError("the model is being loaded")


def fetched(
    path: str, checks: dict[str, Check], roles: dict[str, Check] | None = None
) -> httpx.Response:
    """Return the response to GET `path` from an application with health routes only.

    The application requires no login.
    """
    app = FastAPI()
    settings = load(None, {})
    access = Access(settings.api, settings.storage.directory)
    app.add_middleware(AuthMiddleware, access=access)
    app.state.readiness = Readiness(checks, roles or {})
    app.include_router(router)
    transport = httpx.ASGITransport(app)

    async def fetch() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1"
        ) as client:
            return await client.get(path)

    return asyncio.run(fetch())


def test_healthz_is_ok_although_a_check_fails() -> None:
    response = fetched("/healthz", {"model": fails})

    assert (response.status_code, response.text) == (200, "ok")


def test_readyz_is_200_if_every_check_succeeds() -> None:
    response = fetched("/readyz", {"model": succeeds, "spool": succeeds})

    assert response.status_code == 200
    assert response.json() == {"model": "ok", "spool": "ok"}


def test_readyz_is_503_with_the_reason_if_a_check_fails() -> None:
    response = fetched("/readyz", {"model": fails, "spool": succeeds})

    assert response.status_code == 503
    assert response.json() == {"model": "the model is being loaded", "spool": "ok"}


def test_readyz_of_the_api_role_ignores_a_dead_worker() -> None:
    checks: dict[str, Check] = {"model": succeeds}

    def dead() -> None:
        raise NotReadyError("no worker is running")

    of_node = fetched("/readyz", checks, {"worker": dead})
    of_api = fetched("/readyz?role=api", checks, {"worker": dead})

    assert of_node.status_code == 503
    assert of_node.json() == {"model": "ok", "worker": "no worker is running"}
    assert of_api.status_code == 200
    assert of_api.json() == {"model": "ok"}
    assert fetched("/readyz?role=api", {"model": fails}).status_code == 503
    assert fetched("/readyz?role=worker", checks).status_code in {400, 422}


def test_storage_checks_succeed_in_a_new_directory(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    environment = {"FRACTURE_NODE__STORAGE__DIRECTORY": str(directory)}

    response = fetched("/readyz", storage_checks(load(None, environment).storage))

    assert response.json() == {"spool": "ok", "database": "ok"}
    assert [path.name for path in directory.iterdir()] in ([], ["node.sqlite"])


def test_spool_that_is_a_file_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")

    with pytest.raises(NotReadyError, match=r"^storage\.directory cannot be written: "):
        check_spool(storage(tmp_path / "data"))


def test_spool_on_a_disk_with_too_little_room_is_not_ready(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotReadyError, match=r"^Less than 1000000000 MB of disk are"):
        check_spool(storage(tmp_path, min_free_mb=10**9))


def storage(directory: Path, min_free_mb: int = 1) -> StorageSettings:
    return StorageSettings(directory=directory, database="", min_free_mb=min_free_mb)


def test_sqlite_file_that_cannot_be_written_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "node.sqlite"
    migrate(StorageSettings(directory=tmp_path, database="", min_free_mb=1))
    check_database(f"sqlite:///{file}")

    # Tests can run as root, so the file is opened read-only instead of protected.
    with pytest.raises(NotReadyError, match="can be read but not written"):
        check_database(f"sqlite:///file:{file}?mode=ro&uri=true")


def test_locked_sqlite_is_reported_as_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_node.storage.database, "WAIT_S", 0)
    file = tmp_path / "node.sqlite"
    migrate(StorageSettings(directory=tmp_path, database="", min_free_mb=1))

    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotReadyError, match="the database is busy"):
            check_database(f"sqlite:///{file}")
        other.execute("ROLLBACK")

    check_database(f"sqlite:///{file}")


def test_check_database_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.sqlite'}"
    migrate(StorageSettings(directory=tmp_path, database="", min_free_mb=1))
    with sqlite3.connect(tmp_path / "node.sqlite") as file:
        before = list(file.iterdump())

    check_database(url)
    check_database(url)  # the first check has released the lock

    assert list(file.iterdump()) == before


@pytest.mark.postgresql
def test_read_only_postgresql_is_not_ready(postgresql: str) -> None:
    url = postgresql.replace("postgresql:", "postgresql+psycopg:")
    check_database(url)
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute("CREATE ROLE looker LOGIN")
        administration.execute("ALTER ROLE looker SET default_transaction_read_only=on")

    with pytest.raises(NotReadyError, match="can be read but not written"):
        check_database(url.replace("postgres@", "looker@"))


def test_unreachable_database_is_reported_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]  # nothing listens on it after the block
    url = f"postgresql+psycopg://node:pass-word@127.0.0.1:{port}/node"

    with pytest.raises(NotReadyError, match="the database is not available") as error:
        check_database(url)

    assert "pass-word" not in str(error.value)
