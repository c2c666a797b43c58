"""The series and the Instance Number of a result (PS3.3 C.7.3.1)."""

from pydicom import Dataset

from dicom_node.errors import AnalysisError
from dicom_node.results.encoding import ResultOptions
from dicom_node.results.examination import Examination
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.finding import ModelIdentity

DIGITS = 9
"""Number of decimal digits that always fit into an IS value, 31 bits (PS3.5 6.2)."""


def result_series(
    source: Source,
    model: ModelIdentity,
    options: ResultOptions,
    kind: str,
    modality: str,
) -> Dataset:
    """Return Modality, Series Instance UID and Series Number of a result.

    The Series Instance UID differs between source series, models, kinds, modalities and
    series numbers. Therefore all results in a series come from images of one series.
    Each result copies the laterality, the body part and the order (Request Attributes)
    of its source. So these attributes are valid for the whole series of results.

    Args:
        source: The instance that the result is about.
        model: The model that made the finding.
        options: The options; only the Series Number is used.
        kind: `ResultKind.name` of the result.
        modality: The Modality (0008,0060) of the result.
    """
    series = Dataset()
    series.Modality = modality
    series.SeriesInstanceUID = derived_uid(
        "series",
        source.text("StudyInstanceUID"),
        source.text("SeriesInstanceUID"),
        model.digest,
        kind,
        modality,
        str(options.series_number),
    )
    series.SeriesNumber = options.series_number
    return series


def examination_series(
    examination: Examination,
    model: ModelIdentity,
    options: ResultOptions,
    kind: str,
    modality: str,
) -> Dataset:
    """Return Modality, Series Instance UID and Series Number of an examination object.

    All revisions of an examination summary by one model are in one series.

    Args:
        examination: The examination.
        model: The model that made the findings.
        options: The options; only the Series Number is used.
        kind: `ResultKind.name` of the object.
        modality: The Modality (0008,0060) of the object.
    """
    series = Dataset()
    series.Modality = modality
    series.SeriesInstanceUID = examination_series_uid(examination, model, options, kind)
    series.SeriesNumber = options.series_number
    return series


def examination_series_uid(
    examination: Examination, model: ModelIdentity, options: ResultOptions, kind: str
) -> str:
    """Return the Series Instance UID of an examination object.

    Two patients in one study have different series. All revisions of the examination
    summary by one model have the same series.
    """
    study = examination.images[0].instance.header.study_instance_uid
    return derived_uid(
        "examination series",
        study,
        examination.patient_key,
        model.digest,
        kind,
        str(options.series_number),
    )


def check_series(source: Source, label: str) -> None:
    """Check that a source has a series, which a result must reference.

    Args:
        source: The instance.
        label: The name of the result at the start of a sentence, as in "A heatmap".

    Raises:
        AnalysisError: The source has no Series Instance UID.
    """
    if not source.text("SeriesInstanceUID"):
        raise AnalysisError(
            f"Series Instance UID (0020,000E) is absent. {label} must name the series "
            "of its image. Correct the instance at the modality, or set `results` to "
            "`secondary_capture` alone."
        )


def instance_number(source: Source) -> str:
    """Return the Instance Number of the source; "1" if it is absent or invalid.

    A number with more than DIGITS digits counts as invalid.
    """
    number = source.text("InstanceNumber")
    return number if number.isdecimal() and len(number) <= DIGITS else "1"
