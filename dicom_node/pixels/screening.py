"""Decide whether the model may analyze an instance; if not, say why."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pydicom import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.dataset.attributes import (
    LONGEST_UID,
    UID_PATTERN,
    items,
    number,
    quoted,
    text,
    texts,
    uid,
)
from dicom_node.dataset.image_pixel import is_encapsulated, photometric_interpretation
from dicom_node.errors import NotAnalyzedError, NotMeantError
from dicom_node.own_results import FLAVORS, MODEL_NAME
from dicom_node.pixels.intended_use import (
    IntendedUse,
    date_of,
    outside_intended_use,
)
from dicom_node.reasons import Exclusion, Unanalyzed
from dicom_node.uids import may_be_derived

RADIOGRAPHS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    XRayRadiofluoroscopicImageStorage,
    XRayAngiographicImageStorage,
    SecondaryCaptureImageStorage,
)
"""SOP Classes of projection X-ray images.

Secondary Capture is one of them, because a Secondary Capture may be a digitized film.
"""

CAPTURED_MODALITIES = ("CR", "DX", "RG")
"""Values of Modality (0008,0060) with which a Secondary Capture is analyzed.

With these values, a Secondary Capture is a digitized film, or an image of equipment
that supports no other SOP Class.
"""

# CID 7005. Results made with the MONAI Deploy App SDK have a provisional code of the
# scheme 99IHE instead.
PROCESSING_EQUIPMENT = ("109102", "DCM")
PROCESSING_ALGORITHM_SCHEME = "99IHE"
# highdicom adds an item with this model name to Contributing Equipment Sequence of
# every object, so the item does not show that an AI made the object.
LIBRARY_MODEL_NAME = "highdicom"


@dataclass(frozen=True, slots=True)
class ScreeningRules:
    """Requirements that a radiograph must meet to be analyzed.

    Attributes:
        max_study_age_days: Maximum age of a study in days; 0 means no limit. Images of
            older studies are not analyzed.
        intended_use: Limits of the model card and the settings.
        received_on: The date on which the instance was received; for a local file, the
            current date. The age of a study is the number of days from Study Date
            (0008,0020) to this date; 0 if Study Date is absent or invalid.
    """

    max_study_age_days: int
    intended_use: IntendedUse
    received_on: date


def screen(dataset: Dataset, rules: ScreeningRules, max_megapixels: int) -> None:
    """Raise an error if an instance must not be analyzed.

    Args:
        dataset: The whole instance; its pixels are not decoded.
        rules: The requirements.
        max_megapixels: Maximum of Rows x Columns x Samples per Pixel, in millions.

    Raises:
        NotMeantError: The instance is a result of this software, or it is not a
            radiograph by its SOP Class, Modality or colors. Nobody expects a result.
        NotAnalyzedError: The instance is a radiograph, but must not be analyzed.
            Somebody may expect a result.
    """
    for exclusion in _not_meant(dataset):
        raise NotMeantError(exclusion.message, exclusion.reason)
    for exclusion in _not_for_the_model(dataset, rules, max_megapixels):
        raise NotAnalyzedError(exclusion.message, exclusion.reason)


def is_capture(sop_class_uid: str) -> bool:
    """Return whether a SOP Class is Secondary Capture, or is not one of RADIOGRAPHS.

    The result is True for the SOP Class of each result object of the node.
    """
    return (
        sop_class_uid not in RADIOGRAPHS
        or sop_class_uid == SecondaryCaptureImageStorage
    )


def _not_meant(dataset: Dataset) -> Iterator[Exclusion]:
    sop_class_uid = text(dataset, "SOPClassUID")
    if is_capture(sop_class_uid):
        yield from _own_result(dataset)
    if sop_class_uid not in RADIOGRAPHS:
        yield from _not_an_image(dataset)
        yield Exclusion(
            Unanalyzed.NO_RADIOGRAPH,
            f"The instance is not a radiograph but {_class(dataset)}. The model "
            "analyzes CR, DX, XRF and XA images, and Secondary Captures of "
            "radiographs.",
        )
    if sop_class_uid == SecondaryCaptureImageStorage:
        yield from _not_a_captured_radiograph(dataset)


def _not_for_the_model(
    dataset: Dataset, rules: ScreeningRules, max_megapixels: int
) -> Iterator[Exclusion]:
    yield from _not_an_image(dataset)
    yield from _made_by_ai(dataset)
    yield from _too_old(dataset, rules)
    yield from _unsupported_image(dataset, max_megapixels)
    yield from _invalid_uids(dataset)
    yield from outside_intended_use(dataset, rules.intended_use)


def _not_an_image(dataset: Dataset) -> Iterator[Exclusion]:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        yield Exclusion(
            Unanalyzed.NO_IMAGE,
            "The pixels are Float Pixel Data (7FE0,0008) or Double Float Pixel Data "
            "(7FE0,0009), which radiographs do not have.",
        )
    if "PixelData" not in dataset:
        yield Exclusion(
            Unanalyzed.NO_IMAGE,
            f"There is no image: Pixel Data (7FE0,0010) is absent ({_class(dataset)}). "
            "Reports, presentation states and similar objects are stored but not "
            "analyzed.",
        )


def _class(dataset: Dataset) -> str:
    """Return the name of the SOP Class for a message; if its UID is invalid, say so."""
    uid = text(dataset, "SOPClassUID")
    return UID(uid).name if UID(uid).is_valid else "no valid SOP Class UID (0008,0016)"


def _own_result(dataset: Dataset) -> Iterator[Exclusion]:
    """Yield an exclusion if an instance is a result of this or another fracture-node.

    The evidence is a model name, or Image Type together with the form of a UID. Each of
    the two is sufficient: an archive may change the UIDs, and de-identification removes
    Contributing Equipment (PS3.15 table E.1-1). The form of a UID alone is not
    evidence, because one in 64 random numbers under 2.25 has this form, too.
    """
    models = [
        text(dataset, "ManufacturerModelName"),
        text(dataset, "SecondaryCaptureDeviceManufacturerModelName"),
        *(
            text(item, "ManufacturerModelName")
            for item in items(dataset, "ContributingEquipmentSequence")
        ),
    ]
    is_ours = MODEL_NAME in {each.strip().lower() for each in models}
    flavor = (*texts(dataset, "ImageType"), "", "", "", "")[3].upper()
    uids = (uid(dataset, each) for each in ("SOPInstanceUID", "SeriesInstanceUID"))
    if is_ours or (flavor in FLAVORS and any(map(may_be_derived, uids))):
        yield Exclusion(
            Unanalyzed.OWN_RESULT,
            "A result of this software came back (Manufacturer's Model Name "
            "(0008,1090), Image Type (0008,0008) or UIDs). Exclude its series from the "
            "PACS's forwarding.",
        )


def _made_by_ai(dataset: Dataset) -> Iterator[Exclusion]:
    """Yield an exclusion if another AI or image processing made a Secondary Capture.

    The evidence is Contributing Equipment (PS3.3 C.12.1.1.5). Other SOP Classes are not
    checked, because workstations and noise filters also call themselves processing
    equipment. DERIVED in Image Type is not evidence.
    """
    if text(dataset, "SOPClassUID") != SecondaryCaptureImageStorage:
        return
    for item in items(dataset, "ContributingEquipmentSequence"):
        purposes = {
            (text(code, "CodeValue"), text(code, "CodingSchemeDesignator"))
            for code in items(item, "PurposeOfReferenceCodeSequence")
        }
        if text(item, "ManufacturerModelName").lower() != LIBRARY_MODEL_NAME and (
            any(scheme == PROCESSING_ALGORITHM_SCHEME for _, scheme in purposes)
            or PROCESSING_EQUIPMENT in purposes
        ):
            yield Exclusion(
                Unanalyzed.OTHER_RESULT,
                "This capture is the result of other image processing or AI "
                "(Contributing Equipment Sequence (0018,A001)). Send the radiograph "
                "that it was made from.",
            )


def _not_a_captured_radiograph(dataset: Dataset) -> Iterator[Exclusion]:
    modality = text(dataset, "Modality")
    if modality.upper() not in CAPTURED_MODALITIES:
        yield Exclusion(
            Unanalyzed.MODALITY,
            f"Modality (0008,0060) of this Secondary Capture is {quoted(modality)}; "
            f"only {', '.join(CAPTURED_MODALITIES)} are analyzed.",
        )
    photometric = photometric_interpretation(dataset)
    if photometric and not photometric.startswith("MONOCHROME"):
        yield Exclusion(
            Unanalyzed.COLOR,
            "This is a color capture: Photometric Interpretation (0028,0004) is "
            f"{photometric}. Send the radiograph that it was made from.",
        )


def _unsupported_image(dataset: Dataset, max_megapixels: int) -> Iterator[Exclusion]:
    frames = number(dataset, "NumberOfFrames", 1)
    if frames > 1:
        yield Exclusion(
            Unanalyzed.FRAMES,
            f"Number of Frames (0028,0008) is {frames:.0f}; the model analyzes only "
            "single images.",
        )
    allocated = number(dataset, "BitsAllocated", 16)
    # A compressed image declares its own number of bits.
    if not is_encapsulated(dataset) and allocated not in {8, 16}:
        yield Exclusion(
            Unanalyzed.BITS,
            f"Bits Allocated (0028,0100) is {allocated:.0f}; radiographs have 8 or 16.",
        )
    rows, columns = number(dataset, "Rows", 0), number(dataset, "Columns", 0)
    samples = number(dataset, "SamplesPerPixel", 1)
    if rows * columns * samples > max_megapixels * 1e6:
        yield Exclusion(
            Unanalyzed.TOO_LARGE,
            "The image is too large: Rows (0028,0010) x Columns (0028,0011) x Samples "
            f"per Pixel (0028,0002) are {rows:.0f} x {columns:.0f} x {samples:.0f}, "
            f"more than {max_megapixels} megapixels (max_megapixels under [worker]).",
        )


def _invalid_uids(dataset: Dataset) -> Iterator[Exclusion]:
    """Yield an exclusion for an absent Study Instance UID, and for each invalid UID.

    A UID of the study, the series or the instance is invalid if it does not match
    UID_PATTERN. A UID that matches, but breaks another rule of PS3.5 9.1, is used
    unchanged: see `uid_fault` in dataset/attributes.py.
    """
    if not text(dataset, "StudyInstanceUID"):
        yield Exclusion(
            Unanalyzed.NO_STUDY,
            "Study Instance UID (0020,000D) is absent. Without it, no result can be "
            "added to the study. Correct it at the sender.",
        )
    for keyword, name in (
        ("StudyInstanceUID", "Study Instance UID (0020,000D)"),
        ("SeriesInstanceUID", "Series Instance UID (0020,000E)"),
        ("SOPInstanceUID", "SOP Instance UID (0008,0018)"),
    ):
        value = uid(dataset, keyword)
        if value and not UID_PATTERN.fullmatch(value):
            found = (
                f"{len(value)} characters, more than the {LONGEST_UID} that are "
                "accepted"
                if len(value) > LONGEST_UID
                else "a value that is not digits and periods"
            )
            yield Exclusion(
                Unanalyzed.NOT_A_UID,
                f"{name} is not a UID: it has {found}. Correct it at the sender.",
            )


def _too_old(dataset: Dataset, rules: ScreeningRules) -> Iterator[Exclusion]:
    studied = date_of(dataset, "StudyDate")
    age = 0 if studied is None else (rules.received_on - studied).days
    if 0 < rules.max_study_age_days < age:
        yield Exclusion(
            Unanalyzed.AGE,
            f"The study is {age} days old by Study Date (0008,0020); the limit is "
            f"{rules.max_study_age_days} (max_study_age_days under [receiver]).",
        )
