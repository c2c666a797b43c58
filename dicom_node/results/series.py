"""The series of a kind of result (PS3.3 C.7.3.1)."""

from pydicom import Dataset

from dicom_node.errors import AnalysisError
from dicom_node.results.encoding import ResultOptions
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.finding import ModelIdentity

DIGITS = 9
"""Maximum number of digits that always fit into 31 bits (PS3.5 6.2, IS)."""


def result_series(
    source: Source,
    model: ModelIdentity,
    options: ResultOptions,
    kind: str,
    modality: str,
) -> Dataset:
    """Return the series for a source series, model, kind, modality and series number.

    Each combination has its own Series Instance UID. A result copies laterality, body
    part and order (Request Attributes) from its source. Because all results in a series
    have sources of one series, these attributes are valid for the whole series.
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


def check_series(source: Source, label: str) -> None:
    """Check that a source has a series, which a result must reference.

    Args:
        source: The instance.
        label: The result, as the error text names it.

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
    """Return the Instance Number of the source; 1 if it has none that fits an IS."""
    number = source.text("InstanceNumber")
    return number if number.isdecimal() and len(number) <= DIGITS else "1"
