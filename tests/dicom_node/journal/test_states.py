"""Each transition of TRANSITIONS happens, and docs/states.md lists all of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from config.destinations import Destination
from dicom_node.journal.states import (
    TRANSITIONS,
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
    Trigger,
    transition_for,
)
from dicom_node.outcome import Outcome
from dicom_node.storage.tables import DeliveryState, InstanceState
from tests.support.expected_transitions import OF_OLD_ROWS, USUAL, Effects
from tests.support.journals import BRIEFLY, LOST, REFUSED, STORED
from tests.support.simulated_node import (
    ALERTS,
    ARCHIVE,
    CONFLICT,
    LOST_OBJECT,
    PLAIN_ARCHIVE,
    PREFIX,
    PROCESSING_FAILURE,
    QUIET_S,
    REVIEW,
    Attempt,
    Clock,
    SimulatedNode,
    observing,
)
from tests.support.states_document import DOCUMENT, document

Reasons = tuple[int | None, int | None]

COMMITTED: Reasons = (None, None)
REASONS = [LOST_OBJECT, PROCESSING_FAILURE, CONFLICT]


@pytest.mark.parametrize(
    "trigger", [*InstanceTrigger, *DeliveryTrigger, *ObjectTrigger]
)
def test_each_trigger_has_one_transition_in_a_state(trigger: Trigger) -> None:
    states = [
        state
        for each in TRANSITIONS
        if each.trigger is trigger
        for state in each.before
    ]

    assert len(states) == len(set(states)) > 0
    assert all(transition_for(trigger, state).trigger is trigger for state in states)


def test_the_table_has_the_expected_transitions() -> None:
    table = {
        (each.trigger, before, each.after): Effects(
            each.event or "",
            each.counter.name.removeprefix(PREFIX) if each.counter else "",
            each.queues or "",
        )
        for each in TRANSITIONS
        for before in each.before
    }

    assert table == {**USUAL, **OF_OLD_ROWS}


def test_a_deletion_has_no_effects() -> None:
    """`delete_rows` deletes rows without any effects."""
    for each in TRANSITIONS:
        if each.after is None:
            assert (each.event, each.counter, each.queues) == (None, None, None)


def test_only_instances_and_deliveries_count_and_queue_work() -> None:
    """A counter or queued work in such a row would be ignored by `change_objects`."""
    for each in TRANSITIONS:
        if isinstance(each.trigger, ObjectTrigger):
            assert (each.counter, each.queues) == (None, None)


def test_document_is_that_of_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `make states`"


def analyzed(
    node: SimulatedNode,
    *destinations: Destination,
    end: str = "positive",
    slow: bool = False,
) -> str:
    """Receive and analyze an instance; return its id.

    If `slow` is true, the decoder first dies, and the analysis ends in the slow lane.
    """
    node.use(destinations)
    one = node.receive()
    if slow:
        analyze(node, one, "died")
    analyze(node, one, end)
    return one


def analyze(node: SimulatedNode, one: str, end: str = "positive") -> None:
    node.conclude(begun(node, node.analysis(one)), end)


def send(node: SimulatedNode, one: str, *outcomes: Outcome) -> None:
    """Send the missing objects of an instance to the archive.

    The archive responds to them with `outcomes`.
    """
    attempt = begun(node, node.delivery(one, "archive"))
    named = zip(attempt.uids, outcomes, strict=True)
    node.send(attempt, dict(named))


def request(node: SimulatedNode, one: str, outcome: Outcome = STORED) -> str:
    """Request Storage Commitment for an instance; return the Transaction UID."""
    attempt = begun(node, node.delivery(one, "archive"))
    assert attempt.request is not None
    node.request(attempt, outcome)
    return attempt.request.transaction_uid


def begun(node: SimulatedNode, item: str) -> Attempt:
    attempt = node.begin(item)
    assert attempt is not None
    return attempt


def reach(node: SimulatedNode, state: str, *, slow: bool = False) -> str:
    """Create an instance, and bring its delivery into `state`; return its id.

    The delivery goes to the archive.
    """
    one = analyzed(node, ARCHIVE, slow=slow)
    match state:
        case "committing":
            send(node, one, STORED, STORED)
        case "paused":
            node.journal.deliveries.pause("archive")
            assert node.begin(node.delivery(one, "archive")) is None
        case "delivered":
            send(node, one, STORED, STORED)
            node.report(request(node, one), COMMITTED)
        case "failed":
            send(node, one, REFUSED, REFUSED)
        case "dropped":
            node.use(())
            node.journal.deliveries.send_again(one)
            node.use((ARCHIVE,))
    return one


def reach_instance(node: SimulatedNode, state: str, *, slow: bool) -> str:
    """Create an instance in a state; return its id."""
    match state:
        case "received":
            one = node.receive()
            if slow:
                analyze(node, one, "died")
            return one
        case "analyzed":
            return analyzed(node, slow=slow)
        case "not_analyzed":
            return analyzed(node, end="not analyzed", slow=slow)
        case "delivering":
            return reach(node, "queued", slow=slow)
        case _:
            return reach(node, state, slow=slow)


def in_each_state(node: SimulatedNode, action: str, state: str) -> None:
    """Do `action` with a delivery in `state`."""
    act(node, reach(node, state), action)


def act(node: SimulatedNode, one: str, action: str) -> None:
    match action:
        case "request":
            node.journal.deliveries.send_again(one)
        case "request for one destination":
            node.journal.deliveries.send_again(one, "archive")
        case "remove the destination":
            node.use(())
            node.journal.deliveries.send_again(one)
        case "analyze again":
            node.journal.analyze_again(one)
            analyze(node, one)
        case "retention":
            node.pass_days(30)
            node.delete_expired()


def in_an_unfinished_state(node: SimulatedNode, action: str, state: str) -> None:
    one = reach(node, state)
    if action == "pause":
        node.journal.deliveries.pause("archive")
        node.begin(node.delivery(one, "archive"))
    elif action == "former settings":
        node.use(())
        node.begin(node.delivery(one, "archive"))
    else:
        node.report_program_error(node.delivery(one, "archive"))


def analyses(node: SimulatedNode, state: str, *, slow: bool) -> None:
    """Request another analysis of an instance in `state`."""
    node.journal.analyze_again(reach_instance(node, state, slow=slow))


def lanes(node: SimulatedNode) -> None:
    one = node.receive()
    first = node.analysis(one)
    analyze(node, one, "separate")
    analyze(node, one, "last")
    analyze(node, one, "died")
    node.begin(first)
    analyze(node, one, "failed")


def instances_without_result(node: SimulatedNode) -> None:
    analyzed(node, ALERTS, end="not analyzed")
    analyzed(node, end="not analyzed")
    analyzed(node, end="positive")
    node.journal.deliveries.send_again(analyzed(node))
    node.pass_days(30)
    node.delete_expired()


def negative_result(node: SimulatedNode) -> None:
    one = analyzed(node, ALERTS, end="negative")
    node.journal.deliveries.send_again(one, "alerts")


def destination_removed_before_analysis(node: SimulatedNode) -> None:
    one = reach(node, "delivered")
    node.use(())
    node.journal.analyze_again(one)
    analyze(node, one)


def reports(node: SimulatedNode, state: str, reasons: Reasons) -> None:
    """Let the archive report on a delivery in `state`."""
    one = reach(node, "committing")
    transaction = request(node, one)
    if state == "paused":
        node.journal.deliveries.pause("archive")
        node.begin(node.delivery(one, "archive"))
    if state == "delivered":
        node.report(transaction, COMMITTED)
    if state == "failed":
        node.report(transaction, (None, CONFLICT))
    node.report(transaction, reasons)


def late_report(node: SimulatedNode, reasons: Reasons) -> None:
    """Let the archive report after the node has given up the delivery."""
    one = reach(node, "committing")
    transaction = request(node, one)
    node.pass_days(5)
    assert node.begin(node.delivery(one, "archive")) is None
    node.report(transaction, reasons)


def two_requests(node: SimulatedNode) -> None:
    one = reach(node, "committing")
    transactions = request(node, one), request(node, one)
    for each in transactions:
        node.report(each, COMMITTED)


def commitment_is_turned_off(node: SimulatedNode) -> None:
    one = reach(node, "committing")
    node.use((PLAIN_ARCHIVE,))
    node.begin(node.delivery(one, "archive"))


def pause_while_committing(node: SimulatedNode) -> None:
    one = reach(node, "committing")
    node.journal.deliveries.pause("archive")
    node.begin(node.delivery(one, "archive"))
    node.journal.deliveries.resume("archive")
    request(node, one)


def lost_before_request(
    node: SimulatedNode, outcome: Outcome, *, peer_fails: bool = False
) -> None:
    """Let the archive report the loss of a committed object.

    The report arrives just before the node requests commitment of the other object.
    Then the lost object is sent again, and the attempt has the outcome `outcome`. If
    `peer_fails` is true, another delivery first fails to reach the archive.
    """
    one = reach(node, "committing")
    transaction = request(node, one)
    node.report(transaction, (None, PROCESSING_FAILURE))
    node.journal.deliveries.pause("archive")
    assert node.begin(node.delivery(one, "archive")) is None
    node.journal.deliveries.resume("archive")
    run = int(node.delivery(one, "archive").split(":")[-1])
    assert node.journal.deliveries.begin(one, "archive", run) == {}
    node.report(transaction, (LOST_OBJECT, None))
    commitments = node.journal.commitments
    assert commitments.begin(one, ARCHIVE, run)
    commitments.record_request_outcome(one, ARCHIVE, run, STORED)
    if peer_fails:
        send(node, reach(node, "queued"), LOST, LOST)
    send(node, one, outcome)


def failing_peer(node: SimulatedNode, state: str) -> None:
    """Let attempts of two deliveries in `state` fail; then call `try_now` for both.

    The archive cannot be reached. The deliveries are tried in turn, three times each,
    but a delivery without queued work is skipped, because it waits for the archive.
    `try_now` must find that at least one of the two waits for its next attempt.
    """
    both = [reach(node, state), reach(node, state)]
    for one in both * 3:
        item = node.delivery(one, "archive")
        if item in node.queue() and state == "queued":
            send(node, one, LOST, LOST)
        elif item in node.queue():
            request(node, one, LOST)
    tried = [node.journal.deliveries.try_now(one, "archive") for one in both]
    assert True in tried


def delayed_attempts(node: SimulatedNode) -> None:
    one = reach(node, "queued")
    send(node, one, STORED, BRIEFLY)
    node.journal.deliveries.try_now(one, "archive")


def summaries(node: SimulatedNode, state: str) -> None:
    """Request another run of a summary in `state`."""
    one = analyzed(node, REVIEW)
    record = node.journal.load(one)
    assert record is not None
    assert record.examination_id is not None
    summary = record.examination_id
    requested = node.journal.load(summary)
    assert requested is not None
    if state == "analyzed":
        node.use(())
    if state != "received":
        node.clock.passed_s += QUIET_S
        end = {"not_analyzed": "separate", "failed": "failed"}.get(state, "positive")
        node.summarize(begun(node, f"summarize:{summary}:{requested.run}"), end)
    if state == "delivered":
        attempt = begun(node, node.delivery(summary, "review"))
        node.send(attempt, dict.fromkeys(attempt.uids, STORED))
    found = node.journal.load(summary)
    assert found is not None
    assert found.state == state
    node.use((REVIEW,))
    assert node.journal.analyze_again(summary)


DELIVERY_STATES = ["queued", "committing", "paused", "delivered", "failed", "dropped"]
EXAMPLES: list[Callable[[SimulatedNode], None]] = [
    lanes,
    instances_without_result,
    negative_result,
    destination_removed_before_analysis,
    two_requests,
    commitment_is_turned_off,
    pause_while_committing,
    delayed_attempts,
    *(
        partial(in_each_state, action=action, state=state)
        for state in DELIVERY_STATES
        for action in (
            "request",
            "request for one destination",
            "remove the destination",
            "analyze again",
            "retention",
        )
    ),
    *(
        partial(in_an_unfinished_state, action=action, state=state)
        for state in ("queued", "committing")
        for action in ("pause", "former settings", "error")
    ),
    *(
        partial(analyses, state=state, slow=slow)
        for state in InstanceState
        for slow in (False, True)
    ),
    # The first summary has no deliveries yet. All instances are in one examination.
    partial(summaries, state="analyzed"),
    *(
        partial(summaries, state=state)
        for state in InstanceState
        if state != "analyzed"
    ),
    *(partial(failing_peer, state=state) for state in ("queued", "committing")),
    *(
        partial(reports, state=state, reasons=reasons)
        for state in ("committing", "paused", "delivered", "failed")
        for reasons in (COMMITTED, *((each, None) for each in REASONS))
    ),
    partial(late_report, reasons=COMMITTED),
    partial(late_report, reasons=(None, CONFLICT)),
    partial(lost_before_request, outcome=STORED),
    partial(lost_before_request, outcome=LOST),
    partial(lost_before_request, outcome=LOST, peer_fails=True),
]


@pytest.mark.integration
def test_every_usual_transition_happens(tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path, Clock())
    with observing(node.clock):
        for example in EXAMPLES:
            example(node)
            node.check()
            node.run_all()
    node.close()

    assert node.seen == USUAL.keys()


@pytest.mark.integration
def test_rows_in_any_state_are_replaced_and_removed(tmp_path: Path) -> None:
    """The test creates rows in all states.

    Only an earlier release can have left rows in some of these states.
    """
    node = SimulatedNode(tmp_path, Clock())
    node.allowed |= OF_OLD_ROWS.keys()
    with observing(node.clock):
        for state in ("paused", "dropped"):
            for action in ("request", "remove the destination", "analyze again"):
                node.use((ARCHIVE,))
                one = reach(node, "delivered")
                node.force("delivered_object", one, state)
                act(node, one, action)
                node.check()
                node.run_all()
        remove_in_each_state(node)
        node.check()
        assert node.deliveries() == []
    node.close()

    assert node.seen >= OF_OLD_ROWS.keys()


def remove_in_each_state(node: SimulatedNode) -> None:
    """Remove rows in each state after the end of the retention period."""
    forced = [
        *(("instance", reach(node, "delivered"), each) for each in InstanceState),
        *(("delivery", reach(node, "delivered"), each) for each in DeliveryState),
        *(
            ("delivered_object", reach(node, "delivered"), each)
            for each in DeliveryState
        ),
    ]
    node.pass_days(8)
    node.delete_expired()
    for each in forced:
        node.force(*each)
    node.pass_days(30)
    node.delete_expired()
