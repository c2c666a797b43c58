"""A worker that sleeps for a fixed time instead of analyzing an image.

Benchmarks use it to measure everything except the analysis.

    python -m tests.benchmarks.sleeping_worker SECONDS --config FILE --slot N

Its results are small Secondary Captures, which are stored, recorded and delivered as
usual.
"""

import sys
import time
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from config.settings import Settings
from dicom_node.analysis.pipeline import Analysis, Check, Report
from dicom_node.analysis.slow_images import SlowImages
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import ReceivedInstance
from dicom_node.pixels.decode import DecodedInstance
from dicom_node.results.encoding import ResultObject
from dicom_node.uids import derived_uid
from dicom_node.worker import __main__ as worker
from inference.finding import Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom

SIDE = 32
MODEL = ModelIdentity("sleeping", "1", "0" * 64)
SALIENCY = np.zeros((7, 7), np.float32)
FINDING = Finding(0.75, Thresholds(0.5, 0.7), SALIENCY, (), MODEL)


@dataclass(frozen=True, slots=True, eq=False)
class SleepingPipeline:
    """A pipeline that sleeps for `seconds` instead of analyzing.

    Each instance has the same finding, and one small Secondary Capture as its result.
    """

    seconds: float
    classifier: None = None

    def analyze(
        self,
        instance: ReceivedInstance,
        report: Report[tuple[ResultObject, ...]],
        check: Check,
    ) -> Analysis[tuple[ResultObject, ...]]:
        """Sleep, and return an analysis with FINDING. The file is not read."""
        drawn = draw_phantom(broken=True, rows=SIDE, columns=SIDE)
        digest = instance.content_digest
        decoded = DecodedInstance(drawn.radiograph(), digest, digest)
        check(decoded)
        time.sleep(self.seconds)
        return Analysis(decoded, FINDING, report(decoded.radiograph, FINDING))

    @staticmethod
    def encode(
        instance: ReceivedInstance, *_: object, **_options: object
    ) -> tuple[ResultObject, ...]:
        """Return a tuple with one small Secondary Capture."""
        return (_result(instance),)

    @staticmethod
    def notices(*_: object, **_options: object) -> tuple[ResultObject, ...]:
        """Return an empty tuple: every instance has a result."""
        return ()


def _result(instance: ReceivedInstance) -> ResultObject:
    dataset = dcmread(BytesIO(TEMPLATE))
    uid = derived_uid(instance.id)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    kind, sop_class_uid = "secondary_capture", SecondaryCaptureImageStorage
    return ResultObject(kind, sop_class_uid, uid, content.getvalue())


def _template() -> bytes:
    dataset = phantom_dataset(draw_phantom(broken=True, rows=SIDE, columns=SIDE))
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


TEMPLATE = _template()


def main() -> None:
    """Run a worker with the sleeping pipeline."""
    pipeline = SleepingPipeline(float(sys.argv.pop(1)))

    def make(_: Settings, _images: SlowImages) -> SleepingPipeline:
        return pipeline

    worker.normal_pipeline = make  # type: ignore[assignment]
    worker.main()


if __name__ == "__main__":
    main()
