"""Health checks: liveness and readiness.

`/healthz` reports that the process serves requests. Restart the process if `/healthz`
fails. `/readyz` reports whether the node can do its work. If it cannot, authenticated
clients also get the reason. `/readyz` checks the model of the web process, the storage,
the database, and whether at least one receiver and one worker run on any machine. If
the web process was started by hand, roles that have never run are not checked.
`/readyz?role=api` does not report on the receiver and the worker. It is for a load
balancer: if no worker runs, the pages still work and show what is wrong.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response, status
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from api.auth.request_user import request_user
from config.settings import StorageSettings
from dicom_node.errors import OutOfResourcesError
from dicom_node.storage.database import WAIT_S, DatabaseError, Engine, open_engine
from dicom_node.storage.heartbeat_rows import (
    DEAD_AFTER_S,
    has_run,
    seconds_since_last_heartbeat,
)
from dicom_node.storage.spool import probe
from dicom_node.storage.storage_id import StorageMismatchError, verify_storage_id
from dicom_node.storage.write_check import (
    BusyDatabaseError,
    ReadOnlyDatabaseError,
    check_writable,
)

Check = Callable[[], None]
"""A function that returns if the check passes. It raises NotReadyError if the check
fails, and AbsentError if the node does not need what is checked."""

OK = "ok"

NONE: Mapping[str, Check] = MappingProxyType({})

FRESH_S = 2.0
"""Maximum age in seconds of the results that an unauthenticated client gets."""

READ_ONLY = (
    "the database can be read but not written; check that its file and folder, or its "
    "server, are not read-only"
)

BUSY = (
    f"the database is busy: another process has held its write lock for {WAIT_S} s; if "
    "this continues, find and stop that process"
)

_NOT_READY = {"application/json": {"example": {"model": "the model is being loaded"}}}


class NotReadyError(Exception):
    """A check has failed. The message says why."""


class AbsentError(Exception):
    """The checked role has never run on this database, and is not expected to run."""


def storage_checks(storage: StorageSettings) -> dict[str, Check]:
    """Return the checks of the storage by name: the spool and the database.

    With PostgreSQL, a third check verifies that the storage directory belongs to the
    database.
    """
    checks: dict[str, Check] = {
        # The first check creates the folder, which may contain the SQLite file.
        "spool": partial(check_spool, storage),
        "database": partial(check_database, storage.database_url),
    }
    if storage.database:
        checks["storage"] = partial(check_storage, storage)
    return checks


def role_checks(engine: Engine, *, expected: bool = True) -> dict[str, Check]:
    """Return a check for the receiver and one for the worker, by role.

    A check passes if at least one process of the role runs on any machine.

    Args:
        engine: Engine of the journal.
        expected: Whether a process of each role must run. If False, a role must run
            only if it has run on this database before. A web process that only serves
            /predict needs no other role.
    """
    return {
        role: partial(check_role, engine, role, expected=expected)
        for role in ("receiver", "worker")
    }


def check_role(engine: Engine, role: str, *, expected: bool = True) -> None:
    """Check that a process of a role sent a heartbeat in the last DEAD_AFTER_S seconds.

    Raises:
        NotReadyError: There is no recent heartbeat, or the database is not available.
        AbsentError: The role has never run, and is not expected to run.
    """
    try:
        silent_s = seconds_since_last_heartbeat(engine, role)
        if silent_s is None and not expected and not has_run(engine, role):
            raise AbsentError
    except DatabaseError:
        raise NotReadyError("the database is not available") from None
    if silent_s is None:
        raise NotReadyError(f"no {role} is running; start `fracture-node serve`")
    if silent_s > DEAD_AFTER_S:
        raise NotReadyError(
            f"no {role} has sent a heartbeat for {silent_s:.0f} s; see its log"
        )


def check_database(url: str) -> None:
    """Check that the database can be written, without changing it.

    Raises:
        NotReadyError: The database is not available, is busy, or is read-only. The
            message does not quote the URL, which may contain a password.
    """
    try:
        check_writable(url)
    except ReadOnlyDatabaseError:
        raise NotReadyError(READ_ONLY) from None
    except BusyDatabaseError:
        raise NotReadyError(BUSY) from None
    except DatabaseError as error:
        raise NotReadyError(
            f"the database is not available ({type(error).__name__}); check that it is "
            "running and that storage.database is correct"
        ) from None


def check_spool(storage: StorageSettings) -> None:
    """Check that the storage directory is writable and has enough free space.

    The directory is created if it does not exist.

    Raises:
        NotReadyError: An instance that is sent now would be refused.
    """
    try:
        probe(storage)
    except OutOfResourcesError as error:
        raise NotReadyError(str(error)) from None


def check_storage(storage: StorageSettings) -> None:
    """Check that the storage directory belongs to the database.

    If the database has no storage id yet, `verify_storage_id` stores one.

    Raises:
        NotReadyError: The directory does not belong to the database, cannot be read or
            cannot be written, or the database does not respond.
    """
    engine = open_engine(storage.database_url)
    try:
        verify_storage_id(engine, storage)
    except (StorageMismatchError, OSError) as error:
        raise NotReadyError(str(error)) from None
    except DatabaseError:
        raise NotReadyError("the database is not available") from None
    finally:
        engine.dispose()


class Readiness:
    """The checks of the node, and a cache of their results.

    The checks write to the disk and lock the database. Unauthenticated clients must not
    be able to start the checks at will, so these clients get results that are up to
    FRESH_S seconds old.

    Attributes:
        own: The checks of the web process itself, by name.
        checks: All checks of the node, by name: `own`, and those of the other roles.
    """

    def __init__(
        self, own: Mapping[str, Check], roles: Mapping[str, Check] = NONE
    ) -> None:
        """Store the checks without running them.

        Args:
            own: The checks of the web process itself, by name.
            roles: The checks of the other roles of the node, by name.
        """
        self.own = own
        self.checks: Mapping[str, Check] = {**own, **roles}
        self._lock = asyncio.Lock()
        self._states: dict[str, str] = {}
        self._at = -math.inf

    async def states(self, age_s: float) -> dict[str, str]:
        """Return "ok" or an error text for each check, by the name of the check.

        The results are at most `age_s` seconds old. A check that raises AbsentError is
        left out. Calls that run the checks wait for each other.
        """
        async with self._lock:
            if time.monotonic() - self._at >= age_s:
                self._states = await run_in_threadpool(states_of, self.checks)
                self._at = time.monotonic()
            return self._states


async def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


ReadinessDep = Annotated[Readiness, Depends(_readiness)]
"""The checks of the node."""

router = APIRouter(tags=["health"])


@router.get("/healthz", response_class=PlainTextResponse, response_description="ok")
async def healthz() -> str:
    """Report that the process serves requests. Nothing is checked."""
    return OK


@router.get(
    "/readyz",
    response_description="Ready",
    responses={
        503: {"description": "Not ready, with the reason", "content": _NOT_READY}
    },
)
async def readyz(
    request: Request,
    response: Response,
    readiness: ReadinessDep,
    role: Annotated[
        Literal["api"] | None,
        Query(description="Check only the api process, for a load balancer."),
    ] = None,
) -> dict[str, str]:
    """Return the result of each check by name: 'ok', or the reason for a failure.

    The checks include the receiver and the worker, except with `role=api`. An
    unauthenticated client gets only one entry, `node`: 'ok' if all checks pass, or
    'not ready'.
    """
    is_unauthenticated = request_user(request).user is None
    states = await readiness.states(FRESH_S if is_unauthenticated else 0)
    if role is not None:
        states = {name: states[name] for name in states if name in readiness.own}
    ready = all(state == OK for state in states.values())
    if not ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    if is_unauthenticated:
        return {"node": OK if ready else "not ready"}
    return states


def states_of(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run checks, and return "ok" or an error text by name.

    A check that raises AbsentError is left out.
    """
    states = {}
    for name, check in checks.items():
        with suppress(AbsentError):
            states[name] = state_of(check)
    return states


def state_of(check: Check) -> str:
    """Run a check, and return "ok" or an error text.

    Raises:
        AbsentError: The node does not need what is checked.
    """
    try:
        check()
    except NotReadyError as error:
        return str(error)
    return OK
