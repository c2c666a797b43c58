"""The durable workflow that makes the summary of an examination.

The workflow follows the rules of worker/workflows.py: it is idempotent, and it ends in
one transaction of the journal.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from dbos import DBOS

from dicom_node.analysis.pipeline import Pipeline
from dicom_node.decoder.client import ChildDiedError, ChildTimeoutError
from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.journal.examinations import REASSIGNED
from dicom_node.journal.instance_state import without_notice_failure
from dicom_node.journal.journal import Journal
from dicom_node.journal.summaries import (
    ImageOutcome,
    SummaryAnswer,
    SummaryInputs,
)
from dicom_node.journal.work_queue import SUMMARIZE
from dicom_node.log.context import instance_context, log_step
from dicom_node.pixels.decode import DecodeOptions
from dicom_node.results.encode import encode_examination
from dicom_node.results.encoding import ResultObject
from dicom_node.results.examination import (
    Examination,
    ExaminationImage,
    conclude,
)
from dicom_node.results.examination_picture import examination_picture
from dicom_node.results.examination_text import examination_headline
from dicom_node.results.overlay_data import OverlayData
from dicom_node.results.predecessor import Predecessor
from dicom_node.results.result_kinds import EXAMINATIONS
from dicom_node.results.series import examination_series_uid
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.spool import Spool, file_exists
from dicom_node.storage.tables import InstanceState
from dicom_node.worker.retry import retry_until_available
from dicom_node.worker.workflows import MOST_ATTEMPTS, MOST_CHILD_DEATHS, store_result
from inference.drawing.thumbnail import Thumbnail
from inference.finding import Finding, ModelIdentity, OperatingPoint, Thresholds

logger = logging.getLogger(__name__)

_NO_HEATMAP = np.zeros((1, 1), np.float32)
NO_FILE = Path(os.devnull)
"""The path of an image without a file. The decoder finds no header in it."""
_REMOVED = (
    "The files of this image were removed at the end of the retention period, and the "
    "model has other thresholds now. Send the image again."
)


@dataclass(frozen=True, slots=True, eq=False)
class Summarizer:
    """The workflow that makes summaries, and the objects that it uses.

    Attributes:
        journal: The journal that records all work.
        spool: The files of images and results.
        directory: The storage directory.
        pipeline: Makes a pipeline for one summary, with a decoder of its own. So a
            summary delays no analysis.
        on_delivery: Called after a summary, because a delivery may have been queued.
    """

    journal: Journal
    spool: Spool
    directory: Path
    pipeline: Callable[[], AbstractContextManager[Pipeline]]
    on_delivery: Callable[[], None] = lambda: None

    def summarize(self, examination_id: str, run: int) -> None:
        """Make the summary of an examination, and record it in the journal.

        If this run is stale, nothing happens. If the summary is due later, another run
        is queued. If the analysis of an image is unfinished, the end of that analysis
        queues another run. If nobody expects a summary, none is made. If the summary
        exists already, its delivery is queued again. If an error prevents the summary,
        the error is recorded as a failure, and not raised. If the recorded summary is
        up to date, other examinations that lost an image to this one get a new summary:
        see `Summaries.correct_others`. If the summary did not have to be up to date,
        two examinations that lost an image to each other would request each other
        without end. A run that is repeated after a kill also requests them.

        Args:
            examination_id: Id of the examination.
            run: Run of the summary.
        """
        inputs = self.journal.summaries.begin(examination_id, run)
        if inputs is not None:
            self._make(inputs)
        if self.journal.summaries.is_up_to_date(examination_id):
            self.journal.summaries.correct_others(examination_id)
        if inputs is not None:
            self.on_delivery()

    def _make(self, inputs: SummaryInputs) -> None:
        """Make and record a summary; record an error as a failure."""
        examination_id, run = inputs.record.id, inputs.record.run
        fail = partial(self.journal.summaries.fail, examination_id, run)
        with instance_context(inputs.record.sop_instance_uid, examination_id):
            try:
                self._summarize(inputs)
            except (AnalysisError, NotAnalyzedError) as error:
                log_step(logger, "failed", str(error), level=logging.WARNING)
                fail(str(error))
            except Exception:
                logger.exception("An error of this program")
                fail("An error of this program. The log of the worker has the details.")

    def _summarize(self, inputs: SummaryInputs) -> None:
        """Make and record a summary, or record why there is none.

        If the summary of these inputs exists, only its delivery is queued again.

        Raises:
            AnalysisError: No header can be read, a sequence of a header cannot be read,
                the decoder died MOST_CHILD_DEATHS times or took too long, or the worker
                died MOST_ATTEMPTS times.
        """
        record, began = inputs.record, time.monotonic()
        if record.attempts > MOST_ATTEMPTS:
            raise AnalysisError(
                f"The worker died {MOST_ATTEMPTS} times while it summarized this "
                "examination. Examine its images, and retry."
            )
        if not inputs.images:
            reason = "Nobody expects a result for the images of this examination."
            self.journal.summaries.end_without_summary(record.id, record.run, reason)
            return
        with ExitStack() as opened:
            pipeline = retry_until_available(
                lambda: opened.enter_context(self.pipeline())
            )
            if not _wanted(pipeline):
                reason = "No destination gets results about examinations."
                self.journal.summaries.end_without_summary(
                    record.id, record.run, reason
                )
                return
            examination = self._examination(pipeline, inputs)
            answer = _answer(examination, pipeline.classifier.identity)
            if self._is_made(inputs, pipeline):
                self.journal.summaries.send_again(inputs, answer)
                log_step(logger, "summarized", f"{answer.text} (no change)")
                return
            made = _encoded(pipeline, examination)
            objects = _predecessors(pipeline, examination, made)
        results = [store_result(self.spool, record.id, each) for each in made]
        if self.journal.summaries.record_summary(inputs, answer, results, objects):
            seconds = time.monotonic() - began
            log_step(logger, "summarized", answer.text, seconds=seconds)

    def _examination(self, pipeline: Pipeline, inputs: SummaryInputs) -> Examination:
        """Return the examination, with the heatmaps and thumbnails of listed images.

        Images that were slow, images with a failed analysis, and images with a later
        revision in another examination get no thumbnail. A study may have any
        number of images. So heatmaps, 0.2 MB each at 224 x 224, are kept only for the
        images that `conclude` lists.
        """
        card = pipeline.classifier.card
        thresholds = Thresholds(card.doubtful, card.definite)
        images = [self._image(each, thresholds) for each in inputs.images]
        # If a failed or slow image were decoded again, it would fail or be slow again.
        undrawn = {
            each.record.id
            for each in inputs.images
            if each.record.slow or _has_failed(each.record) or each.is_reassigned
        }
        examination = conclude(
            images, inputs.revision, inputs.predecessors, inputs.patient_key
        )
        records = {each.record.id: each.record for each in inputs.images}
        listed = [
            self._with_heatmap(each, records[each.instance.id])
            for each in examination.images
        ]
        drawn = [
            each
            if each.instance.id in undrawn
            else replace(each, thumbnail=_thumbnail(pipeline, each))
            for each in listed
        ]
        return replace(examination, images=tuple(drawn))

    def _with_heatmap(
        self, image: ExaminationImage, record: InstanceRecord
    ) -> ExaminationImage:
        """Return `image` with the stored heatmap of its finding.

        If no heatmap is stored, or if there is no finding, return `image` unchanged.
        """
        drawing = image.finding and self.journal.summaries.drawing(record)
        if not drawing:
            return image
        return replace(image, finding=_finding(record, drawing))

    def _image(self, outcome: ImageOutcome, thresholds: Thresholds) -> ExaminationImage:
        """Return the image of an outcome, without the heatmap of its finding.

        If the finding is no longer known (see `_undrawn`), the image has a reason
        instead.
        """
        record = outcome.record
        instance = self.journal.received_instance(record)
        if not retry_until_available(partial(file_exists, instance.path)):
            # The file was removed by retention.
            instance = replace(instance, path=NO_FILE)
        state_and_reason, finding, shape = None, None, None
        if outcome.is_reassigned:
            state_and_reason = "Not analyzed", REASSIGNED
        elif record.probability is None:
            state = "Failed" if _has_failed(record) else "Not analyzed"
            state_and_reason = state, without_notice_failure(record.reason)
        elif drawing := self.journal.summaries.drawing(record):
            shape = drawing.picture_shape
            finding = replace(_finding(record, drawing), saliency=_NO_HEATMAP)
        elif finding_without_drawing := _undrawn(record, thresholds):
            finding = finding_without_drawing
        else:
            answer = f"Its result was: {record.operating_point}."
            state_and_reason = "Not analyzed", f"{_REMOVED} {answer}"
        return ExaminationImage(
            instance,
            finding,
            state_and_reason,
            same_picture_as=outcome.same_picture_as,
            displayed_shape=shape,
        )

    def _is_made(self, inputs: SummaryInputs, pipeline: Pipeline) -> bool:
        """Return whether a summary of these inputs exists.

        It exists if its objects have exactly the wanted kinds, and if no file is
        missing.
        """
        files = [self.directory / each.path for each in inputs.made]
        has_all = {each.kind for each in inputs.made} == _wanted(pipeline)
        return bool(files and has_all) and retry_until_available(
            lambda: all(map(file_exists, files))
        )


def _has_failed(record: InstanceRecord) -> bool:
    """Return whether the analysis of an image failed.

    An image with a result has the state FAILED, too, if a delivery of it failed.
    """
    return record.state == InstanceState.FAILED and record.probability is None


def _wanted(pipeline: Pipeline) -> set[str]:
    """Return the `ResultKind.name` of each object that is made about an examination."""
    kinds = pipeline.result_options.kinds
    return {each.name for each in kinds if each.object_type in EXAMINATIONS}


def _encoded(pipeline: Pipeline, examination: Examination) -> Sequence[ResultObject]:
    """Return the objects of an examination; repeat the encoding if the decoder dies.

    Raises:
        AnalysisError: No header of an image can be read, a sequence of a header cannot
            be read, or the decoder died MOST_CHILD_DEATHS times or took too long.
    """
    model = pipeline.classifier.identity
    for deaths in range(1, MOST_CHILD_DEATHS + 1):
        try:
            return retry_until_available(
                lambda: pipeline.child.run(
                    encode_examination, examination, model, pipeline.result_options
                )
            )
        except ChildDiedError as death:
            if isinstance(death, ChildTimeoutError) or deaths == MOST_CHILD_DEATHS:
                raise
    raise AssertionError  # the loop returns or raises


def _predecessors(
    pipeline: Pipeline, examination: Examination, made: Sequence[ResultObject]
) -> list[Predecessor]:
    """Return references to the objects in `made`, which the next revision replaces."""
    model, options = pipeline.classifier.identity, pipeline.result_options
    return [
        Predecessor(
            each.sop_class_uid,
            each.sop_instance_uid,
            examination_series_uid(examination, model, options, each.kind),
            examination.revision,
            examination.counts.total,
        )
        for each in made
    ]


def _thumbnail(pipeline: Pipeline, image: ExaminationImage) -> Thumbnail | None:
    """Return the thumbnail of an image.

    Return None if another image with the same picture is counted instead, if the file
    was removed, if screening excludes the image, or if it cannot be decoded.
    """
    if image.same_picture_as or image.instance.path == NO_FILE:
        return None
    options = DecodeOptions(pipeline.limits.window, pipeline.limits.max_megapixels)
    arguments = image.instance.path, options, image.finding
    try:
        return retry_until_available(
            lambda: pipeline.child.run(examination_picture, *arguments)
        )
    except (AnalysisError, NotAnalyzedError):
        return None


def _finding(record: InstanceRecord, drawing: OverlayData) -> Finding:
    """Return the finding of an image from its row and its stored drawing."""
    return Finding(
        probability=record.probability or 0.0,
        thresholds=Thresholds(drawing.doubtful, drawing.definite),
        saliency=drawing.levels.astype(np.float32) / np.float32(255),
        locations=drawing.locations,
        model=_model(record),
    )


def _undrawn(record: InstanceRecord, thresholds: Thresholds) -> Finding | None:
    """Return the finding of an image that has no stored drawing.

    The finding has no heatmap and no arrow. The thresholds of the analysis were removed
    together with the drawing. If `thresholds` give another answer than the analysis,
    return None.

    Args:
        record: The image.
        thresholds: The thresholds of the current model card.
    """
    probability = record.probability or 0.0
    if thresholds.operating_point(probability) != record.operating_point:
        return None
    return Finding(probability, thresholds, _NO_HEATMAP, (), _model(record))


def _model(record: InstanceRecord) -> ModelIdentity:
    return ModelIdentity(
        record.model_name or "", record.model_version or "", record.model_digest or ""
    )


def _answer(examination: Examination, model: ModelIdentity) -> SummaryAnswer:
    """Return the answer of an examination.

    If no fracture is reported and an image has no answer, the examination has no
    answer. So its objects are also sent to destinations that want no negative results.
    """
    text = examination_headline(examination.counts)
    findings = [
        each.finding
        for each in examination.images
        if each.finding and not each.same_picture_as
    ]
    if not findings or examination.reported_answer is None:
        return SummaryAnswer(None, None, model, text)
    worst = max(findings, key=_seriousness)
    return SummaryAnswer(worst.probability, worst.operating_point, worst.model, text)


def _seriousness(finding: Finding) -> tuple[int, float]:
    return list(OperatingPoint).index(finding.operating_point), finding.probability


def register_summaries(summarizer: Summarizer) -> None:
    """Register the workflow with DBOS; call this before DBOS is launched."""

    @DBOS.workflow(name=SUMMARIZE, max_recovery_attempts=None)
    def summarize(examination_id: str, run: int) -> None:
        summarizer.summarize(examination_id, run)
