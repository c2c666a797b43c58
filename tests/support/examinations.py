"""Images of an examination, written to files as the node stores them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from pydicom import Dataset

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.results.encoding import ResultOptions
from dicom_node.results.examination import ExaminationImage
from dicom_node.results.result_kinds import ResultKind
from inference.drawing.thumbnail import draw_thumbnail
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom
from tests.support.locations import locations

PHANTOM = draw_phantom(broken=True, rows=200, columns=150)
RADIOGRAPH = PHANTOM.radiograph()
MODEL = ModelIdentity("phantom-resnet18", "0.1.0", "ab" * 32)
EARLIER_MODEL = ModelIdentity("phantom-resnet18", "0.0.9", "cd" * 32)
"""The model of a node before an upgrade."""
SALIENCY = np.zeros((14, 14), np.float32)
SALIENCY[6:9, 5:9] = 1
STUDY = "1.2.3.4"
RECEIVED_AT = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
OPTIONS = ResultOptions(
    (ResultKind("exam_summary"), ResultKind("exam_report")),
    long_side=1024,
    series_number=9001,
    window=1,
)

NOT_ANALYZED = ("Not analyzed", 'Body Part Examined (0018,0015) is "CHEST".')
FAILED = ("Failed", "Pixel Data (7FE0,0010) ends early.")


def finding(probability: float) -> Finding:
    """Return a finding, with an arrow if a fracture is reported.

    The operating point is `none` for a probability below 0.2, `doubtful` from 0.2 on,
    and `definite` from 0.5 on.
    """
    thresholds = Thresholds(0.2, 0.5)
    point = thresholds.operating_point(probability)
    arrow = Arrow((75.0, 105.0), (30.0, 40.0)) if probability >= 0.2 else None
    found = locations(arrow, score=probability, point=point)
    return Finding(probability, thresholds, SALIENCY, found, MODEL)


DEFINITE, DOUBTFUL, NEGATIVE = map(finding, (0.943, 0.3, 0.02))


@dataclass(frozen=True, slots=True)
class Studies:
    """A folder, and methods that write images of one study to it."""

    folder: Path

    def image(
        self,
        number: int,
        outcome: Finding | tuple[str, str],
        *,
        series: int = 1,
        same_picture_as: str | None = None,
        **attributes: object,
    ) -> ExaminationImage:
        """Write an image to a file, and return it with its outcome.

        Args:
            number: The Instance Number.
            outcome: The finding, or (state, reason) of an image without a finding.
            series: The Series Number.
            same_picture_as: Id of another image with the same picture; None if there
                is none.
            attributes: Attributes of the dataset by keyword. The value None removes an
                attribute.
        """
        dataset = phantom_dataset(PHANTOM)
        dataset.StudyInstanceUID = STUDY
        dataset.SeriesInstanceUID = f"{STUDY}.{series}"
        dataset.SOPInstanceUID = f"{STUDY}.{series}.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesNumber, dataset.InstanceNumber = series, number
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
            if value is None:
                delattr(dataset, keyword)
        # The order of the ids is not the order of the images.
        instance = self._written(
            dataset, f"{99 - series:016x}{99 - number:016x}", number
        )
        analyzed = isinstance(outcome, Finding)
        return ExaminationImage(
            instance,
            outcome if isinstance(outcome, Finding) else None,
            None if isinstance(outcome, Finding) else outcome,
            draw_thumbnail(RADIOGRAPH, outcome) if analyzed else None,
            same_picture_as,
            RADIOGRAPH.pixels.shape if analyzed else None,
        )

    def _written(self, dataset: Dataset, key: str, seconds: int) -> ReceivedInstance:
        path = self.folder / f"{key}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        header = InstanceHeader(
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
            str(dataset.file_meta.TransferSyntaxUID),
            study_instance_uid=STUDY,
            series_instance_uid=str(dataset.get("SeriesInstanceUID", "")),
            modality="DX",
            body_part=str(dataset.get("BodyPartExamined", "")),
            view_position=str(dataset.get("ViewPosition", "")),
            laterality=str(dataset.get("ImageLaterality", "")),
        )
        received_at = RECEIVED_AT + timedelta(seconds=seconds)
        origin = "cd" * 32, path.stat().st_size, "DX1", "127.0.0.1", received_at
        return ReceivedInstance(key, path, header, *origin)

    def every_outcome(self) -> list[ExaminationImage]:
        """Write six images, and return them.

        They are definite, doubtful, negative, not analyzed, failed, and an image with
        the same picture as the negative one.
        """
        negative = self.image(1, NEGATIVE, series=2)
        return [
            self.image(1, DEFINITE),
            self.image(2, DOUBTFUL),
            negative,
            self.image(2, NOT_ANALYZED, series=2),
            self.image(1, FAILED, series=3),
            replace(
                self.image(2, NEGATIVE, series=3),
                same_picture_as=negative.instance.id,
            ),
        ]
