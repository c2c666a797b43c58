"""The analysis of a radiograph, from its source to the report of the finding.

Source ─decode─▶ Radiograph ─classify─▶ Finding ─report─▶ result objects, or a picture

The worker, the command `analyze` and /predict use this sequence, with different sources
and reports. The worker also passes a function that checks the decoded instance.

Decoding and encoding read data from a sender, so they run in the decoder, a confined
child process. The model runs in the parent process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from config.settings import ModelSettings, Settings, WorkerSettings
from dicom_node.analysis.slow_images import Lane, SlowImages
from dicom_node.dataset.part10 import is_dicom
from dicom_node.decoder.client import DecoderProcess
from dicom_node.decoder.quick_client import SEPARATE_NICENESS, QuickDecoder, slow_child
from dicom_node.errors import NotAnalyzedError
from dicom_node.instance import ReceivedInstance
from dicom_node.log.context import Stopwatch
from dicom_node.pixels.decode import DecodedInstance, DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE, IntendedUse
from dicom_node.pixels.screening import ScreeningRules
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import (
    ResultObject,
    ResultOptions,
    encode_file,
    encode_notice,
)
from dicom_node.results.result_kinds import WITHOUT_RESULT, all_kinds
from inference.classification.classifier import Classifier, self_test
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.drawing.result_image import Annotated, render
from inference.finding import Finding
from inference.plain_image import read_plain_image
from inference.radiograph import Radiograph
from models.card import ModelCard

T = TypeVar("T")

Source = ReceivedInstance | Path | DecodedInstance
"""The input of an analysis: an instance, a file, or the result of `Pipeline.read`.

A file may be DICOM or a plain image. The node decides this by the content of the file,
not by its name.
"""

Check = Callable[[DecodedInstance], None]

Report = Callable[[Radiograph, Finding], T]
"""A function that converts a finding to the output of the analysis."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis(Generic[T]):
    """The input, the finding and the output of one analysis.

    Attributes:
        decoded: The decoded instance, which the model classified.
        finding: The output of the model.
        output: What the Report function returned for the finding.
        seconds: The duration of each stage in seconds, by its name: "decode",
            "classify", and "encode" for the report.
    """

    decoded: DecodedInstance
    finding: Finding
    output: T
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """The model, the decoder and the options, shared by many analyses.

    Attributes:
        classifier: The model.
        child: The decoder, which parses the bytes from senders.
        limits: The settings of the worker, with the limits of size and time, and the
            number of the window or VOI LUT to use.
        result_options: The kinds and the size of the result objects.
        max_study_age_days: Maximum age of a study in days; 0 means no limit. Images of
            older studies are not analyzed.
        intended_use: The patients and images that may be analyzed.
        lane: The context managers in which the decoder is called for an instance. The
            methods of this class also raise the exceptions of these context managers.
    """

    classifier: Classifier
    child: DecoderProcess
    limits: WorkerSettings
    result_options: ResultOptions
    max_study_age_days: int = 0
    intended_use: IntendedUse = ANY_USE
    lane: Lane = field(default_factory=Lane)

    def analyze(
        self, source: Source, report: Report[T], check: Check = lambda _: None
    ) -> Analysis[T]:
        """Decode and classify one radiograph, and return the analysis.

        Args:
            source: The radiograph.
            report: Converts the radiograph and the finding to the output. Examples are
                the method `draw`, and `encode` with its argument `instance` bound.
            check: Called with the decoded source before the model is applied. It may
                raise NotAnalyzedError.

        Raises:
            NotAnalyzedError: The model must not be applied to this radiograph.
            AnalysisError, PlainImageError, OSError: `read` or `report` raised this
                error.
        """
        watch = Stopwatch()
        with watch.stage("decode"):
            decoded = self.read(source)
        check(decoded)
        with watch.stage("classify"):
            finding = self._classify(decoded.radiograph)
        with watch.stage("encode"):
            output = report(decoded.radiograph, finding)
        return Analysis(decoded, finding, output, watch.seconds)

    def read(self, source: Source) -> DecodedInstance:
        """Screen and decode a radiograph. A plain image is not screened.

        Returns:
            The radiograph and its digests, which are empty for a plain image. If the
            source is a DecodedInstance, it is returned unchanged.

        Raises:
            NotAnalyzedError: The model must not be applied to this radiograph.
            AnalysisError: The source is broken, or the decoder died.
            PlainImageError: The file is neither DICOM nor a plain image that can be
                read.
            OSError: A decoder does not start, or the file cannot be opened.
        """
        match source:
            case ReceivedInstance():
                with self.lane.decode(source):
                    return self._decode(source.path, source.received_at.date())
            case Path() if is_dicom(source):
                return self._decode(source, datetime.now(UTC).date())
            case Path():
                most = self.limits.max_megapixels
                read = partial(read_plain_image, max_megapixels=most)
                radiograph = self.child.run(read, source.read_bytes())
                return DecodedInstance(radiograph, "", "")
            case DecodedInstance():
                return source

    def _decode(self, path: Path, received_on: date) -> DecodedInstance:
        rules = ScreeningRules(self.max_study_age_days, self.intended_use, received_on)
        options = DecodeOptions(self.limits.window, self.limits.max_megapixels)
        return self.child.run(decode_file, path, rules, options)

    def _classify(self, radiograph: Radiograph) -> Finding:
        try:
            return self.classifier.classify(radiograph)
        except OutOfDistributionError as reason:
            raise NotAnalyzedError(str(reason), Unanalyzed.UNFAMILIAR) from None

    def draw(self, radiograph: Radiograph, finding: Finding) -> Annotated:
        """Return a picture of the radiograph and the finding, for people."""
        return render(radiograph, finding, long_side=self.result_options.long_side)

    def encode(
        self,
        instance: ReceivedInstance,
        radiograph: Radiograph,
        finding: Finding,
        *,
        is_correction: bool = False,
    ) -> tuple[ResultObject, ...]:
        """Return the objects that report a finding, as `encode_file` does.

        Args:
            instance: The instance in the spool.
            radiograph: The pixels of the instance as displayed.
            finding: The finding for the radiograph.
            is_correction: Whether an earlier analysis or revision may have a result.

        Raises:
            AnalysisError: `encode_file` raised this error, or the decoder died.
            OSError: A decoder does not start, or the file cannot be opened.
        """
        options = replace(self.result_options, is_correction=is_correction)
        with self.lane.encode(instance):
            return self.child.run(encode_file, instance, radiograph, finding, options)

    def notices(
        self,
        instance: ReceivedInstance,
        state_and_reason: tuple[str, str],
        *,
        is_correction: bool = False,
    ) -> tuple[ResultObject, ...]:
        """Return the objects that state why an instance has no result.

        The tuple is empty if no destination gets notices or HL7 messages about images.

        Args:
            instance: The instance in the spool.
            state_and_reason: "Not analyzed" or "Failed", and the reason as a text.
            is_correction: Whether an earlier analysis or revision may have a result.

        Raises:
            AnalysisError: The header of the instance cannot be read or names no study,
                or the decoder died.
            OSError: A decoder does not start, or the file cannot be opened.
        """
        model = self.classifier.identity
        options = replace(self.result_options, is_correction=is_correction)
        if all(kind.object_type not in WITHOUT_RESULT for kind in options.kinds):
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
    """Load and test the model, start a decoder, and return a pipeline with them.

    Args:
        settings: The settings of the node.
        ignore_age: Whether to analyze studies of any age.
        child: The class that runs the decoder.

    Raises:
        ModelError: The model cannot be used.
        OSError: The decoder does not start.
    """
    worker = settings.worker
    classifier = Classifier.load(settings.model.weights, settings.model.device)
    self_test(classifier)
    return Pipeline(
        classifier=classifier,
        child=child(
            timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
        ),
        limits=worker,
        result_options=ResultOptions(
            kinds=all_kinds(settings.destinations),
            long_side=settings.results.long_side,
            series_number=settings.results.series_number,
            window=worker.window,
        ),
        max_study_age_days=0 if ignore_age else settings.receiver.max_study_age_days,
        intended_use=intended_use(classifier.card, settings.model),
    )


