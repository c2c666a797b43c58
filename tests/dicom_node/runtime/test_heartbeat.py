"""Recent, old and missing heartbeats of processes."""

import threading

import pytest
import sqlalchemy as sa

from api.operations.health import role_checks, state_of, states_of
from dicom_node.runtime.heartbeat import heartbeats
from dicom_node.storage.database import reading
from dicom_node.storage.heartbeat_rows import (
    DEAD_AFTER_S,
    RETENTION_S,
    HeartbeatRow,
    alive_workers,
    seconds_since_last_heartbeat,
)
from dicom_node.storage.tables import heartbeat
from tests.support.node import wait_for

pytestmark = pytest.mark.integration


def shift(engine: sa.Engine, seconds: float) -> None:
    """Make all heartbeats `seconds` older."""
    with engine.begin() as connection:
        connection.execute(heartbeat.update().values(at=heartbeat.c.at - seconds))


def ids(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(sa.select(heartbeat.c.id)).scalars())


def steady_s(engine: sa.Engine, name: str) -> float:
    """Return for how many seconds a worker has sent heartbeats without a gap.

    If no living worker is called `name`, return -1.
    """
    with reading(engine) as connection:
        return alive_workers(connection, "worker").get(name, -1.0)


def wait_for_more(engine: sa.Engine, known: set[str]) -> None:
    wait_for(lambda: not ids(engine) <= known)


def test_running_worker_is_ok_and_ended_worker_is_not_running(
    engine: sa.Engine,
) -> None:
    checks = role_checks(engine)
    assert state_of(checks["worker"]).startswith("no worker is running")

    with heartbeats(engine, "worker"):
        wait_for_more(engine, set())
        assert state_of(checks["worker"]) == "ok"
        assert state_of(checks["receiver"]).startswith("no receiver is running")

    assert seconds_since_last_heartbeat(engine, "worker") is None


def test_silent_worker_is_reported_until_another_worker_runs(engine: sa.Engine) -> None:
    check = role_checks(engine)["worker"]
    with heartbeats(engine, "worker"):  # one heartbeat during this test
        wait_for_more(engine, set())
        shift(engine, DEAD_AFTER_S + 12)
        assert f"for {DEAD_AFTER_S + 12:.0f} s" in state_of(check)

        first = ids(engine)
        with heartbeats(engine, "worker"):
            wait_for_more(engine, first)
            assert state_of(check) == "ok"


def test_a_role_is_expected_once_it_has_run(engine: sa.Engine) -> None:
    checks = role_checks(engine, expected=False)
    assert states_of(checks) == {}
    assert states_of(role_checks(engine)).keys() == {"receiver", "worker"}

    with heartbeats(engine, "worker"):
        assert states_of(checks) == {"worker": "ok"}
    shift(engine, 30 * RETENTION_S)
    with heartbeats(engine, "receiver", every_s=0.01):
        known = ids(engine)
        with heartbeats(engine, "receiver"):
            wait_for_more(engine, known)

        states = states_of(checks)
    assert states["worker"].startswith("no worker is running")
    assert states["receiver"] == "ok"


def test_worker_of_the_previous_release_runs_under_the_name_of_an_ended_worker(
    engine: sa.Engine,
) -> None:
    with heartbeats(engine, "worker", "a:0"):
        pass
    with engine.begin() as connection:  # the previous release writes no ended_at
        ended_at = connection.execute(sa.select(heartbeat.c.ended_at)).scalar_one()
        connection.execute(heartbeat.update().values(at=ended_at + 1e-3))

    with engine.connect() as connection:
        assert alive_workers(connection, "worker").keys() == {"a:0"}
    assert seconds_since_last_heartbeat(engine, "worker") is not None


def test_heartbeat_is_renewed_and_old_heartbeats_are_deleted(engine: sa.Engine) -> None:
    with heartbeats(engine, "worker", every_s=3600):
        wait_for_more(engine, set())
        shift(engine, RETENTION_S + 1)
        with heartbeats(engine, "worker", every_s=0.01):
            wait_for(lambda: len(ids(engine)) == 1)
            shift(engine, DEAD_AFTER_S + 12)
            wait_for(
                lambda: (
                    (seconds_since_last_heartbeat(engine, "worker") or 0) < DEAD_AFTER_S
                )
            )


def test_time_without_a_gap_restarts_after_a_gap(engine: sa.Engine) -> None:
    row = HeartbeatRow(engine, "worker", "here:0")
    row.send()
    shift_beginning = heartbeat.update().values(since=heartbeat.c.since - 1000)
    with engine.begin() as connection:
        connection.execute(shift_beginning)

    row.send()
    assert steady_s(engine, "here:0") >= 1000

    shift(engine, DEAD_AFTER_S + 1)
    row.send()
    assert 0 <= steady_s(engine, "here:0") < DEAD_AFTER_S


def test_restarted_worker_replaces_the_killed_worker_of_the_same_name(
    engine: sa.Engine,
) -> None:
    doubles: list[str] = []
    with heartbeats(engine, "worker", "here:0", every_s=3600):
        with engine.begin() as connection:  # the process is killed and starts again
            connection.execute(heartbeat.update().values(process="dead process"))
        with heartbeats(
            engine,
            "worker",
            "here:0",
            on_duplicate=lambda: doubles.append("new"),
            every_s=0.01,
        ):
            before = steady_s(engine, "here:0")
            wait_for(lambda: steady_s(engine, "here:0") > before)
            assert len([each for each in ids(engine) if each == "here:0"]) == 1
    assert doubles == []


def test_first_of_two_workers_with_the_same_name_is_notified(engine: sa.Engine) -> None:
    notified = threading.Event()
    with (
        heartbeats(
            engine, "worker", "clone:0", on_duplicate=notified.set, every_s=0.05
        ),
        heartbeats(engine, "worker", "clone:0", every_s=3600),
    ):
        assert notified.wait(30)


def test_heartbeat_does_not_fail_without_a_database() -> None:
    unavailable = sa.create_engine("sqlite:////nowhere/at/all.db")

    with heartbeats(unavailable, "worker"):
        pass

    assert (
        state_of(role_checks(unavailable)["worker"]) == "the database is not available"
    )
