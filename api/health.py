"""Is the process alive, and is it of use?

`/healthz` says that the process serves; restart it when that fails. `/readyz` says
whether the node can do its work, and if not, why: the api, and at least one receiver
and one worker on any machine. `/readyz?role=api` checks the api alone, for a load
balancer: without a worker the pages still serve, and say what is wrong.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response, status
from fastapi.responses import PlainTextResponse
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.visit import visit_of
from config.settings import StorageSettings
from dicom_node.belonging import StrangeStorageError, check_belonging
from dicom_node.database import WAIT_S, open_engine
from dicom_node.errors import OutOfResourcesError
from dicom_node.heartbeat import DEAD_AFTER_S, has_run, silence_s
from dicom_node.spool import probe

Check = Callable[[], None]
"""Returns when all is well; raises NotReadyError."""

OK = "ok"

NONE: Mapping[str, Check] = MappingProxyType({})

FRESH_S = 2.0
"""How old an answer to strangers may be."""

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


class AbsentError(Exception):
    """The node neither has nor needs what the check is about."""


def storage_checks(storage: StorageSettings) -> dict[str, Check]:
    """Check what every role needs: a database and a disk that can be written."""
    checks: dict[str, Check] = {  # the folder first: SQLite's file may lie in it
        "spool": partial(check_spool, storage),
        "database": partial(check_database, storage.database_url),
    }
    if storage.database:
        checks["storage"] = partial(check_storage, storage)
    return checks


def role_checks(engine: sa.Engine, *, expected: bool = True) -> dict[str, Check]:
    """Check that the other processes of the node live, on whatever machine.

    Args:
        engine: Of the journal.
        expected: Whether there must be a process of each role. False: only if there
            has ever been one on this database; an api may serve /predict alone.
    """
    return {
        role: partial(check_role, engine, role, expected=expected)
        for role in ("receiver", "worker")
    }


def check_role(engine: sa.Engine, role: str, *, expected: bool = True) -> None:
    """Look for a fresh sign of life of any process of a role.

    Raises:
        NotReadyError: There is none, or the database does not answer.
        AbsentError: There never was one, and none is expected.
    """
    try:
        silent_s = silence_s(engine, role)
        if silent_s is None and not expected and not has_run(engine, role):
            raise AbsentError
    except SQLAlchemyError:
        raise NotReadyError("the database does not say") from None
    if silent_s is None:
        raise NotReadyError(f"no {role} is running; start `fracture-node serve`")
    if silent_s > DEAD_AFTER_S:
        raise NotReadyError(
            f"no {role} has given a sign of life for {silent_s:.0f} s; see its log"
        )


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


def check_storage(storage: StorageSettings) -> None:
    """See that the storage directory is the one that the database speaks of.

    Raises:
        NotReadyError: It is another, or the database does not say.
    """
    engine = open_engine(storage.database_url)
    try:
        check_belonging(engine, storage)
    except (StrangeStorageError, OSError) as error:
        raise NotReadyError(str(error)) from None
    except SQLAlchemyError:
        raise NotReadyError("the database does not say which it is") from None
    finally:
        engine.dispose()


def health_router(
    checks: Mapping[str, Check], roles: Mapping[str, Check] = NONE
) -> APIRouter:
    """Serve /healthz and /readyz.

    Args:
        checks: What the api itself needs, by name.
        roles: Whether the other processes of the node live.
    """
    router = APIRouter(tags=["health"])
    latest = _Latest({**checks, **roles})

    @router.get("/healthz", response_class=PlainTextResponse, response_description="ok")
    async def healthz() -> str:
        """Say that the process serves. Asks nothing and waits for nothing."""
        return OK

    @router.get(
        "/readyz",
        response_description="Ready",
        responses={503: {"description": "Not ready, and why", "content": _WHY}},
    )
    async def readyz(
        request: Request,
        response: Response,
        role: Annotated[
            Literal["api"] | None,
            Query(description="Check the api alone, for a load balancer"),
        ] = None,
    ) -> dict[str, str]:
        """Say of each thing that the work needs that it is 'ok', or what is wrong.

        A receiver and a worker are among these. A request without access to the pages
        gets one word about the whole node: 'ok' or 'not ready'.
        """
        stranger = visit_of(request).person is None
        states = await latest.states(FRESH_S if stranger else 0)
        if role is not None:
            states = {name: words for name, words in states.items() if name in checks}
        ready = all(state == OK for state in states.values())
        if not ready:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        if stranger:
            return {"node": OK if ready else "not ready"}
        return states

    return router


class _Latest:
    """What the checks said last, and when.

    They write to the disk and lock the database, which must not be at the command of
    strangers: for those they are asked once in a while, and one at a time.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._lock = asyncio.Lock()
        self._states: dict[str, str] = {}
        self._at = -math.inf

    async def states(self, age_s: float) -> dict[str, str]:
        """Say what each check says, or said at most so many seconds ago."""
        async with self._lock:
            if time.monotonic() - self._at >= age_s:
                self._states = await run_in_threadpool(self._ask)
                self._at = time.monotonic()
            return self._states

    def _ask(self) -> dict[str, str]:
        return states_of(self._checks)


def states_of(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run checks, and leave out the roles that the node does not have."""
    states = {}
    for name, check in checks.items():
        with suppress(AbsentError):
            states[name] = state_of(check)
    return states


def state_of(check: Check) -> str:
    """Ask a check: "ok", or what is wrong in words."""
    try:
        check()
    except NotReadyError as error:
        return str(error)
    return OK
