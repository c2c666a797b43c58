"""What /healthz and /readyz say, and the checks behind them."""

import asyncio
import socket
import sqlite3
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import FastAPI

import dicom_node.database
from api.access import Access
from api.entrance import Entrance
from api.health import (
    Check,
    NotReadyError,
    check_database,
    check_spool,
    health_router,
    storage_checks,
)
from config.settings import StorageSettings, load
from dicom_node.database import migrate


def well() -> None:
    """A check that finds nothing."""


def ill() -> None:
    raise NotReadyError("the model is being loaded")


def asked(
    path: str, checks: dict[str, Check], roles: dict[str, Check] | None = None
) -> httpx.Response:
    """Ask an application that has nothing but the health router, and is open."""
    app = FastAPI()
    app.add_middleware(Entrance, access=Access(load(None, {})))
    app.include_router(health_router(checks, roles or {}))
    transport = httpx.ASGITransport(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1"
        ) as user:
            return await user.get(path)

    return asyncio.run(ask())


def test_alive_is_two_letters_whatever_the_checks_say() -> None:
    response = asked("/healthz", {"model": ill})

    assert (response.status_code, response.text) == (200, "ok")


def test_ready_when_every_check_is_well() -> None:
    response = asked("/readyz", {"model": well, "spool": well})

    assert response.status_code == 200
    assert response.json() == {"model": "ok", "spool": "ok"}


def test_not_ready_with_the_reason_when_one_is_not() -> None:
    response = asked("/readyz", {"model": ill, "spool": well})

    assert response.status_code == 503
    assert response.json() == {"model": "the model is being loaded", "spool": "ok"}


def test_a_dead_worker_is_the_nodes_trouble_and_not_the_apis() -> None:
    checks: dict[str, Check] = {"model": well}

    def dead() -> None:
        raise NotReadyError("no worker is running")

    whole = asked("/readyz", checks, {"worker": dead})
    alone = asked("/readyz?role=api", checks, {"worker": dead})

    assert whole.status_code == 503
    assert whole.json() == {"model": "ok", "worker": "no worker is running"}
    assert alone.status_code == 200
    assert alone.json() == {"model": "ok"}
    assert asked("/readyz?role=api", {"model": ill}).status_code == 503
    assert asked("/readyz?role=worker", checks).status_code in {400, 422}


def test_api_alone_is_ready_on_an_empty_disk(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    environment = {"FRACTURE_NODE__STORAGE__DIRECTORY": str(directory)}

    response = asked("/readyz", storage_checks(load(None, environment).storage))

    assert response.json() == {"spool": "ok", "database": "ok"}
    assert [path.name for path in directory.iterdir()] in ([], ["node.sqlite"])


def test_spool_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")

    with pytest.raises(NotReadyError, match=r"^storage\.directory cannot be written: "):
        check_spool(storage(tmp_path / "data"))


def test_spool_on_a_disk_with_less_room_than_must_be_is_not_ready(
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

    # As SQLite opens a file without the right to write it; root has every right.
    with pytest.raises(NotReadyError, match="can be read but not written"):
        check_database(f"sqlite:///file:{file}?mode=ro&uri=true")


def test_sqlite_that_another_process_writes_is_busy_and_not_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_node.database, "WAIT_S", 0)
    file = tmp_path / "node.sqlite"
    migrate(StorageSettings(directory=tmp_path, database="", min_free_mb=1))

    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotReadyError, match="the database is busy"):
            check_database(f"sqlite:///{file}")
        other.execute("ROLLBACK")

    check_database(f"sqlite:///{file}")


def test_asking_leaves_nothing_in_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.sqlite'}"
    migrate(StorageSettings(directory=tmp_path, database="", min_free_mb=1))
    with sqlite3.connect(tmp_path / "node.sqlite") as file:
        before = list(file.iterdump())

    check_database(url)
    check_database(url)  # the first has let go of the lock

    assert list(file.iterdump()) == before


@pytest.mark.postgresql
def test_postgresql_that_takes_no_writes_is_not_ready(postgresql: str) -> None:
    url = postgresql.replace("postgresql:", "postgresql+psycopg:")
    check_database(url)
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute("CREATE ROLE looker LOGIN")
        administration.execute("ALTER ROLE looker SET default_transaction_read_only=on")

    with pytest.raises(NotReadyError, match="can be read but not written"):
        check_database(url.replace("postgres@", "looker@"))


def test_database_that_is_away_is_told_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]  # nobody listens there when it is closed
    url = f"postgresql+psycopg://node:pass-word@127.0.0.1:{port}/node"

    with pytest.raises(NotReadyError, match="the database does not answer") as error:
        check_database(url)

    assert "pass-word" not in str(error.value)
