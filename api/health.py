"""Is the process alive, and is it of use?

`/healthz` says that the process serves; restart it when that fails. `/readyz` says
that it can do its work, or why not; send it no requests until it can.
"""

from collections.abc import Callable, Mapping
from functools import partial

from fastapi import APIRouter, Response, status
from fastapi.responses import PlainTextResponse
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from config.settings import StorageSettings
from dicom_node.database import WAIT_S, open_engine
from dicom_node.errors import OutOfResourcesError
from dicom_node.spool import probe

Check = Callable[[], None]
"""Returns when all is well; raises NotReadyError."""

OK = "ok"

READ_ONLY = (
    "the database can be read but not written; see that its file and folder, or its "
    "server, are not read-only"
)

BUSY = (
    f"the database is busy: for {WAIT_S} s another process has kept it from being "
    "written; if this lasts, find that process"
)

_WHY = {"application/json": {"example": {"model": "the model is being loaded"}}}


class NotReadyError(Exception):
    """Something that the work needs is missing; the message says what, in words."""


def storage_checks(storage: StorageSettings) -> dict[str, Check]:
    """Check what every role needs: a database and a disk that can be written."""
    return {  # the folder first: SQLite's file may lie in it
        "spool": partial(check_spool, storage),
        "database": partial(check_database, storage.database_url),
    }


def check_database(url: str) -> None:
    """Begin to write to the database, and leave it at that.

    Raises:
        NotReadyError: It does not answer, is busy, or takes no writes. The message
            quotes nothing of the URL, which may hold a password.
    """
    engine = open_engine(url)
    try:
        with engine.connect() as connection:  # rolls back in the end
            _check_writes(connection)
    except SQLAlchemyError as error:
        if _is_of_sqlite(error, "SQLITE_READONLY"):
            raise NotReadyError(READ_ONLY) from None
        if _is_of_sqlite(error, "SQLITE_BUSY"):
            raise NotReadyError(BUSY) from None
        raise NotReadyError(
            f"the database does not answer ({type(error).__name__}); see that it runs "
            "and that storage.database is right"
        ) from None
    finally:
        engine.dispose()


def _check_writes(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        answer = connection.execute(text("SHOW transaction_read_only"))
        if answer.scalar_one() != "off":
            raise NotReadyError(READ_ONLY)
        return
    # Of a file that it may only read, SQLite makes BEGIN IMMEDIATE a plain BEGIN; the
    # first write is refused. This one needs no table.
    connection.execute(text("PRAGMA user_version = 1"))


def _is_of_sqlite(error: SQLAlchemyError, name: str) -> bool:
    """Tell SQLite's error, whose extended names begin with the plain one."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlite_errorname", "").startswith(name)


def check_spool(storage: StorageSettings) -> None:
    """Write a file where the spool is, and see that there is room.

    Raises:
        NotReadyError: What is sent now would be refused.
    """
    try:
        probe(storage)
    except OutOfResourcesError as error:
        raise NotReadyError(str(error)) from None


def health_router(checks: Mapping[str, Check]) -> APIRouter:
    """Serve /healthz and /readyz."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse, response_description="ok")
    async def healthz() -> str:
        """Say that the process serves. Asks nothing and waits for nothing."""
        return OK

    @router.get(
        "/readyz",
        response_description="Ready",
        responses={503: {"description": "Not ready, and why", "content": _WHY}},
    )
    def readyz(response: Response) -> dict[str, str]:
        """Say of each thing that the work needs that it is 'ok', or what is wrong."""
        states = {name: state_of(check) for name, check in checks.items()}
        if any(state != OK for state in states.values()):
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return states

    return router


def state_of(check: Check) -> str:
    """Ask a check: "ok", or what is wrong in words."""
    try:
        check()
    except NotReadyError as error:
        return str(error)
    return OK
