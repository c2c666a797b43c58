"""The whole analysis, from an instance received to the objects sent back.

ReceivedInstance ─decode─▶ Radiograph ─classify─▶ Finding ─encode─▶ ResultObjects

Decoding and encoding read what a sender wrote, so they run in the decoding child; the
model never leaves this process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from config.settings import Settings, WorkerSettings
from dicom_node.decode import DecodedInstance, DecodeOptions, decode_file
from dicom_node.decoding_child import DecodingChild
from dicom_node.drawing import Drawing, drawing_of
from dicom_node.errors import NotAnalyzedError
from dicom_node.instance import ReceivedInstance
from dicom_node.quick_child import slow_child
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import (
    ResultObject,
    ResultOptions,
    encode_file,
    encode_notice,
)
from dicom_node.results.forms import NOTICE, Form, forms
from dicom_node.screening import ScreeningRules
from dicom_node.steps import Stopwatch
from inference.classifier import Classifier
from inference.familiarity import UnfamiliarError
from inference.finding import Finding
from inference.radiograph import Radiograph

Check = Callable[[DecodedInstance], None]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """One instance, what was found on it, and how that is written down.

    Attributes:
        decoded: What the model saw.
        finding: What it said.
        results: The objects that say so.
        seconds: What each stage took, by its name.
        drawing: The finding as the review page draws it.
    """

    decoded: DecodedInstance
    finding: Finding
    results: tuple[ResultObject, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    drawing: Drawing | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """What an analysis needs, made once for many.

    Attributes:
        classifier: The model.
        child: Where bytes from outside are parsed.
        decode_options: Which window, how many pixels.
        result_options: Which objects, how large.
        max_study_age_days: Older studies are not analyzed; 0 is no limit.
    """

    classifier: Classifier
    child: DecodingChild
    decode_options: DecodeOptions
    result_options: ResultOptions
    max_study_age_days: int

    def analyze(self, instance: ReceivedInstance, check: Check) -> Analysis:
        """Analyze one radiograph.

        Args:
            instance: As it lies in the spool.
            check: Called with what was decoded; may raise NotAnalyzedError.

        Raises:
            NotAnalyzedError: The model may not answer for this instance.
            AnalysisError: It should, but the instance is broken.
        """
        rules = ScreeningRules(
            max_study_age_days=self.max_study_age_days,
            body_parts=self.classifier.card.body_parts,
            today=instance.received_at.date(),
        )
        options, watch = self.decode_options, Stopwatch()
        with watch.stage("decode"):
            decoded = self.child.run(decode_file, instance.path, rules, options)
        check(decoded)
        with watch.stage("classify"):
            finding = self._classify(decoded.radiograph)
        with watch.stage("encode"):
            results = self.child.run(
                encode_file, instance, decoded.radiograph, finding, self.result_options
            )
        rows, columns = decoded.radiograph.pixels.shape
        drawing = drawing_of(finding, (rows, columns))
        return Analysis(decoded, finding, results, watch.seconds, drawing)

    def _classify(self, radiograph: Radiograph) -> Finding:
        try:
            return self.classifier.classify(radiograph)
        except UnfamiliarError as reason:
            raise NotAnalyzedError(str(reason), Unanalyzed.UNFAMILIAR) from None

    def notices(
        self, instance: ReceivedInstance, why: tuple[str, str]
    ) -> tuple[ResultObject, ...]:
        """Write down that an instance has no answer, for destinations that want that.

        Args:
            instance: As it lies in the spool.
            why: "Not analyzed" or "Failed", and the reason in words.

        Raises:
            AnalysisError: Its header cannot be read, or names no study.
        """
        model, options = self.classifier.identity, self.result_options
        if all(form.kind != NOTICE for form in options.forms):
            return ()
        return self.child.run(encode_notice, instance, why, model, options)


def make_pipeline(
    settings: Settings,
    *,
    ignore_age: bool = False,
    child: type[DecodingChild] = DecodingChild,
) -> Pipeline:
    """Load the model and start the child that the settings ask for.

    Args:
        settings: All of them.
        ignore_age: Analyze studies of any age, as somebody who names files wants.
        child: The class of the child.
    """
    worker = settings.worker
    wanted = frozenset[Form]().union(*map(forms, settings.destinations))
    return Pipeline(
        classifier=Classifier.load(settings.model.weights, settings.model.device),
        child=child(
            timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
        ),
        decode_options=DecodeOptions(
            window=worker.window, max_megapixels=worker.max_megapixels
        ),
        result_options=ResultOptions(
            forms=tuple(sorted(wanted)) or (Form("secondary_capture"),),
            long_side=settings.results.long_side,
            series_number=settings.results.series_number,
            window=worker.window,
        ),
        max_study_age_days=0 if ignore_age else settings.receiver.max_study_age_days,
    )


@contextmanager
def slow_pipeline(pipeline: Pipeline, worker: WorkerSettings) -> Iterator[Pipeline]:
    """Make a pipeline for one slow image, with a decoding child of its own.

    Args:
        pipeline: That of the normal lane, for all but the child.
        worker: The limits of the child.

    Raises:
        OSError: The child does not start.
    """
    with slow_child(worker.decode_timeout_s, worker.decode_memory_mb) as child:
        yield replace(pipeline, child=child)
