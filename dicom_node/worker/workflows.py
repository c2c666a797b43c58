"""The durable workflows: they analyze an instance, and deliver its results.

DBOS runs each workflow at least once, and again after a crash. So each workflow is
idempotent and ends in one transaction of the journal. This transaction also queues the
work that follows. The workflows have no DBOS steps. So DBOS writes less, and an upgrade
cannot fail because of steps that the previous release recorded.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from dbos import DBOS
from pydicom.uid import DigitalXRayImageStorageForProcessing

from config.destinations import Destination
from config.settings import Settings
from dicom_node.analysis.pipeline import Pipeline
from dicom_node.analysis.slow_images import SeparateLaneError
from dicom_node.audit.transfers import OnSent, ignore
from dicom_node.decoder.client import ChildDiedError, ChildTimeoutError
from dicom_node.delivery import dispatch
from dicom_node.delivery.clients import client_for
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
    ANALYZE_LAST,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    DELIVER,
)
from dicom_node.log.context import instance_context, log_step
from dicom_node.network.storage_commitment import OnRefused, ignore_refusal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.pixels.decode import DecodedInstance
from dicom_node.pixels.screening import is_capture
from dicom_node.reasons import Failure, Unanalyzed
from dicom_node.results.encoding import ResultObject
from dicom_node.results.overlay_data import overlay_of
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.spool import Spool, file_exists
from dicom_node.storage.tables import DeliveryState, InstanceState
from dicom_node.worker.retry import retry_until_available
from inference.drawing.caption import headline

logger = logging.getLogger(__name__)

MOST_CHILD_DEATHS = 3
# If the whole worker dies this often during the analysis of an instance, the instance
# fails, too. This limit is higher than MOST_CHILD_DEATHS, because the instance is
# seldom the cause.
MOST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The workflows and the objects that they use.

    Attributes:
        settings: The settings of the node.
        journal: The journal that records all work.
        spool: The files of instances and results.
        pipeline: The pipeline of the normal lane.
        on_delivery: Called after an analysis, because a delivery may have been queued.
        on_sent: Called after each attempt to send results. It may raise
            DatabaseError, but only before it has recorded anything, because the call
            may be repeated.
        on_refused: Called when the node refuses a Storage Commitment report that came
            on the association of the request.
        concurrency_limits: Limits the number of concurrent deliveries.
        on_moved: Called when an instance was moved to another lane, or to the end of
            the separate lane, because the next instance can begin.
        separate_pipelines: Returns the pipelines of the separate lane: the one for
            images of addresses that sent no slow image, and the one for images that
            come last. If None, the separate lane uses the pipeline of the normal lane.
        slow_pipeline: Makes a pipeline for one instance of the slow lane, with a
            decoder of its own. If None, the slow lane uses the pipeline of the normal
            lane.
    """

    settings: Settings
    journal: Journal
    spool: Spool
    pipeline: Pipeline
    on_delivery: Callable[[], None] = lambda: None
    on_sent: OnSent = ignore
    on_refused: OnRefused = ignore_refusal
    concurrency_limits: ConcurrencyLimits = field(default_factory=ConcurrencyLimits)
    on_moved: Callable[[], None] = lambda: None
    separate_pipelines: Callable[[], tuple[Pipeline, Pipeline]] | None = None
    slow_pipeline: Callable[[], AbstractContextManager[Pipeline]] | None = None

    def analyze(self, instance_id: str, run: int) -> None:
        """Analyze one instance, and record the result or conclusion in the journal.

        If the instance may be slow, it is moved to the separate lane instead. If the
        decoder dies or takes too long, the instance is moved to the slow lane instead.
        If this run is stale, nothing is changed.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
        """
        record = self.journal.analyses.begin(instance_id, run)
        if record is None:
            return  # stale
        with instance_context(record.sop_instance_uid, record.id):
            try:
                self._analyze(record, time.monotonic())
            except SeparateLaneError as suspicion:
                separately = partial(
                    self.journal.analyses.continue_separately,
                    comes_last=suspicion.comes_last,
                )
                _move(record, str(suspicion), separately, "separate")
                self.on_moved()
            except ChildDiedError as death:
                move = self.journal.analyses.continue_slowly
                _move(record, str(death), move, "slow")
                self.on_moved()
        self.on_delivery()

    def analyze_separately(
        self, instance_id: str, run: int, *, comes_last: bool = False
    ) -> None:
        """Analyze one instance as `analyze` does, with a pipeline of the separate lane.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
            comes_last: Whether images of addresses that sent no slow image are analyzed
                before this one. It then has a pipeline of its own.
        """
        separate = self
        if self.separate_pipelines:
            first, last = retry_until_available(self.separate_pipelines)
            separate = replace(self, pipeline=last if comes_last else first)
        separate.analyze(instance_id, run)

    def analyze_slowly(self, instance_id: str, run: int) -> None:
        """Analyze one instance in the slow lane, and record the result or conclusion.

        Each call to the decoder may take `decode_timeout_s`. The instance is not moved
        to another lane. The instances in this lane wait for each other, but delay no
        other lane. If this run is stale, nothing is changed.

        Args:
            instance_id: Id of the instance.
            run: Run of the analysis.
        """
        record = self.journal.analyses.begin(instance_id, run, slow=True)
        if record is None:
            return  # stale
        with (
            instance_context(record.sop_instance_uid, record.id),
            ExitStack() as opened,
        ):
            slow = self
            if make := self.slow_pipeline:
                pipeline = retry_until_available(lambda: opened.enter_context(make()))
                slow = replace(self, pipeline=pipeline)
            slow._analyze_slowly(record)  # noqa: SLF001 - this class
        self.on_delivery()

    def _analyze_slowly(self, record: InstanceRecord) -> None:
        """Analyze an instance, and record the result, or why there is none.

        If the decoder dies, the analysis is repeated. The analysis fails after
        MOST_CHILD_DEATHS deaths of the decoder, or after one timeout.
        """
        began = time.monotonic()
        while True:
            try:
                self._analyze(record, began)
            except ChildDiedError as death:
                died = self.journal.analyses.child_died
                deaths = died(record.id, record.run, str(death))
                is_final = isinstance(death, ChildTimeoutError)
                if not is_final and 0 < deaths < MOST_CHILD_DEATHS:
                    continue
                self._conclude(record, death, began)
            return

    def _analyze(self, record: InstanceRecord, began: float) -> None:
        """Analyze an instance, and record the result, or why there is none.

        Args:
            record: The instance.
            began: Start of the first attempt, in seconds of time.monotonic().

        Raises:
            SeparateLaneError: The image belongs in the separate lane.
            ChildDiedError: The decoder died or took too long.
        """
        try:
            self._analyze_and_store(record)
        except (SeparateLaneError, ChildDiedError):
            raise
        except (NotAnalyzedError, AnalysisError) as error:
            self._conclude(record, error, began)
        except Exception:
            logger.exception("An error of this program: %s", record.sop_instance_uid)
            reason = "An error of this program. The log of the worker has the details."
            self._conclude(record, AnalysisError(reason, Failure.PROGRAM), began)

    def _analyze_and_store(self, record: InstanceRecord) -> None:
        """Run the pipeline, store the result objects, and record the result.

        Raises:
            AnalysisError: The instance is broken, its file is missing, or the decoder
                died. The error is also raised if the worker died MOST_ATTEMPTS times
                during the analysis of this instance.
            NotAnalyzedError: The model must not be applied to this instance, or
                another revision with the same picture and identity has a result.
            SeparateLaneError: The image belongs in the separate lane.
        """
        began = time.monotonic()
        _check_returned_result(record)
        self._check_for_presentation_image(record)
        _check_attempts(record)
        instance = self.journal.received_instance(record)
        _check_file(instance)
        encode = partial(
            self.pipeline.encode, instance, is_correction=_is_correction(record)
        )
        check = partial(self._check_decoded, record)
        analysis = retry_until_available(
            lambda: self.pipeline.analyze(instance, encode, check)
        )
        decoded, finding = analysis.decoded, analysis.finding
        rows, columns = decoded.radiograph.pixels.shape
        analyzed = AnalysisResult(
            finding,
            decoded.picture_digest,
            decoded.identity_digest,
            [store_result(self.spool, instance.id, each) for each in analysis.output],
            analysis.seconds,
            overlay_of(finding, (rows, columns)),
        )
        if not self.journal.analyses.record_result(record.id, record.run, analyzed):
            return  # stale
        stages = ", ".join(f"{name} {s:.3f} s" for name, s in analyzed.seconds.items())
        message = f"{headline(finding)} ({stages})"
        log_step(logger, "analyzed", message, seconds=time.monotonic() - began)

    def _check_decoded(self, record: InstanceRecord, decoded: DecodedInstance) -> None:
        """Record the assumptions, and check that the instance needs its own result.

        Raises:
            SamePictureError: Another revision with the same picture and identity has a
                result, which is valid for this instance, too.
        """
        analyses, assumptions = self.journal.analyses, decoded.radiograph.assumptions
        analyses.note_assumptions(record.id, record.run, assumptions)
        digests = decoded.picture_digest, decoded.identity_digest
        analyses.refuse_analyzed(record, *digests)

    def _conclude(
        self,
        record: InstanceRecord,
        error: NotAnalyzedError | AnalysisError,
        began: float,
    ) -> None:
        """Record why an instance has no result.

        Notices are made first, unless nobody expects a result, or the results of
        another revision are valid for this instance.

        Raises:
            ChildDiedError: The decoder of the normal or separate lane died or took too
                long while it made the notices.
        """
        failed = isinstance(error, AnalysisError)
        state = InstanceState.FAILED if failed else InstanceState.NOT_ANALYZED
        conclusion = Conclusion(state, str(error), counted_as=error.reason)
        if isinstance(error, SamePictureError):
            conclusion = replace(conclusion, same_picture_as=error.known)
        elif isinstance(error, NotMeantError):
            conclusion = replace(conclusion, is_expected=False)
        else:
            conclusion = replace(conclusion, notices=self._notices(record, conclusion))
        level = logging.WARNING if failed else logging.INFO
        seconds, step = time.monotonic() - began, _state_label(state).lower()
        log_step(logger, step, conclusion.reason, seconds=seconds, level=level)
        self.journal.analyses.conclude(record.id, record.run, conclusion)

    def _notices(
        self, record: InstanceRecord, conclusion: Conclusion
    ) -> list[StoredResult]:
        """Make and store the objects that report that an instance has no result.

        They are notices for the destinations that get no negative results, and HL7
        messages. Without them, a missing result would look negative.

        Returns:
            The objects; empty if no destination gets them, or if none can be made.

        Raises:
            ChildDiedError: The decoder of the normal or separate lane died or took too
                long.
        """
        instance = self.journal.received_instance(record)
        state_and_reason = _state_label(conclusion.state), conclusion.reason
        make = partial(
            self.pipeline.notices,
            instance,
            state_and_reason,
            is_correction=_is_correction(record),
        )
        try:
            made = retry_until_available(make)
        except AnalysisError as error:
            if isinstance(error, ChildDiedError) and record.slow is None:
                raise  # the slow lane allows more time
            logger.warning(
                "No notice was made of %s: %s", record.sop_instance_uid, error
            )
            return []
        return [store_result(self.spool, instance.id, each) for each in made]

    def _check_for_presentation_image(self, record: InstanceRecord) -> None:
        """Check that a For Processing image has no analyzed For Presentation image.

        In a repeated analysis, such as one that a user requests, the image is not
        rejected.

        Raises:
            NotMeantError: The For Presentation image of this image was analyzed.
        """
        if (
            record.sop_class_uid != DigitalXRayImageStorageForProcessing
            or record.run > 1
        ):
            return
        if other := self.journal.analyses.find_for_presentation_image(record):
            raise NotMeantError(
                "This is a For Processing image. Its For Presentation image, "
                f"{other}, was analyzed instead.",
                Unanalyzed.FOR_PROCESSING,
            )

    def deliver(self, instance_id: str, destination: str, run: int) -> None:
        """Send an instance's results to one destination, or request commitment to them.

        A run sends the objects in the state `queued`. If there are none, it requests
        commitment to the objects in the state `committing`. If this run is stale, or
        the destination is paused, nothing is sent. If the file of an object is missing,
        a new analysis or summary is queued instead. If the settings do not contain the
        destination, the delivery is tried again for some minutes, maybe by a worker
        that has newer settings; then it fails.

        Args:
            instance_id: Id of the instance.
            destination: Name of the destination.
            run: Run of the delivery.
        """
        uid, sender_ae_title = self.journal.sender(instance_id)
        with instance_context(uid, instance_id):
            self._deliver(instance_id, destination, run, sender_ae_title)

    def _deliver(
        self, instance_id: str, destination: str, run: int, sender_ae_title: str
    ) -> None:
        destinations = {each.name: each for each in self.settings.destinations}
        if destination in destinations:
            found = destinations[destination]
            with self.concurrency_limits.for_peer(found, sender_ae_title):
                self._deliver_to(found, instance_id, run, sender_ae_title)
            return
        outcomes = self.journal.delivery_outcomes
        if outcomes.postpone_unknown(instance_id, destination, run):
            step, reason = log_name(DeliveryState.QUEUED), "not in the settings"
            log_step(logger, step, f"{destination} is {reason} of this worker")
            return
        reason = "not in the settings any more; add it and retry"
        outcomes.fail_permanently(instance_id, destination, run, reason)
        step, message = log_name(DeliveryState.FAILED), f"{destination} is {reason}"
        log_step(logger, step, message, level=logging.WARNING)

    def _deliver_to(
        self, destination: Destination, instance_id: str, run: int, sender_ae_title: str
    ) -> None:
        journal, folder = self.journal, self.settings.storage.directory
        paths = journal.deliveries.begin(instance_id, destination.name, run)
        if paths is None:
            return  # stale, or paused
        if not paths and self._request_commitment(
            instance_id, destination, run, sender_ae_title
        ):
            return
        files = {uid: folder / path for uid, path in paths.items()}
        if not retry_until_available(lambda: all(map(file_exists, files.values()))):
            logger.warning(
                "Result files are missing from the disk and are made again: %s",
                ", ".join(paths),
            )
            journal.replace_lost_results(instance_id)
            return
        began = time.monotonic()
        outcomes = dispatch.deliver(
            files,
            destination,
            sender_ae_title=sender_ae_title,
            calling_ae_title=self.settings.receiver.ae_title,
        )
        seconds = time.monotonic() - began
        record = journal.delivery_outcomes.record
        state = record(instance_id, destination, run, outcomes, seconds)
        if state is not None:
            _log_delivery(destination.name, state, outcomes, seconds)
        client = client_for(destination, self.settings.receiver.ae_title)
        peer = client.peer(sender_ae_title)
        retry_until_available(lambda: self.on_sent(instance_id, outcomes, peer))

    def _request_commitment(
        self, instance_id: str, destination: Destination, run: int, sender_ae_title: str
    ) -> bool:
        """Request commitment to the results in the state `committing`.

        Returns:
            Whether a request was made. False, for example, if no result is in this
            state.
        """
        commitments = self.journal.commitments
        request = commitments.begin(instance_id, destination, run)
        if request is None:
            return False
        client = client_for(destination, self.settings.receiver.ae_title)
        outcome = client.request_commitment(
            request,
            sender_ae_title,
            record_report=commitments.record_report,
            on_refused=self.on_refused,
        )
        record = commitments.record_request_outcome
        failed = record(instance_id, destination, run, outcome)
        is_accepted = outcome.verdict is Verdict.STORED
        result = "accepted" if is_accepted else outcome.log_text
        count = _count_objects(len(request.references))
        message = f"{destination.name}: {count}: {result}"
        step = log_name(DeliveryState.FAILED) if failed else "requested commitment"
        level = logging.WARNING if failed else logging.INFO
        log_step(logger, step, message, level=level)
        return True


