"""While a peer fails, its deliveries wait and one of them probes it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from config.destinations import Address, SenderDestination
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.circuit_breaker import (
    FORGET_AFTER_S,
    UNKNOWN_S,
    CircuitBreaker,
)
from dicom_node.journal.journal import Journal
from dicom_node.journal.retry_delay import RETRY_INITIAL_DELAY_S
from dicom_node.outcome import Outcome, Verdict
from dicom_node.queries.backlog import destination_states
from dicom_node.storage.tables import DeliveryState, delivery, peer_state
from tests.support.journals import (
    ANSWER,
    BRIEFLY,
    LOST,
    REFUSED,
    RETRY,
    STORED,
    Receive,
    destination,
    work,
)

pytestmark = pytest.mark.integration

UID = "2.25.1"

Queue = Callable[[int], list[str]]


@pytest.fixture
def journal(engine: sa.Engine, tmp_path: Path) -> Journal:
    return Journal(engine, tmp_path, [destination("pacs")])


@pytest.fixture
def queue(journal: Journal, receive: Receive) -> Queue:
    """A function that queues `count` results and returns their instance ids.

    Its keyword arguments are fields of the instances.
    """

    def make(count: int, **changes: object) -> list[str]:
        made = [replace(receive(digest=str(n)), **changes) for n in range(count)]  # type: ignore[arg-type]
        for instance in made:
            record_result(journal, instance)
        return [each.id for each in made]

    return make


def record_result(journal: Journal, instance: ReceivedInstance) -> None:
    journal.record(instance)
    journal.analyses.record_result(instance.id, 1, ANSWER)


def senders(*titles: str) -> SenderDestination:
    """Return a destination of type "sender" with one AE for each title."""
    peers = tuple(Address(ae_title=each, host="localhost", port=104) for each in titles)
    return SenderDestination(name="pacs", type="sender", peers=peers)


def rows(engine: sa.Engine, name: str = "pacs") -> dict[str, sa.Row[Any]]:
    query = delivery.select().where(delivery.c.destination == name)
    with engine.connect() as connection:
        found = connection.execute(query).all()
    return {row.instance_id: row for row in found}


def attempt(
    journal: Journal, engine: sa.Engine, instance: str, outcome: Outcome
) -> str | None:
    """Attempt a delivery with this outcome; return its new state.

    Return None if the attempt may not begin now.
    """
    row = rows(engine)[instance]
    if journal.deliveries.begin(instance, "pacs", row.run) is None:
        return None
    pacs = destination("pacs")
    return journal.delivery_outcomes.record(instance, pacs, row.run, {UID: outcome})


def fail_once(journal: Journal, engine: sa.Engine, instances: Sequence[str]) -> None:
    """Attempt each delivery once; the archive does not respond."""
    for each in instances:
        attempt(journal, engine, each, LOST)


def scheduled(engine: sa.Engine) -> dict[str, float]:
    """Return the seconds until each scheduled attempt, by instance id.

    The number is negative if the attempt is overdue.
    """
    pending = {each for each, _ in work(engine)}
    return {
        row.instance_id: row.next_at - time.time()
        for row in rows(engine).values()
        if row.state in {DeliveryState.QUEUED, DeliveryState.COMMITTING}
        and row.waits_for is None
        and f"deliver:{row.instance_id}:pacs:{row.run}" in pending
    }


def state(engine: sa.Engine) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(peer_state.select()).one()


@pytest.mark.parametrize("outcome", [LOST, RETRY], ids=["no response", "no resources"])
def test_only_one_of_many_deliveries_to_a_failing_archive_is_tried_again(
    journal: Journal, engine: sa.Engine, queue: Queue, outcome: Outcome
) -> None:
    waiting = queue(20)
    begun = time.time()

    for each in waiting:
        assert attempt(journal, engine, each, outcome) == DeliveryState.QUEUED

    (pause,) = scheduled(engine).values()
    elapsed = time.time() - begun
    assert RETRY_INITIAL_DELAY_S / 2 - elapsed <= pause <= RETRY_INITIAL_DELAY_S
    assert state(engine).reason == outcome.comment


def test_all_waiting_deliveries_are_tried_at_once_if_one_succeeds(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(20)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)

    attempt(journal, engine, probe, STORED)

    due = scheduled(engine)
    assert due.keys() == set(waiting) - {probe}
    assert max(due.values()) <= 0
    assert state(engine).failing_since is None
    for each in due:
        assert attempt(journal, engine, each, STORED) == DeliveryState.DELIVERED


def test_pause_doubles_with_each_probe_and_deliveries_probe_in_rotation(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)

    probes, pauses = [], []
    for _ in range(6):
        ((probe, pause),) = scheduled(engine).items()
        probes.append(probe)
        pauses.append(pause)
        attempt(journal, engine, probe, LOST)

    assert set(probes[:3]) == set(probes[3:]) == set(waiting)
    for number, pause in enumerate(pauses):
        assert (
            RETRY_INITIAL_DELAY_S * 2**number / 2 - 1
            < pause
            <= RETRY_INITIAL_DELAY_S * 2**number
        )


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(STORED, id="stored"),
        pytest.param(REFUSED, id="refused"),
        pytest.param(BRIEFLY, id="refused for now"),
        pytest.param(
            Outcome(Verdict.REFUSED, None, "HTTP 404 Not Found"),
            id="refused without a DICOM status",
        ),
    ],
)
def test_new_delivery_is_tried_at_once_and_any_response_releases_the_others(
    journal: Journal, engine: sa.Engine, queue: Queue, outcome: Outcome
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)
    (new,) = queue(1)

    assert scheduled(engine)[new] <= 0
    attempt(journal, engine, new, outcome)

    due = scheduled(engine)
    assert all(due[each] <= 0 for each in waiting)


def test_object_that_breaks_the_archive_does_not_delay_others(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    (breaking,) = queue(1)
    attempt(journal, engine, breaking, LOST)
    pauses = []
    for _ in range(6):
        (other,) = queue(1)
        assert attempt(journal, engine, other, STORED) == DeliveryState.DELIVERED
        due = scheduled(engine)[breaking]
        # The first success of another delivery makes `breaking` due at once. After
        # that, `breaking` has its own back-off.
        assert due <= 0 if not pauses else due > 0
        assert attempt(journal, engine, breaking, LOST) == DeliveryState.QUEUED
        pauses.append(scheduled(engine)[breaking])

    for number, pause in enumerate(pauses, start=2):
        assert RETRY_INITIAL_DELAY_S * 2 ** (number - 1) / 2 - 1 < pause


def test_attempt_that_sends_nothing_does_not_change_the_peer_state(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(2)
    fail_once(journal, engine, waiting)
    (new,) = queue(1)

    unsent = Outcome(Verdict.REFUSED, None, "no DICOM file", was_sent=False)
    attempt(journal, engine, new, unsent)

    assert len(scheduled(engine)) == 1
    assert state(engine).failing_since is not None


def test_failure_of_our_disk_is_no_failure_of_the_peer(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    (instance,) = queue(1)

    full = Outcome(Verdict.RETRY, None, "No space left on device", was_sent=False)
    result = attempt(journal, engine, instance, full)

    assert result == DeliveryState.QUEUED
    assert scheduled(engine)[instance] > 0
    with engine.connect() as connection:
        assert connection.execute(peer_state.select()).all() == []


def test_a_probe_that_cannot_be_read_is_followed_by_another_probe(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    fail_once(journal, engine, queue(2))
    (probe,) = scheduled(engine)

    attempt(journal, engine, probe, replace(LOST, was_sent=False))

    assert len(scheduled(engine)) == 1


@pytest.mark.parametrize("loss", ["analyzed again", "given up"])
def test_another_delivery_probes_if_the_probe_is_dropped_or_given_up(
    journal: Journal, engine: sa.Engine, queue: Queue, loss: str
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)

    if loss == "given up":
        run = rows(engine)[probe].run
        journal.delivery_outcomes.fail_permanently(
            probe, "pacs", run, "an error of ours"
        )
    else:
        with engine.begin() as connection:  # the new analysis has nothing to deliver
            dropped = {"state": DeliveryState.DROPPED, "finished_at": 0.0}
            selected = delivery.c.instance_id == probe
            connection.execute(delivery.update().where(selected).values(**dropped))
    assert scheduled(engine) == {}
    for _ in range(2):
        journal.breaker.maintain()

    (other,) = scheduled(engine)
    assert other != probe


def test_maintain_releases_deliveries_that_a_killed_worker_did_not_release(
    journal: Journal,
    engine: sa.Engine,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = queue(4)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)
    monkeypatch.setattr(CircuitBreaker, "announce", lambda *_: None)
    attempt(journal, engine, probe, STORED)
    assert scheduled(engine) == {}

    journal.breaker.maintain()

    assert scheduled(engine).keys() == set(waiting) - {probe}


def test_outcome_is_recorded_although_the_others_cannot_be_released(
    journal: Journal,
    engine: sa.Engine,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`DeliveryOutcomes.record` raises no error if the waiting deliveries stay waiting.

    If it raised an error, the worker would call it again. The second call would find
    the delivery finished, and the outcome would not be logged.
    """
    waiting = queue(2)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)

    def fail(*_: object) -> None:
        raise OperationalError("", None, Exception())

    monkeypatch.setattr(CircuitBreaker, "_release", fail)
    assert attempt(journal, engine, probe, STORED) == DeliveryState.DELIVERED


