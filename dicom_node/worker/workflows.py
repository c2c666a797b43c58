"""The durable workflows: analyze an instance, deliver its results.

DBOS runs each workflow at least once, and again after a crash. So each one is
idempotent and ends in one journal transaction, which also queues the work that follows.
No steps are recorded. That is cheaper, and an upgrade cannot fail on steps of the
previous release.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from dbos import DBOS
from pydicom.uid import DigitalXRayImageStorageForProcessing

from config.destinations import Destination
from config.settings import Settings
from dicom_node.analysis.pipeline import Analysis, Pipeline
from dicom_node.analysis.slow_images import ResemblesSlowError
from dicom_node.audit.transfers import OnSent, ignore
from dicom_node.decoder.client import ChildDiedError, ChildTimeoutError
from dicom_node.delivery import dispatch
from dicom_node.delivery.concurrency import ConcurrencyLimits
from dicom_node.errors import (
    AnalysisError,
    NotAnalyzedError,
    NotMeantError,
    SamePictureError,
)
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.delivery_outcomes import log_name
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    DELIVER,
)
from dicom_node.log.context import instance_context, log_step
from dicom_node.network.storage_commitment import OnRefused, ignore_refusal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.pixels.decode import DecodedInstance
from dicom_node.pixels.screening import is_capture
from dicom_node.reasons import Failure, Reason, Unanalyzed
from dicom_node.results.encoding import ResultObject
from dicom_node.storage.spool import Spool, file_exists
from dicom_node.storage.tables import DeliveryState, InstanceState
from dicom_node.worker.retry import retry_until_available
from inference.drawing.caption import headline

logger = logging.getLogger(__name__)

MOST_CHILD_DEATHS = 3
# If the whole worker keeps dying during an instance, the instance is given up, too, but
# later: a worker has many reasons to die, and an instance is seldom one of them.
MOST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The workflows and the objects that they use.

    Attributes:
        settings: The settings of the node.
        journal: The journal that records all work.
        spool: The files of instances and results.
        pipeline: The analysis.
        on_delivery: Called when there may be something to deliver.
        on_sent: Called after each attempt to send results; may raise SQLAlchemyError
            before it has any effect.
        on_refused: Called for each report of an archive that is rejected.
        turns: Limits the number of concurrent deliveries.
        on_moved: Called when an instance has left the normal lane for the separate
            lane, so that the next one can begin.
        separate_pipeline: Returns the analysis of the separate lane. If None, that lane
            uses the pipeline of the normal lane.
        slow_pipeline: Makes the analysis of the slow lane, with a decoding child of its
            own for one instance. If None, the slow lane uses the pipeline of the normal
            lane.
    """

    settings: Settings
    journal: Journal
    spool: Spool
    pipeline: Pipeline
    on_delivery: Callable[[], None] = lambda: None
    on_sent: OnSent = ignore
    on_refused: OnRefused = ignore_refusal
    turns: ConcurrencyLimits = field(default_factory=ConcurrencyLimits)
    on_moved: Callable[[], None] = lambda: None
    separate_pipeline: Callable[[], Pipeline] | None = None
    slow_pipeline: Callable[[], AbstractContextManager[Pipeline]] | None = None

    def analyze(self, instance_id: str, run: int) -> None:
        """Analyze one instance, and record the outcome in the journal.

        If the instance resembles a recent slow image, the separate lane continues. If
        the decoding child dies or takes too long, the slow lane continues.
        """
        row = retry_until_available(
            lambda: self.journal.analyses.begin(instance_id, run)
        )
        if row is None:
            return  # stale
        with instance_context(row.sop_instance_uid, row.id):
            try:
                self._end(row, self._analyze)
            except ResemblesSlowError:
                move = partial(self.journal.analyses.continue_separately, row.id)
                retry_until_available(partial(move, row.run))
                log_step(logger, "moved to the separate lane", "resembles a slow image")
                self.on_moved()
            except ChildDiedError as death:
                reason = str(death)
                move = partial(self.journal.analyses.continue_slowly, row.id, row.run)
                retry_until_available(lambda: move(reason))
                log_step(logger, "moved to the slow lane", reason)
        self.on_delivery()

    def analyze_separately(self, instance_id: str, run: int) -> None:
        """Analyze one instance as `analyze` does, apart from the normal lane."""
        separate = self
        if self.separate_pipeline:
            pipeline = retry_until_available(self.separate_pipeline)
            separate = replace(self, pipeline=pipeline)
        separate.analyze(instance_id, run)

    def analyze_slowly(self, instance_id: str, run: int) -> None:
        """Analyze one instance with the whole timeout; the outcome is final.

        Instances in this lane wait for each other. Instances of the normal lane do not
        wait for them.
        """
        begin = partial(self.journal.analyses.begin, instance_id, run, slow=True)
        row = retry_until_available(begin)
        if row is None:
            return  # stale
        with instance_context(row.sop_instance_uid, row.id), ExitStack() as opened:
            slow = self
            if make := self.slow_pipeline:
                pipeline = retry_until_available(lambda: opened.enter_context(make()))
                slow = replace(self, pipeline=pipeline)
            self._end(row, slow._analyze_slowly)  # noqa: SLF001 - this class
        self.on_delivery()

    def _end(
        self, row: sa.Row[Any], analyze: Callable[[sa.Row[Any]], Conclusion | None]
    ) -> None:
        began = time.monotonic()
        ended = analyze(row)
        if ended is not None:
            self._conclude(row, ended, time.monotonic() - began)

    def _analyze_slowly(self, row: sa.Row[Any]) -> Conclusion | None:
        """Analyze as `_analyze` does, but count the deaths of the decoding child."""
        while True:
            try:
                return self._analyze(row)
            except ChildDiedError as death:
                died = partial(self.journal.analyses.child_died, row.id, row.run)
                deaths = retry_until_available(partial(died, str(death)))
                is_final = isinstance(death, ChildTimeoutError)
                if is_final or not 0 < deaths < MOST_CHILD_DEATHS:
                    failed = Conclusion(InstanceState.FAILED, str(death))
                    return self._told(row, failed, death.reason)

    def _analyze(self, row: sa.Row[Any]) -> Conclusion | None:
        """Record a result, or return the reason for its absence.

        Returns:
            The conclusion; None if there is a result, or if the work is stale.

        Raises:
            ResemblesSlowError: The image belongs in the separate lane.
            ChildDiedError: The decoding child died or took too long.
        """
        not_analyzed = InstanceState.NOT_ANALYZED
        try:
            self._answer(row)
        except (ResemblesSlowError, ChildDiedError):
            raise
        except SamePictureError as why:
            ended = Conclusion(not_analyzed, str(why), why.known)
            return replace(ended, counted_as=why.reason)
        except NotMeantError as why:
            return Conclusion(not_analyzed, str(why), counted_as=why.reason)
        except NotAnalyzedError as why:
            return self._told(row, Conclusion(not_analyzed, str(why)), why.reason)
        except AnalysisError as why:
            failed = Conclusion(InstanceState.FAILED, str(why))
            return self._told(row, failed, why.reason)
        except Exception:
            logger.exception("An error of this program: %s", row.sop_instance_uid)
            words = "An error of this program; its log has the details."
            failed = Conclusion(InstanceState.FAILED, words)
            return self._told(row, failed, Failure.PROGRAM)
        return None

    def _answer(self, row: sa.Row[Any]) -> None:
        began = time.monotonic()
        _refuse_return(row)
        self._refuse_twin(row)
        instance = self.journal.received_instance(row)
        analysis = self._analysis(instance, row)
        stored = [self._store(instance, each) for each in analysis.results]
        decoded, said = analysis.decoded, analysis.finding
        digests = decoded.picture_digest, decoded.identity_digest
        kept = analysis.seconds, analysis.drawing
        answer = AnalysisResult(said, *digests, stored, *kept)
        if not retry_until_available(
            lambda: self.journal.analyses.record_result(row.id, row.run, answer)
        ):
            return  # stale
        stages = ", ".join(f"{name} {s:.3f} s" for name, s in answer.seconds.items())
        words = f"{headline(said)} ({stages})"
        log_step(logger, "analyzed", words, seconds=time.monotonic() - began)

    def _told(
        self, row: sa.Row[Any], ended: Conclusion, counted_as: Reason
    ) -> Conclusion:
        """Add notices to a conclusion, for destinations that get no negative results.

        Raises:
            ResemblesSlowError: The image belongs in the separate lane.
            ChildDiedError: The decoding child of the normal lane died or took too long.
        """
        instance = self.journal.received_instance(row)
        why = _spoken(ended.state), ended.reason
        try:
            made = self.pipeline.notices(instance, why)
        except AnalysisError as reason:
            if isinstance(reason, ChildDiedError) and row.slow is None:
                raise  # the slow lane allows more time
            logger.warning("No notice of %s: %s", row.sop_instance_uid, reason)
            made = ()
        notices = [self._store(instance, each) for each in made]
        return replace(ended, notices=notices, counted_as=counted_as)

    def _conclude(self, row: sa.Row[Any], ended: Conclusion, seconds: float) -> None:
        level = logging.WARNING if ended.state is InstanceState.FAILED else logging.INFO
        step = _spoken(ended.state).lower()
        log_step(logger, step, ended.reason, seconds=seconds, level=level)
        retry_until_available(
            lambda: self.journal.analyses.conclude(row.id, row.run, ended)
        )

    def _store(self, instance: ReceivedInstance, result: ResultObject) -> StoredResult:
        # Results of two models have different UIDs, so a new result does not replace
        # the file of a delivery in progress.
        name = f"{instance.id}-{result.form}-{result.sop_instance_uid}"
        return StoredResult(
            form=result.form,
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            path=retry_until_available(
                lambda: self.spool.store_result(name, result.content)
            ),
        )

    def _analysis(self, instance: ReceivedInstance, row: sa.Row[Any]) -> Analysis:
        """Run the pipeline, unless the instance has killed the worker too often."""
        if row.attempts > MOST_ATTEMPTS:
            raise AnalysisError(
                f"The worker died {MOST_ATTEMPTS} times while it analyzed this "
                "instance. Look at the image; `fracture-node retry --uid` tries again.",
                Failure.WORKER_DIED,
            )

        if not retry_until_available(partial(file_exists, instance.path)):
            words = "Its file is gone from the disk; send the instance again."
            raise AnalysisError(words, Failure.BROKEN)

        def check(decoded: DecodedInstance) -> None:
            assumed = decoded.radiograph.assumptions
            noted = partial(self.journal.analyses.note_assumptions, row.id, row.run)
            retry_until_available(lambda: noted(assumed))
            refuse = partial(self.journal.analyses.refuse_known, row)
            retry_until_available(
                lambda: refuse(decoded.picture_digest, decoded.identity_digest)
            )

        return retry_until_available(lambda: self.pipeline.analyze(instance, check))

    def _refuse_twin(self, row: sa.Row[Any]) -> None:
        """Raise NotMeantError if the For Presentation twin of an image has a result."""
        if row.sop_class_uid != DigitalXRayImageStorageForProcessing or row.run > 1:
            return
        if twin := retry_until_available(
            lambda: self.journal.analyses.find_for_presentation_image(row)
        ):
            raise NotMeantError(
                "A For Processing image; its For Presentation image, "
                f"{twin}, was analyzed instead.",
                Unanalyzed.TWIN,
            )

    def deliver(self, instance_id: str, destination: str, run: int) -> None:
        """Send an instance's results to one destination, or ask for commitment to them.

        Each run does only one of the two.
        """
        uid, came_from = retry_until_available(lambda: self.journal.sender(instance_id))
        with instance_context(uid, instance_id):
            self._deliver(instance_id, destination, run, came_from)

    def _deliver(
        self, instance_id: str, destination: str, run: int, came_from: str
    ) -> None:
        known = {each.name: each for each in self.settings.destinations}
        if destination in known:
            reached = known[destination]
            with self.turns.at(reached, came_from):
                self._deliver_to(reached, instance_id, run, came_from)
            return
        words = "not in the settings any more; add it and retry"
        give_up = self.journal.delivery_outcomes.fail_permanently
        retry_until_available(lambda: give_up(instance_id, destination, run, words))
        step, told = log_name(DeliveryState.FAILED), f"{destination} is {words}"
        log_step(logger, step, told, level=logging.WARNING)

    def _deliver_to(
        self, destination: Destination, instance_id: str, run: int, came_from: str
    ) -> None:
        journal, folder = self.journal, self.settings.storage.directory
        begin = partial(journal.deliveries.begin, instance_id, destination.name, run)
        paths = retry_until_available(begin)
        if paths is None:
            return  # stale, or paused
        if not paths and self._asks(instance_id, destination, run, came_from):
            return
        files = {uid: folder / path for uid, path in paths.items()}
        if not retry_until_available(
            lambda: all(each.exists() for each in files.values())
        ):
            logger.warning("Gone from the disk, and made anew: %s", ", ".join(paths))
            retry_until_available(lambda: journal.replace_lost_results(instance_id))
            return
        began = time.monotonic()
        outcomes = dispatch.deliver(
            files,
            destination,
            came_from=came_from,
            calling_ae_title=self.settings.receiver.ae_title,
        )
        seconds = time.monotonic() - began
        settle = partial(journal.delivery_outcomes.record, instance_id, destination)
        state = retry_until_available(lambda: settle(run, outcomes, seconds))
        if state is not None:
            _log_delivery(destination.name, state, outcomes, seconds)
        peer = dispatch.peer_of(destination, came_from)
        retry_until_available(lambda: self.on_sent(instance_id, outcomes, peer))

    def _asks(
        self, instance_id: str, destination: Destination, run: int, came_from: str
    ) -> bool:
        """Ask for commitment to the stored results; return whether there were any."""
        commitments = self.journal.commitments
        begin = partial(commitments.begin, instance_id, destination, run)
        request = retry_until_available(begin)
        if request is None:
            return False
        outcome = dispatch.ask(
            request,
            destination,
            came_from=came_from,
            calling_ae_title=self.settings.receiver.ae_title,
            settle=commitments.record_report,
            on_refused=self.on_refused,
        )
        asked = partial(
            commitments.record_request_outcome, instance_id, destination, run, outcome
        )
        failed = retry_until_available(asked)
        is_taken = outcome.verdict is Verdict.STORED
        said = "taken" if is_taken else outcome.log_text
        words = f"{destination.name}: {_objects(len(request.references))}: {said}"
        step = log_name(DeliveryState.FAILED) if failed else "asked for commitment"
        level = logging.WARNING if failed else logging.INFO
        log_step(logger, step, words, level=level)
        return True


