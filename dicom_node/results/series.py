"""The series and the Instance Number of a result (PS3.3 C.7.3.1)."""

from pydicom import Dataset

from dicom_node.errors import AnalysisError
from dicom_node.results.encoding import ResultOptions
from dicom_node.results.examination import Examination
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.finding import ModelIdentity

DIGITS = 9
"""Maximum number of digits of an Instance Number.

Each number with so many digits fits into 31 bits, as an IS value requires (PS3.5 6.2).
"""


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
    Many results copy attributes of the series of their source, such as the body part.
    These attributes must be equal in a whole series of results.

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

    The Series Instance UID is that of `examination_series_uid`. It does not depend on
    the revision of the examination summary.

    Args:
        examination: The examination.
        model: The model of the node.
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

    It depends on the study, the patient, the models (`Examination.models`), the kind
    and the Series Number, but not on the revision. All objects of a series name the
    same models, because they are attributes of the series (PS3.3 C.7.5.1).
    """
    study = examination.images[0].instance.header.study_instance_uid
    return derived_uid(
        "examination series",
        study,
        examination.patient_key,
        "+".join(each.digest for each in examination.models(model)),
        kind,
        str(options.series_number),
    )


def check_series(source: Source, label: str) -> None:
    """Check that a source has a Series Instance UID.

    Results of some types must reference the series of their source.

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

    A number with a sign or with more than DIGITS digits counts as invalid.
    """
    number = source.text("InstanceNumber")
    return number if number.isdecimal() and len(number) <= DIGITS else "1"
