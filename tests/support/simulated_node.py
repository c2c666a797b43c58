"""A node without processes: a real journal on SQLite, and a worker that a test drives.

Triggers of SQLite record each change of a state, whichever statement makes it. The test
decides what a decoder, an archive and a user do, and at which statement a process is
killed.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from config.destinations import Destination
from config.settings import RetentionSettings, StorageSettings
from dicom_node.errors import ReportRefusedError, SamePictureError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal import state_machine
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.circuit_breaker import UNKNOWN_S
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.journal.retention import delete_expired
from dicom_node.journal.states import (
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
    Trigger,
)
from dicom_node.journal.summaries import SummaryAnswer, SummaryInputs
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_LAST,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    DELIVER,
    SUMMARIZE,
)
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.storage_commitment import Report, Request
from dicom_node.outcome import Outcome
from dicom_node.results.predecessor import Predecessor
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import (
    InstanceState,
    delivered_object,
    delivery,
    instance,
)
from inference.finding import OperatingPoint
from tests.support.databases import create_migrated
from tests.support.expected_transitions import OF_OLD_ROWS, USUAL, Effects, Made
from tests.support.journals import ANSWER, STORED, destination

T = TypeVar("T")

ARCHIVE = destination(
    "archive",
    results=("secondary_capture", "presentation_state"),
    commitment=True,
    retry_days=3,
)
PLAIN_ARCHIVE = destination(
    "archive", results=("secondary_capture", "presentation_state"), retry_days=3
)
BACKUP = destination("backup", retry_days=3)
ALERTS = destination("alerts", send_negative=False, retry_days=3)
REVIEW = destination("review", results=("exam_summary",), retry_days=3)
RETENTION = RetentionSettings(
    delivered_days=7, failed_days=7, journal_days=14, audit_days=14
)
LOST_OBJECT, PROCESSING_FAILURE, CONFLICT = 0x0112, 0x0110, 0x0119
LANES = (ANALYZE, ANALYZE_SEPARATELY, ANALYZE_LAST, ANALYZE_SLOWLY, SUMMARIZE)
QUIET_S = 90.0
# A colon ends the name of the lane in the id of work.
MOVED_LAST_FROM = (f"{ANALYZE}:", f"{ANALYZE_SEPARATELY}:")
TABLES: Mapping[type[Trigger], sa.Table] = {
    InstanceTrigger: instance,
    DeliveryTrigger: delivery,
    ObjectTrigger: delivered_object,
}
ALL_EXPECTED = {**USUAL, **OF_OLD_ROWS}
PREFIX = "fracture_node_"

_TRIGGERS = {str(trigger): trigger for entity in TABLES for trigger in entity}
_COUNTERS = {each.counter for each in USUAL.values()} - {""}
_UNNAMED = "SELECT COUNT(*) FROM transition_log WHERE trigger_name IS NULL"
_NAME = "UPDATE transition_log SET trigger_name = ? WHERE trigger_name IS NULL"
_CREATE_LOG = """
CREATE TABLE transition_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, instance_id TEXT, before TEXT, after TEXT, trigger_name TEXT
)
"""
_LOG = """
CREATE TRIGGER {table}_{event} AFTER {operation} ON {table} BEGIN
    INSERT INTO transition_log (source, instance_id, before, after)
    VALUES ('{table}', {instance_id}, {before}, {after});
END
"""
_LOG_EVENTS = """
CREATE TRIGGER event_inserted AFTER INSERT ON event BEGIN
    INSERT INTO transition_log (source, instance_id, after, trigger_name)
    VALUES ('event', NEW.instance_id, NEW.kind, '');
END
"""
_LOG_COUNTS = """
CREATE TRIGGER tally_inserted AFTER INSERT ON tally WHEN NEW.le = '' BEGIN
    INSERT INTO transition_log (source, after, trigger_name)
    VALUES ('tally', NEW.name, '');