def test_repeated_work_does_not_try_a_waiting_delivery(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    one, two = queue(2)
    attempt(journal, engine, one, LOST)
    run = rows(engine)[two].run
    attempt(journal, engine, two, LOST)

    assert journal.deliveries.begin(two, "pacs", run) is None
    stale = journal.delivery_outcomes.record(
        two, destination("pacs"), run, {UID: STORED}
    )
    assert stale is None


def test_waiting_deliveries_are_scheduled_if_too_old_or_without_destination(
    journal: Journal, engine: sa.Engine, queue: Queue, tmp_path: Path
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)
    journal.breaker.maintain()
    assert len(scheduled(engine)) == 1

    with engine.begin() as connection:
        asked = delivery.c.asked_at - UNKNOWN_S
        connection.execute(delivery.update().values(asked_at=asked))
    gone = Journal(engine, tmp_path, [])
    gone.breaker.maintain()
    assert scheduled(engine).keys() == set(waiting)

    fail_once(journal, engine, waiting)
    old = Journal(engine, tmp_path, [destination("pacs", retry_days=1e-9)])
    old.breaker.maintain()
    assert scheduled(engine).keys() == set(waiting)


@pytest.mark.parametrize("name", ["pacs", "pacs:SENDER"])
def test_worker_with_former_settings_does_not_end_the_back_off_of_a_new_destination(
    engine: sa.Engine, tmp_path: Path, receive: Receive, name: str
) -> None:
    new = senders("SENDER") if ":" in name else destination("pacs")
    journal, waiting = Journal(engine, tmp_path, [new]), []
    for number in range(3):
        instance = replace(receive(digest=str(number)), calling_ae_title="SENDER")
        record_result(journal, instance)
        attempt(journal, engine, instance.id, LOST)
        waiting.append(instance.id)
    (probe,) = scheduled(engine)
    run = rows(engine)[probe].run
    journal.delivery_outcomes.fail_permanently(probe, "pacs", run, "an error of ours")

    former = Journal(engine, tmp_path, [])
    for _ in range(2):
        former.breaker.maintain()

    assert state(engine).peer == name
    assert state(engine).failing_since is not None
    assert not scheduled(engine)  # the former worker chooses no probe, either
    journal.breaker.maintain()
    assert len(scheduled(engine)) == 1


def test_a_paused_destination_is_not_probed(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)
    journal.deliveries.pause("pacs")
    assert attempt(journal, engine, probe, STORED) is None

    journal.breaker.maintain()
    assert scheduled(engine) == {}
    journal.deliveries.resume("pacs")
    attempt(journal, engine, probe, STORED)

    assert scheduled(engine).keys() == set(waiting) - {probe}


def test_success_releases_only_the_deliveries_to_the_same_peer(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    journal = Journal(engine, tmp_path, [senders("DX1", "DX2")])
    sent: dict[str, list[str]] = {"DX1": [], "DX2": []}
    for number, name in enumerate(["DX1", "DX1", "DX2", "DX2"]):
        instance = replace(receive(digest=str(number)), calling_ae_title=name)
        record_result(journal, instance)
        sent[name].append(instance.id)
        attempt(journal, engine, instance.id, LOST)
    assert len(scheduled(engine)) == 2

    attempt(journal, engine, sent["DX1"][0], STORED)

    due = {each for each, seconds in scheduled(engine).items() if seconds <= 0}
    assert due == {sent["DX1"][1]}


def test_each_peer_of_a_destination_has_its_own_next_attempt(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    journal, sent = Journal(engine, tmp_path, [senders("DX1", "DX2")]), {}
    now = time.time()
    for number, name in enumerate(["DX1", "DX2"], start=1):
        instance = replace(receive(digest=name), calling_ae_title=name)
        record_result(journal, instance)
        attempt(journal, engine, instance.id, LOST)
        sent[name] = instance.id
        with engine.begin() as connection:
            selected = delivery.update().where(delivery.c.instance_id == instance.id)
            connection.execute(selected.values(next_at=now + 100 * number))

    def next_attempts() -> dict[str, float | None]:
        with engine.connect() as connection:
            known = destination_states(connection, ["pacs"])["pacs"]
        return {each.peer: each.next_attempt for each in known.outages}

    assert next_attempts() == {"pacs:DX1": now + 100, "pacs:DX2": now + 200}
    journal.deliveries.pause("pacs")
    attempt(journal, engine, sent["DX1"], STORED)
    assert next_attempts() == {"pacs:DX1": None, "pacs:DX2": now + 200}


def test_an_outage_is_forgotten_a_day_after_the_last_attempt_if_nothing_waits(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    """An AE that sends no more images must not be listed as failing forever."""
    journal = Journal(engine, tmp_path, [senders("DX1")])
    instance = replace(receive(), calling_ae_title="DX1")
    record_result(journal, instance)
    attempt(journal, engine, instance.id, LOST)

    def shift(**changes: object) -> None:
        with engine.begin() as connection:
            at = time.time() - FORGET_AFTER_S - 1
            connection.execute(peer_state.update().values(failed_at=at))
            if changes:
                connection.execute(delivery.update().values(**changes))
        journal.breaker.maintain()

    shift()
    assert state(engine).failing_since is not None  # its probe is delayed
    shift(state=DeliveryState.FAILED, finished_at=time.time())
    with engine.connect() as connection:
        assert connection.execute(peer_state.select()).all() == []


def test_waiting_deliveries_are_released_if_the_destination_gets_several_peers(
    journal: Journal, engine: sa.Engine, queue: Queue, tmp_path: Path
) -> None:
    waiting = queue(4)
    fail_once(journal, engine, waiting)
    (probe,) = scheduled(engine)

    changed = Journal(engine, tmp_path, [senders("SENDER")])
    assert attempt(changed, engine, probe, STORED) == DeliveryState.DELIVERED
    changed.breaker.maintain()

    due = scheduled(engine)
    assert due.keys() == set(waiting) - {probe}
    assert max(due.values()) <= 0


def test_try_now_schedules_a_waiting_delivery_at_once(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(3)
    fail_once(journal, engine, waiting)

    assert all(journal.deliveries.try_now(each, "pacs") for each in waiting)

    due = scheduled(engine)
    assert due.keys() == set(waiting)
    assert max(due.values()) <= 0
    assert not journal.deliveries.try_now(waiting[0], "pacs")  # it is being tried


def test_deliveries_that_fail_at_the_same_moment_have_one_probe(
    journal: Journal, engine: sa.Engine, queue: Queue
) -> None:
    waiting = queue(8)
    together = threading.Barrier(len(waiting))

    def fail(instance: str) -> None:
        together.wait()
        attempt(journal, engine, instance, LOST)

    with ThreadPoolExecutor(len(waiting)) as threads:
        list(threads.map(fail, waiting))

    assert len(scheduled(engine)) == 1


def test_log_reports_the_begin_and_the_end_of_an_outage(
    journal: Journal,
    engine: sa.Engine,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dicom_node")
    named = Outcome(
        Verdict.RETRY, 0xA700, "0xA700 Out of Resources: DOE^JANE", "0xA700 no room"
    )
    waiting = queue(3)
    for each in waiting:
        attempt(journal, engine, each, named)
    (probe,) = scheduled(engine)
    attempt(journal, engine, probe, STORED)

    messages = [
        (each.levelname, each.message)
        for each in caplog.records
        if each.name == "dicom_node.journal.circuit_breaker"
    ]
    assert messages == [
        ("WARNING", "Deliveries to pacs fail: 0xA700 no room"),
        ("INFO", "Deliveries to pacs succeed again. The waiting results are sent now."),
    ]
