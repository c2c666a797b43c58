"""In any order of events, only transitions in TRANSITIONS happen, and all work ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dicom_node.outcome import Outcome
from tests.support.journals import BRIEFLY, LOST, REFUSED, RETRY, STORED
from tests.support.simulated_node import (
    ALERTS,
    ARCHIVE,
    BACKUP,
    CONFLICT,
    LOST_OBJECT,
    PLAIN_ARCHIVE,
    PROCESSING_FAILURE,
    REVIEW,
    Attempt,
    Clock,
    SimulatedNode,
    observing,
)

T = TypeVar("T")

MOST_INSTANCES = 3
SETTINGS = [
    (ARCHIVE, BACKUP, ALERTS),
    (ARCHIVE,),
    (PLAIN_ARCHIVE, BACKUP),
    (ALERTS,),
    (BACKUP, REVIEW),
    (REVIEW,),
    (),
]
OPERATIONS = [
    *("restart", "worker dies", "repeat", "program error"),
    *("maintain", "days pass", "retention"),
]

numbers = st.integers(0, 59)
kills = st.none() | st.integers(0, 25)
ends = st.sampled_from(
    ["positive", "negative", "not analyzed", "failed", "died", "separate", "last"]
)
outcomes = st.sampled_from([STORED, RETRY, BRIEFLY, LOST, REFUSED])
pairs_of_outcomes = st.tuples(outcomes, outcomes)
reasons = st.sampled_from([None, LOST_OBJECT, PROCESSING_FAILURE, CONFLICT])
pairs_of_reasons = st.tuples(reasons, reasons)


class JournalMachine(RuleBasedStateMachine):
    """Calls of the journal in any order, with any outcome.

    A call may be killed before any of its database statements.
    """

    def __init__(self, node: SimulatedNode) -> None:
        super().__init__()
        self.node = node
        node.reset()

    def teardown(self) -> None:
        self.node.run_all()

    @invariant()
    def only_transitions_of_the_table_happened(self) -> None:
        self.node.check()

    @initialize(count=st.integers(0, 9))
    def receive_first(self, count: int) -> None:
        """Receive an instance, and then do queued work up to `count` times.

        From there, the machine reaches all states within few steps.
        """
        self.node.receive()
        for _ in range(count):
            if queued := self.node.queue():
                self.node.run(queued[0])

    @rule(number=numbers, change=st.sampled_from(["", "bytes", "uid"]), kill=kills)
    def receive(self, number: int, change: str, kill: int | None) -> None:
        """Receive a new instance, a new revision, or a copy."""
        is_full = len(self.node.instances) >= MOST_INSTANCES
        if not self.node.instances or (change == "uid" and not is_full):
            self.node.receive(kill_after=kill)
            return
        first = pick(self.node.instances, number)
        is_new = change == "bytes" and not is_full
        digest = f"{first.id}{number}" if is_new else first.content_digest
        self.node.receive(first.header.sop_instance_uid, digest, kill)

    @precondition(lambda self: self.node.queue())
    @rule(number=numbers, kill=kills)
    def begin(self, number: int, kill: int | None) -> None:
        self.node.begin(pick(self.node.queue(), number), kill)

    @precondition(lambda self: self.node.attempts)
    @rule(number=numbers, end=ends, outcomes=pairs_of_outcomes, kill=kills)
    def end(
        self, number: int, end: str, outcomes: tuple[Outcome, ...], kill: int | None
    ) -> None:
        self._end(pick(self.node.attempts, number), end, outcomes, kill)

    @precondition(lambda self: self.node.queue())
    @rule(number=numbers, end=ends, outcomes=pairs_of_outcomes, kill=kills)
    def work(
        self, number: int, end: str, outcomes: tuple[Outcome, ...], kill: int | None
    ) -> None:
        """Begin an attempt, and end it at once."""
        if attempt := self.node.begin(pick(self.node.queue(), number)):
            self._end(attempt, end, outcomes, kill)

    def _end(
        self,
        attempt: Attempt,
        end: str,
        outcomes: tuple[Outcome, ...],
        kill: int | None,
    ) -> None:
        if attempt.summary is not None:
            self.node.summarize(attempt, end, kill)
        elif attempt.destination is None:
            self.node.conclude(attempt, end, kill)
        elif attempt.request is None:
            named = dict(zip(attempt.uids, outcomes, strict=False))
            self.node.send(attempt, named, kill)
        else:
            self.node.request(attempt, outcomes[0], kill)

    @precondition(lambda self: self.node.requests)
    @rule(number=numbers, reasons=pairs_of_reasons, kill=kills)
    def report(
        self, number: int, reasons: tuple[int | None, ...], kill: int | None
    ) -> None:
        """Report on any request, also on an older one or on the same request twice."""
        transaction = pick([*self.node.requests], number)
        self.node.report(transaction, reasons, kill)

    @precondition(lambda self: self.node.instances)
    @rule(
        action=st.sampled_from(["analyze again", "send again", "results lost"]),
        number=numbers,
        kill=kills,
    )
    def act_on_instance(self, action: str, number: int, kill: int | None) -> None:
        one, journal = pick(self.node.instances, number), self.node.journal
        name = pick([None, *self.node.destinations], number)
        call = {
            "analyze again": lambda: journal.analyze_again(one.id),
            "send again": lambda: journal.deliveries.send_again(one.id, name),
            "results lost": lambda: journal.replace_lost_results(one.id),
        }[action]
        self.node.do(call, kill)

    @precondition(lambda self: self.node.deliveries())
    @rule(
        action=st.sampled_from(["retry", "try now", "pause", "resume"]),
        number=numbers,
        kill=kills,
    )
    def act_on_delivery(self, action: str, number: int, kill: int | None) -> None:
        instance_id, name = pick(self.node.deliveries(), number)
        deliveries = self.node.journal.deliveries
        call = {
            "retry": lambda: deliveries.retry(instance_id, name),
            "try now": lambda: deliveries.try_now(instance_id, name),
            "pause": lambda: deliveries.pause(name),
            "resume": lambda: deliveries.resume(name),
        }[action]
        self.node.do(call, kill)

    @rule(action=st.sampled_from(OPERATIONS), number=numbers, kill=kills)
    def operate(self, action: str, number: int, kill: int | None) -> None:
        node = self.node
        match action:
            case "restart":
                node.use(pick(SETTINGS, number))
            case "worker dies":
                node.attempts.clear()
            case "repeat" if node.finished():
                node.begin(pick(node.finished(), number), kill)
            case "program error" if node.queue():
                node.report_program_error(pick(node.queue(), number), kill)
            case "maintain":
                node.do(node.journal.breaker.maintain, kill)
                node.do(node.journal.deliveries.resume_remaining, kill)
            case "days pass":
                node.pass_days(pick([0.1, 1, 5, 10], number))
            case "retention":
                node.delete_expired(kill)


def pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]


@pytest.mark.integration
def test_only_transitions_of_the_table_happen_and_all_work_ends(tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path, Clock())
    with observing(node.clock):
        run_state_machine_as_test(
            lambda: JournalMachine(node),
            settings=settings(
                max_examples=16,
                stateful_step_count=40,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    node.close()