END
"""
_FORCE = "UPDATE {table} SET state = ? WHERE {key} = ?"
_READ_LOG = """
SELECT id, source, instance_id, before, after, trigger_name FROM transition_log
WHERE id > ? ORDER BY id
"""


class Killed(BaseException):
    """A simulated kill of the process. No handler of the node catches it."""


class Clock:
    """A replacement for `time.time` that a test can advance.

    Attributes:
        passed_s: The seconds that are added to the time of the computer.
    """

    def __init__(self) -> None:
        self._now = time.time
        self.passed_s = 0.0

    def __call__(self) -> float:
        return self._now() + self.passed_s


@dataclass(frozen=True, slots=True)
class Logged:
    """A row of the log: a transition, an event or a count.

    Attributes:
        number: The number of the row. It increases.
        source: The name of the table that was written.
        instance_id: Id of the instance; None for a count.
        before: The state before a transition; None if there was no row.
        after: The state after a transition, the kind of an event, or the name of a
            counter.
        trigger: The name of the trigger of a transition; empty for an event or a count.
    """

    number: int
    source: str
    instance_id: str | None
    before: str | None
    after: str | None
    trigger: str

    @property
    def made(self) -> Made | None:
        """The transition; None for an event or a count."""
        trigger = _TRIGGERS.get(self.trigger)
        return (trigger, self.before, self.after) if trigger else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Work that has begun.

    Attributes:
        item: Id of the work.
        instance_id: Id of the instance or, for a summary, of the examination.
        run: Run of the analysis, summary or delivery.
        destination: The destination of a delivery; otherwise None.
        uids: SOP Instance UIDs of the objects to send.
        request: The commitment request to send; None if there is none.
        summary: The inputs of a summary; otherwise None.
    """

    item: str
    instance_id: str
    run: int
    destination: Destination | None = None
    uids: tuple[str, ...] = ()
    request: Request | None = None
    summary: SummaryInputs | None = None

    @property
    def is_slow(self) -> bool:
        return self.item.startswith(f"{ANALYZE_SLOWLY}:")


@contextmanager
def observing(clock: Clock) -> Iterator[None]:
    """Replace `time.time` by `clock` during the block, and log triggers.

    The trigger of each transition is added to its rows in the log. If another module
    than the state machine has written a state, the next transition raises
    AssertionError.
    """
    execute = state_machine._execute

    def observed(
        connection: sa.Connection, trigger: Trigger, statement: sa.Executable
    ) -> sa.CursorResult[Any]:
        unnamed = connection.exec_driver_sql(_UNNAMED).scalar_one()
        assert unnamed == 0, "another module wrote a state"
        result: Any = execute(connection, trigger, statement)
        if result.returns_rows:
            result = result.freeze()()  # an open cursor would survive a kill
        connection.exec_driver_sql(_NAME, (str(trigger),))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        patch.setattr(state_machine, "_execute", observed)
        yield