def store_result(spool: Spool, instance_id: str, made: ResultObject) -> StoredResult:
    """Store the file of a result object in the spool, and return the stored result.

    While the disk fails, the function waits and tries again.

    Args:
        spool: The spool.
        instance_id: Id of the instance or examination that the object is about.
        made: The object.
    """
    # The name contains the UID, because results of two models have different UIDs. So a
    # new result does not replace a file that is being delivered.
    name = f"{instance_id}-{made.kind}-{made.sop_instance_uid}"
    store = partial(spool.store_result, name, made.content, made.extension)
    return StoredResult(
        kind=made.kind,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        path=retry_until_available(store),
    )


def _move(
    record: InstanceRecord,
    reason: str,
    move: Callable[[str, int, str], None],
    lane: str,
) -> None:
    move(record.id, record.run, reason)
    log_step(logger, f"moved to the {lane} lane", reason)


def _check_returned_result(record: InstanceRecord) -> None:
    """Check that an instance does not have the UID of a result of the node.

    Only captures are checked (see `is_capture`). In a repeated analysis, such as one
    that a user requests, the instance is not rejected.

    Raises:
        NotMeantError: The instance has the SOP Instance UID of a result.
    """
    if record.returned and record.run == 1 and is_capture(record.sop_class_uid):
        raise NotMeantError(
            "A result of this software came back: its SOP Instance UID (0008,0018) is "
            "that of a result. Exclude the series from the forwarding of the PACS.",
            Unanalyzed.OWN_RESULT,
        )