def _refuse_return(row: sa.Row[Any]) -> None:
    """Raise NotMeantError if a capture has the UID of one of the node's results.

    An analysis that a person requests is never rejected here.
    """
    if row.returned and row.run == 1 and is_capture(row.sop_class_uid):
        raise NotMeantError(
            "A result of this software came back: its SOP Instance UID (0008,0018) is "
            "that of a result. Exclude its series from the PACS's forwarding.",
            Unanalyzed.OWN_RESULT,
        )


def _log_delivery(
    destination: str,
    state: DeliveryState,
    outcomes: Mapping[str, Outcome],
    seconds: float,
) -> None:
    """Log a delivery attempt, with each reason once.

    Texts from the destination may name the patient, so they are not logged.
    """
    counts = Counter(each.log_text for each in outcomes.values())
    words = [f"{_objects(count)}: {why}" for why, count in counts.items()]
    verdicts = {each.verdict for each in outcomes.values()}
    failed = state is DeliveryState.FAILED
    if failed and verdicts <= {Verdict.STORED}:
        words.append("others failed in an earlier attempt")
    level = logging.WARNING if failed or Verdict.REFUSED in verdicts else logging.INFO
    told = f"{destination}: {'; '.join(words) or 'nothing was missing'}"
    log_step(logger, log_name(state), told, seconds=seconds, level=level)


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"


def _spoken(state: InstanceState) -> str:
    return state.replace("_", " ").capitalize()


def register(work: Work) -> None:
    """Register the workflows with DBOS. Call this before DBOS is launched."""

    # DBOS counts every death of the process, whatever caused it. One bad image would
    # then fail others, so the journal counts attempts instead.
    @DBOS.workflow(name=ANALYZE, max_recovery_attempts=None)
    def analyze(instance_id: str, run: int) -> None:
        work.analyze(instance_id, run)

    @DBOS.workflow(name=ANALYZE_SEPARATELY, max_recovery_attempts=None)
    def analyze_separately(instance_id: str, run: int) -> None:
        work.analyze_separately(instance_id, run)

    @DBOS.workflow(name=ANALYZE_SLOWLY, max_recovery_attempts=None)
    def analyze_slowly(instance_id: str, run: int) -> None:
        work.analyze_slowly(instance_id, run)

    @DBOS.workflow(name=DELIVER, max_recovery_attempts=None)
    def deliver(instance_id: str, destination: str, run: int) -> None:
        work.deliver(instance_id, destination, run)