def intended_use(card: ModelCard, settings: ModelSettings) -> IntendedUse:
    """Return the intended use on the model card, narrowed by the settings."""
    return IntendedUse(
        body_parts=card.body_parts,
        views=(card.views, settings.views),
        min_age_years=max(card.min_age_years, settings.min_age_years),
    )


def normal_pipeline(settings: Settings, images: SlowImages) -> Pipeline:
    """Load the model, start a decoder, and return the pipeline of the normal lane.

    The methods `analyze` and `read` of this pipeline raise SeparateLaneError if an
    instance belongs in the separate lane.

    Args:
        settings: The settings of the node.
        images: The record of slow images that all lanes share.

    Raises:
        ModelError: The model cannot be used.
        OSError: The decoder does not start.
    """
    pipeline = make_pipeline(settings, child=QuickDecoder)
    child = pipeline.child
    assert isinstance(child, QuickDecoder)  # noqa: S101 - its class was given
    return replace(pipeline, lane=images.normal_lane(child))


@contextmanager
def slow_pipeline(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Yield a pipeline for one slow image, with its own decoder.

    After the block, the decoder is ended.

    Args:
        pipeline: A pipeline. The new pipeline uses its model, its options, its limits
            and its fork server.

    Raises:
        OSError: The decoder does not start.
    """
    limits = pipeline.limits.decode_timeout_s, pipeline.limits.decode_memory_mb
    with slow_child(*limits, pipeline.child.server) as child:
        yield replace(pipeline, child=child, lane=Lane())


def separate_pipelines(
    pipeline: Pipeline, images: SlowImages
) -> tuple[Pipeline, Pipeline]:
    """Start the decoder of the separate lane, and return the two pipelines of the lane.

    The first pipeline is for images of addresses that sent no slow image recently. The
    second pipeline is for images of addresses that did. The time limits of the decoder
    follow the usual times of the normal lane, but without an allowance.

    Args:
        pipeline: The pipeline of the normal lane. The new pipelines use its model, its
            options and its fork server.
        images: The record of slow images that both lanes share.

    Raises:
        OSError: The decoder does not start.
    """
    normal = pipeline.child
    assert isinstance(normal, QuickDecoder)  # noqa: S101 - see normal_pipeline
    child = QuickDecoder(
        timeout_s=pipeline.limits.decode_timeout_s,
        memory_mb=pipeline.limits.decode_memory_mb,
        niceness=SEPARATE_NICENESS,
        server=normal.server,
    )
    child.use_times_of(normal)
    first, last = images.separate_lane(child)
    return replace(pipeline, child=child, lane=first), replace(
        pipeline, child=child, lane=last
    )