def _is_correction(record: InstanceRecord) -> bool:
    """Return whether an earlier run or revision of an instance may have a result."""
    return record.run > 1 or record.revision > 1


def _check_attempts(record: InstanceRecord) -> None:
    if record.attempts > MOST_ATTEMPTS:
        raise AnalysisError(
            f"The worker died {MOST_ATTEMPTS} times while it analyzed this instance. "
            "Examine the image. `fracture-node retry --uid` starts a new analysis.",
            Failure.WORKER_DIED,
        )


def _check_file(instance: ReceivedInstance) -> None:
    if not retry_until_available(partial(file_exists, instance.path)):
        reason = "The file is missing from the disk. Send the instance again."
        raise AnalysisError(reason, Failure.BROKEN)


def _log_delivery(
    destination: str,
    state: DeliveryState,
    outcomes: Mapping[str, Outcome],
    seconds: float,
) -> None:
    """Log a delivery attempt, with the number of objects for each outcome.

    Texts from the destination may name the patient, so they are not logged.
    """
    counts = Counter(each.log_text for each in outcomes.values())
    parts = [f"{_count_objects(count)}: {text}" for text, count in counts.items()]
    verdicts = {each.verdict for each in outcomes.values()}
    failed = state is DeliveryState.FAILED
    if failed and verdicts <= {Verdict.STORED}:
        parts.append("others failed in an earlier attempt")
    level = logging.WARNING if failed or Verdict.REFUSED in verdicts else logging.INFO
    message = f"{destination}: {'; '.join(parts) or 'nothing was missing'}"
    log_step(logger, log_name(state), message, seconds=seconds, level=level)


