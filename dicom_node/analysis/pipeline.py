"""Runs the whole analysis, from a received instance to the result objects.

ReceivedInstance ─decode─▶ Radiograph ─classify─▶ Finding ─encode─▶ ResultObjects

Decoding and encoding read data from a sender, so they run in the decoder, a confined
child process. The model runs in this process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from config.settings import Settings, WorkerSettings
from dicom_node.analysis.slow_images import Lane, SlowImages
from dicom_node.decoder.client import DecoderProcess
from dicom_node.decoder.quick_client import SEPARATE_NICENESS, QuickDecoder, slow_child
from dicom_node.errors import NotAnalyzedError
from dicom_node.instance import ReceivedInstance
from dicom_node.log.context import Stopwatch
from dicom_node.pixels.decode import DecodedInstance, DecodeOptions, decode_file
from dicom_node.pixels.screening import ScreeningRules
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import (
    ResultObject,
    ResultOptions,
    encode_file,
    encode_notice,
)
from dicom_node.results.overlay_data import OverlayData, overlay_of
from dicom_node.results.result_kinds import NOTICE, ResultKind, kinds_for
from inference.classification.classifier import Classifier
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.finding import Finding
from inference.radiograph import Radiograph

Check = Callable[[DecodedInstance], None]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """The input, the output and the result objects of one analysis.

    Attributes:
        decoded: The input of the model.
        finding: The output of the model.
        results: The objects that report the finding.
        seconds: The duration of each stage in seconds, by its name.
        drawing: The finding as the review page draws it.
    """

    decoded: DecodedInstance
    finding: Finding
    results: tuple[ResultObject, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    drawing: OverlayData | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """The model, the decoder and the options, shared by many analyses.

    Attributes:
        classifier: The model.
        child: The decoder, which parses the bytes from senders.
        decode_options: The window and the maximum number of pixels.
        result_options: The kinds and the size of the result objects.
        max_study_age_days: Older studies are not analyzed; 0 means no limit.
        lane: The context managers that surround the calls of the decoder. The methods
            of this class also raise the exceptions of these context managers.
    """

    classifier: Classifier
    child: DecoderProcess
    decode_options: DecodeOptions
    result_options: ResultOptions
    max_study_age_days: int
    lane: Lane = field(default_factory=Lane)

    def analyze(self, instance: ReceivedInstance, check: Check) -> Analysis:
        """Analyze one radiograph.

        Args:
            instance: The instance in the spool.
            check: Called with the decoded instance before the model is applied. May
                raise NotAnalyzedError.

        Raises:
            NotAnalyzedError: The model must not be applied to this instance.
            AnalysisError: The instance should be analyzed, but it is broken, or the
                decoder died.
            OSError: A decoder does not start, or the file cannot be opened.
        """
        rules = ScreeningRules(
            max_study_age_days=self.max_study_age_days,
            body_parts=self.classifier.card.body_parts,
            today=instance.received_at.date(),
        )
        options, watch = self.decode_options, Stopwatch()
        with watch.stage("decode"), self.lane.decode(instance):
            decoded = self.child.run(decode_file, instance.path, rules, options)
        check(decoded)
        with watch.stage("classify"):
            finding = self._classify(decoded.radiograph)
        with watch.stage("encode"), self.lane.encode(instance):
            results = self.child.run(
                encode_file, instance, decoded.radiograph, finding, self.result_options
            )
        rows, columns = decoded.radiograph.pixels.shape
        drawing = overlay_of(finding, (rows, columns))
        return Analysis(decoded, finding, results, watch.seconds, drawing)

    def _classify(self, radiograph: Radiograph) -> Finding:
        try:
            return self.classifier.classify(radiograph)
        except OutOfDistributionError as reason:
            raise NotAnalyzedError(str(reason), Unanalyzed.UNFAMILIAR) from None

    def notices(
        self, instance: ReceivedInstance, state_and_reason: tuple[str, str]
    ) -> tuple[ResultObject, ...]:
        """Make the notices of an instance: objects that state why it has no result.

        The result is empty if no destination gets notices.

        Args:
            instance: The instance in the spool.
            state_and_reason: "Not analyzed" or "Failed", and the reason as a text.

        Raises:
            AnalysisError: The header of the instance cannot be read or names no study,
                or the decoder died.
            OSError: A decoder does not start, or the file cannot be opened.
        """
        model, options = self.classifier.identity, self.result_options
        if all(kind.object_type != NOTICE for kind in options.kinds):
            return ()
        with self.lane.encode(instance):
            return self.child.run(
                encode_notice, instance, state_and_reason, model, options
            )


def make_pipeline(
    settings: Settings,
    *,
    ignore_age: bool = False,
    child: type[DecoderProcess] = DecoderProcess,
) -> Pipeline:
    """Load the model, start the decoder, and return them as a pipeline.

    Args:
        settings: The settings of the node.
        ignore_age: Analyze studies of any age. Commands for single files use this.
        child: The class that runs the decoder.
    """
    worker = settings.worker
    wanted = frozenset[ResultKind]().union(*map(kinds_for, settings.destinations))
    return Pipeline(
        classifier=Classifier.load(settings.model.weights, settings.model.device),
        child=child(
            timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
        ),
        decode_options=DecodeOptions(
            window=worker.window, max_megapixels=worker.max_megapixels
        ),
        result_options=ResultOptions(
            kinds=tuple(sorted(wanted)) or (ResultKind("secondary_capture"),),
            long_side=settings.results.long_side,
            series_number=settings.results.series_number,
            window=worker.window,
        ),
        max_study_age_days=0 if ignore_age else settings.receiver.max_study_age_days,
    )


def normal_pipeline(settings: Settings, images: SlowImages) -> Pipeline:
    """Load the model, start a decoder, and return the pipeline of the normal lane.

    `analyze` of this pipeline raises SeparateLaneError if an instance belongs in the
    separate lane.
    """
    pipeline = make_pipeline(settings, child=QuickDecoder)
    child = pipeline.child
    assert isinstance(child, QuickDecoder)  # noqa: S101 - its class was given
    return replace(pipeline, lane=images.normal_lane(child))


@contextmanager
def slow_pipeline(pipeline: Pipeline, worker: WorkerSettings) -> Iterator[Pipeline]:
    """Yield a pipeline for one slow image, with its own decoder.

    Args:
        pipeline: The pipeline of the normal lane. Its model, options and fork server
            are used.
        worker: The limits of the decoder.

    Raises:
        OSError: The decoder does not start.
    """
    limits = worker.decode_timeout_s, worker.decode_memory_mb
    with slow_child(*limits, pipeline.child.server) as child:
        yield replace(pipeline, child=child, lane=Lane())


def separate_pipelines(
    pipeline: Pipeline, images: SlowImages, worker: WorkerSettings
) -> tuple[Pipeline, Pipeline]:
    """Return the pipelines of the separate lane, which share their own decoder.

    The first is for images of addresses that sent no slow image. The second is for
    images that come last. Their decoder has the time limits of the normal lane.

    Args:
        pipeline: The pipeline of the normal lane. Its model, options and fork server
            are used.
        images: The record of slow images that both lanes share.
        worker: The limits of the decoder.

    Raises:
        OSError: The decoder does not start.
    """
    normal = pipeline.child
    assert isinstance(normal, QuickDecoder)  # noqa: S101 - see normal_pipeline
    child = QuickDecoder(
        timeout_s=worker.decode_timeout_s,
        memory_mb=worker.decode_memory_mb,
        niceness=SEPARATE_NICENESS,
        server=normal.server,
        allowance=normal.allowance,
    )
    first, last = images.separate_lane(child)
    return replace(pipeline, child=child, lane=first), replace(
        pipeline, child=child, lane=last
    )
