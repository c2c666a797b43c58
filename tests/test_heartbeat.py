"""Signs of life of processes: fresh, stale, and none."""

import sqlalchemy as sa

from api.health import role_checks, state_of
from dicom_node.heartbeat import DEAD_AFTER_S, KEPT_S, beating, silence_s
from dicom_node.tables import heartbeat
from tests.served import wait_for


def shift(engine: sa.Engine, seconds: float) -> None:
    """Have all signs of life be older."""
    with engine.begin() as connection:
        connection.execute(heartbeat.update().values(at=heartbeat.c.at - seconds))


def ids(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(sa.select(heartbeat.c.id)).scalars())


def wait_for_more(engine: sa.Engine, known: set[str]) -> None:
    wait_for(lambda: not ids(engine) <= known)


def test_who_lives_says_so_and_who_ended_is_gone(engine: sa.Engine) -> None:
    checks = role_checks(engine)
    assert state_of(checks["worker"]).startswith("no worker is running")

    with beating(engine, "worker"):
        wait_for_more(engine, set())
        assert state_of(checks["worker"]) == "ok"
        assert state_of(checks["receiver"]).startswith("no receiver is running")

    assert silence_s(engine, "worker") is None


def test_who_is_silent_is_taken_for_dead_until_another_lives(engine: sa.Engine) -> None:
    check = role_checks(engine)["worker"]
    with beating(engine, "worker"):  # the first beat, and no other within this test
        wait_for_more(engine, set())
        shift(engine, DEAD_AFTER_S + 12)
        assert "for 42 s" in state_of(check)

        first = ids(engine)
        with beating(engine, "worker"):
            wait_for_more(engine, first)
            assert state_of(check) == "ok"


def test_a_sign_of_life_is_renewed_and_old_ones_are_cleared(engine: sa.Engine) -> None:
    with beating(engine, "worker", every_s=3600):
        wait_for_more(engine, set())
        shift(engine, KEPT_S + 1)
        with beating(engine, "worker", every_s=0.01):
            wait_for(lambda: len(ids(engine)) == 1)
            shift(engine, DEAD_AFTER_S + 12)
            wait_for(lambda: (silence_s(engine, "worker") or 0) < DEAD_AFTER_S)


def test_it_goes_on_without_a_database() -> None:
    away = sa.create_engine("sqlite:////nowhere/at/all.db")

    with beating(away, "worker"):
        pass

    assert state_of(role_checks(away)["worker"]) == "the database does not say"