def _count_objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"


def _state_label(state: InstanceState) -> str:
    return state.replace("_", " ").capitalize()


def register(work: Work) -> None:
    """Register the workflows with DBOS; call this before DBOS is launched."""

    # There is no limit on recovery attempts, because DBOS would count each death of the
    # process for all work in progress. So one bad image would make others fail. The
    # journal counts attempts instead.
    @DBOS.workflow(name=ANALYZE, max_recovery_attempts=None)
    def analyze(instance_id: str, run: int) -> None:
        work.analyze(instance_id, run)

    @DBOS.workflow(name=ANALYZE_SEPARATELY, max_recovery_attempts=None)
    def analyze_separately(instance_id: str, run: int) -> None:
        work.analyze_separately(instance_id, run)

    @DBOS.workflow(name=ANALYZE_LAST, max_recovery_attempts=None)
    def analyze_last(instance_id: str, run: int) -> None:
        work.analyze_separately(instance_id, run, comes_last=True)

    @DBOS.workflow(name=ANALYZE_SLOWLY, max_recovery_attempts=None)
    def analyze_slowly(instance_id: str, run: int) -> None:
        work.analyze_slowly(instance_id, run)

    @DBOS.workflow(name=DELIVER, max_recovery_attempts=None)
    def deliver(instance_id: str, destination: str, run: int) -> None:
        work.deliver(instance_id, destination, run)