class SimulatedNode:
    """The journal of a node, its queue, and the attempts that have begun.

    Attributes:
        instances: The received instances that are not removed.
        attempts: The attempts in progress.
        requests: (destination, SOP Instance UIDs of the objects) of each commitment
            request, by Transaction UID.
        seen: The transitions that `check` has found.
        allowed: The transitions that `check` permits.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        storage = StorageSettings(directory=folder, database="", min_free_mb=0)
        create_migrated(storage)
        (folder / "spool").mkdir()
        self._folder, self.clock = folder, clock
        self._kill_after: int | None = None
        self.engine = open_engine(storage.database_url)
        sa.event.listen(self.engine, "connect", _do_not_sync)
        with self.engine.begin() as connection:
            _install_log(connection)
        sa.event.listen(self.engine, "before_cursor_execute", self._count_statement)
        # Much faster than SQLAlchemy, for the reads after each step.
        self._file = sqlite3.connect(self.engine.url.database or "")
        self._file.isolation_level = None
        self._empty = sqlite3.connect(":memory:")
        self._file.backup(self._empty)
        self.reset()

    def reset(self) -> None:
        """Make this node a new one: delete all rows, and reset the clock.

        The engine is kept, because it has compiled statements.
        """
        self._empty.backup(self._file)
        self.clock.passed_s = 0.0
        self.instances: list[ReceivedInstance] = []
        self.attempts: list[Attempt] = []
        self.requests: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.seen: set[Made] = set()
        self.allowed = set(USUAL)
        self._checked = self._files = 0
        self.use((ARCHIVE, BACKUP, ALERTS))

    def close(self) -> None:
        self._empty.close()
        self._file.close()
        self.engine.dispose()

    def use(self, destinations: Sequence[Destination]) -> None:
        """Restart the node with these destinations."""
        self.destinations = {each.name: each for each in destinations}
        self.journal = Journal(self.engine, self._folder, destinations, quiet_s=QUIET_S)
        self.attempts.clear()

    def do(self, call: Callable[[], T], kill_after: int | None = None) -> T:
        """Call a function, and return its result.

        If `kill_after` is a number, the call is killed before it executes more SQL
        statements than that. Then it is repeated without a kill.
        """
        self._kill_after = kill_after
        try:
            return call()
        except Killed:
            pass
        finally:
            self._kill_after = None
        return call()

    def _count_statement(self, *_: object) -> None:
        if self._kill_after is not None:
            self._kill_after -= 1
            if self._kill_after < 0:
                raise Killed

    def receive(
        self, uid: str = "", digest: str = "d1", kill_after: int | None = None
    ) -> str:
        """Receive an instance.

        Returns:
            The id of the instance. If the node has received the same bytes before, the
                id of the first copy.
        """
        self._files += 1
        sop_instance_uid = uid or f"2.25.{self._files}"

        def record() -> ReceivedInstance:
            # Ids are not random, so that an example of hypothesis can be repeated.
            self._files += 1
            identity = f"{self._files:032x}"
            path = self._folder / "spool" / f"{identity}.dcm"
            path.touch()
            header = InstanceHeader(
                sop_class_uid=DigitalXRayImageStorageForPresentation,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=ExplicitVRLittleEndian,
                study_instance_uid="1.2.3",
            )
            received = ReceivedInstance(
                id=identity,
                path=path,
                header=header,
                content_digest=digest,
                size=1000,
                calling_ae_title="MODALITY",
                calling_address="127.0.0.1",
                received_at=datetime.fromtimestamp(time.time(), tz=UTC),
            )
            self.journal.record(received)
            return received

        received = self.do(record, kill_after)
        if self.journal.load(received.id) is None:
            return next(
                each.id
                for each in self.instances
                if each.header.sop_instance_uid == sop_instance_uid
                and each.content_digest == digest
            )
        self.instances.append(received)
        return received.id

    def queue(self) -> list[str]:
        """Return the ids of the work that waits, sorted."""
        return self._items("ENQUEUED", "DELAYED")

    def finished(self) -> list[str]:
        """Return the ids of the work that has ended, sorted."""
        return self._items("SUCCESS")

    def _items(self, *states: str) -> list[str]:
        rows = self._file.execute(
            "SELECT workflow_uuid, status FROM workflow_status ORDER BY workflow_uuid"
        )
        return [item for item, status in rows if status in states]

    def _finish(self, item: str) -> None:
        update = "UPDATE workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = ?"
        self._file.execute(update, (item,))

    def analysis(self, instance_id: str) -> str:
        """Return the id of the waiting work for the newest analysis of an instance."""
        others = f"{DELIVER}:", f"{SUMMARIZE}:"
        lanes = [each for each in self.queue() if not each.startswith(others)]
        items = [each for each in lanes if f":{instance_id}:" in each]
        return max(items, key=lambda item: int(item.split(":")[-1]))

    def delivery(self, instance_id: str, name: str) -> str:
        """Return the id of the work for the current run of a delivery.

        `name` is the name of the destination.
        """
        query = "SELECT run FROM delivery WHERE instance_id = ? AND destination = ?"
        ((run,),) = self._file.execute(query, (instance_id, name))
        return f"{DELIVER}:{instance_id}:{name}:{run}"

    def begin(self, item: str, kill_after: int | None = None) -> Attempt | None:
        """Begin work as a worker does.

        Returns:
            The attempt; None if the work has ended at once.
        """
        lane, instance_id, *target, run = item.split(":")
        started = Attempt(item, instance_id, int(run))
        if lane == DELIVER:
            attempt = self._begin_delivery(started, target[0], kill_after)
        elif lane == SUMMARIZE:
            summarize = self.journal.summaries.begin
            inputs = self.do(lambda: summarize(instance_id, int(run)), kill_after)
            attempt = replace(started, summary=inputs) if inputs else None
        else:
            is_slow, begin = lane == ANALYZE_SLOWLY, self.journal.analyses.begin
            record = self.do(
                lambda: begin(instance_id, int(run), slow=is_slow), kill_after
            )
            attempt = started if record else None
        if attempt is None:
            self._finish(item)
        else:
            self.attempts.append(attempt)
        return attempt

    def _begin_delivery(
        self, started: Attempt, name: str, kill_after: int | None
    ) -> Attempt | None:
        """Begin a delivery as a worker does.

        Returns:
            The attempt; None if the work has ended at once.
        """
        journal, key, run = self.journal, (started.instance_id, name), started.run
        found = self.destinations.get(name)
        if found is None:
            outcomes = journal.delivery_outcomes
            if not self.do(lambda: outcomes.postpone_unknown(*key, run), kill_after):
                reason = "not in the settings any more"
                fail = partial(outcomes.fail_permanently, *key, run, reason)
                self.do(fail, kill_after)
            return None
        paths = self.do(lambda: journal.deliveries.begin(*key, run), kill_after)
        if paths is None:
            return None
        attempt = replace(started, destination=found, uids=tuple(paths))
        if paths:
            return attempt
        begin, instance_id = journal.commitments.begin, started.instance_id
        request = self.do(lambda: begin(instance_id, found, run), kill_after)
        if request is not None:
            uids = tuple(uid for _, uid in request.references)
            self.requests[request.transaction_uid] = (name, uids)
            return replace(attempt, request=request)
        self.send(attempt, {}, kill_after)
        return None

    def _end(self, attempt: Attempt) -> None:
        if attempt in self.attempts:
            self.attempts.remove(attempt)
        self._finish(attempt.item)

    def summarize(
        self, attempt: Attempt, end: str, kill_after: int | None = None
    ) -> None:
        """End an attempt to make a summary, as a worker does.

        Args:
            attempt: The attempt.
            end: "positive", "negative" or "not analyzed" for a summary with this
                answer, "failed", or "separate" if nobody expects a summary. If an
                answer is given, and the objects of the summary exist already, they are
                only sent again. With any other text, nothing changes, and the attempt
                continues.
            kill_after: As for `do`.
        """
        summaries, inputs = self.journal.summaries, attempt.summary
        assert inputs is not None
        key = attempt.instance_id, attempt.run
        probability = {"positive": 0.9, "negative": 0.1}.get(end)
        point = {"positive": OperatingPoint.DEFINITE, "negative": OperatingPoint.NONE}
        model = ANSWER.finding.model
        answer = SummaryAnswer(probability, point.get(end), model, end)
        uid = f"2.25.{attempt.instance_id}.{inputs.revision}"
        page = StoredResult("exam_summary", "1.2", uid, f"results/{uid}.dcm")
        made = Predecessor("1.2", uid, "2.25.8", inputs.revision, len(inputs.images))

        def call() -> bool:
            match end:
                case "positive" | "negative" | "not analyzed" if inputs.made:
                    summaries.send_again(inputs, answer)
                case "positive" | "negative" | "not analyzed":
                    summaries.record_summary(inputs, answer, [page], [made])
                case "separate":
                    summaries.end_without_summary(*key, "no result expected")
                case "failed":
                    summaries.fail(*key, end)
                case _:
                    return False
            return True

        if self.do(call, kill_after):
            self._end(attempt)

    def conclude(
        self, attempt: Attempt, end: str, kill_after: int | None = None
    ) -> None:
        """End an attempt to analyze an instance, as a worker does.

        If `end` cannot happen in the lane of the attempt, nothing changes, and the
        attempt continues. It also continues if the decoder died in the slow lane.

        Args:
            attempt: The attempt.
            end: "positive" or "negative" for a result, "not analyzed", "failed", "died"
                if the decoder died, "separate" if the image may be slow, or "last" if
                its address sent a slow image.
            kill_after: As for `do`.
        """
        key, analyses = (attempt.instance_id, attempt.run), self.journal.analyses

        def call() -> bool:
            match end:
                case "positive" | "negative":
                    answer = self._answer(attempt.instance_id, end)
                    try:
                        analyses.record_result(*key, answer)
                    except SamePictureError as error:
                        same = Conclusion(
                            InstanceState.NOT_ANALYZED, str(error), error.known
                        )
                        analyses.conclude(*key, same)
                case "not analyzed" | "failed":
                    states = InstanceState.NOT_ANALYZED, InstanceState.FAILED
                    state = states[end == "failed"]
                    notice = self._result(attempt.instance_id, "notice")
                    analyses.conclude(*key, Conclusion(state, end, notices=[notice]))
                case "died" if attempt.is_slow:
                    analyses.child_died(*key, "too much memory")
                    return False
                case "died":
                    analyses.continue_slowly(*key, "too much memory")
                case "separate" if attempt.item.startswith(f"{ANALYZE}:"):
                    analyses.continue_separately(*key, "a large image")
                case "last" if attempt.item.startswith(MOVED_LAST_FROM):
                    analyses.continue_separately(*key, "slow before", comes_last=True)
                case _:
                    return False
            return True

        if self.do(call, kill_after):
            self._end(attempt)

    def _answer(self, instance_id: str, end: str) -> AnalysisResult:
        finding = replace(ANSWER.finding, probability=0.9 if end == "positive" else 0.1)
        record = self.journal.load(instance_id)
        kinds = "secondary_capture", "presentation_state"
        return replace(
            ANSWER,
            finding=finding,
            picture_digest=record.sop_instance_uid if record else "",
            results=[self._result(instance_id, kind) for kind in kinds],
        )

    @staticmethod
    def _result(instance_id: str, kind: str) -> StoredResult:
        uid = f"2.25.{instance_id}.{kind}"
        return StoredResult(kind, "1.2", uid, f"results/{instance_id}-{kind}.dcm")

    def send(
        self,
        attempt: Attempt,
        outcomes: Mapping[str, Outcome],
        kill_after: int | None = None,
    ) -> None:
        """Record the outcomes of the objects of an attempt, and end the attempt.

        `outcomes` has the outcomes by SOP Instance UID.
        """
        assert attempt.destination is not None
        key = attempt.instance_id, attempt.destination, attempt.run
        record = self.journal.delivery_outcomes.record
        self.do(lambda: record(*key, outcomes, 0.1), kill_after)
        self._end(attempt)

    def request(
        self, attempt: Attempt, outcome: Outcome, kill_after: int | None = None
    ) -> None:
        """Record the outcome of a commitment request, and end its attempt."""
        assert attempt.destination is not None
        key = attempt.instance_id, attempt.destination, attempt.run
        record = self.journal.commitments.record_request_outcome
        self.do(lambda: record(*key, outcome), kill_after)
        self._end(attempt)

    def report(
        self,
        transaction_uid: str,
        reasons: Sequence[int | None],
        kill_after: int | None = None,
    ) -> None:
        """Record a commitment report of an archive. A refused report changes nothing.

        Args:
            transaction_uid: Transaction UID of one of `requests`.
            reasons: The failure reason of each object of the request, in their order.
                An object is committed if its reason is None or missing.
            kill_after: As for `do`.
        """
        name, uids = self.requests[transaction_uid]
        named = zip(uids, reasons, strict=False)
        failed = {uid: reason for uid, reason in named if reason is not None}
        found = self.destinations.get(name, ARCHIVE)
        reporter = Reporter("X", "localhost", called=found)
        report = Report(transaction_uid, frozenset(uids) - failed.keys(), failed)
        with suppress(ReportRefusedError):
            record = self.journal.commitments.record_report
            self.do(lambda: record(report, reporter), kill_after)

    def report_program_error(self, item: str, kill_after: int | None = None) -> None:
        """End work as the cleanup of a worker does after an error of the program."""
        lane, instance_id, *target, run = item.split(":")
        if lane == SUMMARIZE:
            summary_failed = self.journal.summaries.fail
            self.do(lambda: summary_failed(instance_id, int(run), "error"), kill_after)
        elif target:
            fail = self.journal.delivery_outcomes.fail_permanently
            self.do(lambda: fail(instance_id, target[0], int(run), "error"), kill_after)
        else:
            failed = Conclusion(InstanceState.FAILED, "error")
            end = self.journal.analyses.conclude
            self.do(lambda: end(instance_id, int(run), failed), kill_after)
        self._finish(item)

    def pass_days(self, days: float) -> None:
        """Advance the clock of the node."""
        self.clock.passed_s += days * 86400

    def delete_expired(self, kill_after: int | None = None) -> None:
        """Remove the files and rows that are older than RETENTION, as a worker does."""
        self.do(
            lambda: delete_expired(self.engine, self._folder, RETENTION), kill_after
        )
        self.instances = [
            each for each in self.instances if self.journal.load(each.id) is not None
        ]

    def deliveries(self) -> list[tuple[str, str]]:
        """Return the instance id and the destination of each delivery."""
        query = "SELECT instance_id, destination FROM delivery ORDER BY 1, 2"
        return self._file.execute(query).fetchall()

    def run(self, item: str) -> None:
        """Begin work, and end it with success.

        If the work is a summary, the clock is first advanced so that the summary is
        due. If it is a delivery to an unknown destination, the clock is advanced so
        that the delivery fails.
        """
        lane, _, *target, _ = item.split(":")
        if lane == SUMMARIZE:
            self.clock.passed_s += QUIET_S
        elif lane == DELIVER and target[0] not in self.destinations:
            self.clock.passed_s += UNKNOWN_S + 1
        attempt = self.begin(item)
        if attempt is None:
            return
        if attempt.summary is not None:
            self.summarize(attempt, "positive")
        elif attempt.destination is None:
            self.conclude(attempt, "positive")
        elif attempt.request is None:
            self.send(attempt, dict.fromkeys(attempt.uids, STORED))
        else:
            self.request(attempt, STORED)
            self.report(attempt.request.transaction_uid, ())

    def run_all(self) -> None:
        """Do all queued work with success, and check that all work ends.

        Destinations are resumed first. Deliveries that wait for their peer are
        released, because the peer works again. The clock is advanced so that deliveries
        to unknown destinations are released, too.
        """
        for each in (ARCHIVE, BACKUP, ALERTS, REVIEW):
            self.journal.deliveries.resume(each.name)
        # Each delivery needs an attempt for its objects and one for their commitment,
        # and one for each run that is stale.
        bound = 10 * (len(self.queue()) + len(self.deliveries()) + len(self.instances))
        for _ in range(bound + 10):
            if not self.queue():
                self.clock.passed_s += UNKNOWN_S + 1
                self.journal.deliveries.resume_remaining()
                self.journal.breaker.maintain()
            if not (items := self.queue()):
                break
            self.run(items[0])
            self.check()
        assert self.queue() == []
        self._check_that_all_ended()

    def _check_that_all_ended(self) -> None:
        states = self._file.execute(
            "SELECT DISTINCT state FROM instance "
            "UNION SELECT state FROM delivery UNION SELECT state FROM delivered_object"
        )
        ended = {"analyzed", "delivered", "not_analyzed", "failed", "dropped"}
        assert {state for (state,) in states} <= ended

    def check(self) -> None:
        """Check the transitions since the last call, and that no work is stuck.

        Each committed transition must be one of `allowed`. Its event must be recorded,
        and its counter increased. Each unfinished analysis, summary and delivery must
        be queued, or wait for its peer, an analysis, or the end of a pause. The state
        of each analyzed instance must follow from its deliveries.

        Raises:
            AssertionError: A condition does not hold.
        """
        rows = self._file.execute(_READ_LOG, (self._checked,)).fetchall()
        if log := [Logged(*row) for row in rows]:
            self._checked = log[-1].number
            for place, each in enumerate(log):
                if each.source in {"event", "tally"}:
                    continue
                made = each.made
                assert made in self.allowed, each
                assert each.source == TABLES[type(made[0])].name
                self.seen.add(made)
                _check_event(ALL_EXPECTED[made], each, log[place + 1 :])
            _check_counts(log)
        self._check_that_work_is_queued()
        self._check_states_of_instances()

    def _check_that_work_is_queued(self) -> None:
        queued = set(self.queue())
        analyzing = set()
        # The end of an unfinished analysis requests the summary again.
        waits_for_image = (
            "is_summary = 1 AND EXISTS (SELECT 1 FROM instance AS image WHERE "
            "image.examination_id = instance.id AND image.is_summary IS NULL "
            "AND image.state = 'received')"
        )
        for instance_id, run, waits in self._file.execute(
            f"SELECT id, run, {waits_for_image} FROM instance WHERE state = 'received'"  # noqa: S608 - a constant
        ):
            lanes = (f"{lane}:{instance_id}:{run}" for lane in LANES)
            assert waits or not queued.isdisjoint(lanes), instance_id
            analyzing.add(instance_id)
        for instance_id, name, state, run, waits_for in self._file.execute(
            "SELECT instance_id, destination, state, run, waits_for FROM delivery "
            "WHERE state IN ('queued', 'committing', 'paused')"
        ):
            item = f"{DELIVER}:{instance_id}:{name}:{run}"
            waits = waits_for is not None or state == "paused"
            assert waits or instance_id in analyzing or item in queued, item

    def _check_states_of_instances(self) -> None:
        """Check the state of each analyzed instance with a result."""
        rows = self._file.execute(
            "SELECT instance.id, instance.state, delivery.state FROM instance "
            "LEFT JOIN delivery ON delivery.instance_id = instance.id "
            "WHERE probability IS NOT NULL AND instance.state != 'received'"
        )
        found: dict[tuple[str, str], set[str]] = {}
        for identity, state, of_delivery in rows:
            found.setdefault((identity, state), set()).add(of_delivery)
        for (identity, state), deliveries in found.items():
            if deliveries & {"queued", "committing", "paused"}:
                expected = "delivering"
            elif "failed" in deliveries:
                expected = "failed"
            else:
                expected = "delivered" if "delivered" in deliveries else "analyzed"
            assert state == expected, (identity, deliveries)

    def force(self, table: str, instance_id: str, state: str) -> None:
        """Set the state of all rows of an instance in a table.

        The changes simulate rows of an earlier release, so they are not in the log.
        """
        key = "id" if table == instance.name else "instance_id"
        update = _FORCE.format(table=table, key=key)
        self._file.execute(update, (state, instance_id))
        self._file.execute("DELETE FROM transition_log WHERE trigger_name IS NULL")


def _check_event(expected: Effects, made: Logged, later: Sequence[Logged]) -> None:
    """Check that the event of a transition follows it in the log.

    The event of an instance or a delivery follows at once. One event describes several
    objects, so it follows the last of them.
    """
    if expected.event:
        of_object = made.source == delivered_object.name
        following = later if of_object else later[:1]
        events = {(each.source, each.after, each.instance_id) for each in following}
        assert ("event", expected.event, made.instance_id) in events, made


def _check_counts(log: Sequence[Logged]) -> None:
    """Check that the counts in a log match its transitions and decoder deaths."""
    transitions = [each.made for each in log if each.made]
    expected = Counter(ALL_EXPECTED[made].counter for made in transitions)
    del expected[""]
    # The decoder may also die in work that is stale.
    deaths = [each for each in log if each.after == "decoder died"]
    expected["decoder_deaths"] = len(deaths)
    names = [str(each.after) for each in log if each.source == "tally"]
    counted = Counter(name.removeprefix(PREFIX) for name in names)
    assert {each: counted[each] for each in _COUNTERS} == {
        each: expected[each] for each in _COUNTERS
    }


def _do_not_sync(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _install_log(connection: sa.Connection) -> None:
    connection.exec_driver_sql(_CREATE_LOG)
    for table in TABLES.values():
        for event, operation, before, after in (
            ("inserted", "INSERT", "NULL", "NEW.state"),
            ("updated", "UPDATE OF state", "OLD.state", "NEW.state"),
            ("deleted", "DELETE", "OLD.state", "NULL"),
        ):
            key = "id" if table is instance else "instance_id"
            row = "OLD" if event == "deleted" else "NEW"
            values = {"event": event, "operation": operation, "table": table.name}
            values["instance_id"] = f"{row}.{key}"
            statement = _LOG.format(**values, before=before, after=after)
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_LOG_EVENTS)
    connection.exec_driver_sql(_LOG_COUNTS)
