"""Which instances are not analyzed, and that the reason says what to do."""

from collections.abc import Callable
from datetime import date

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.errors import NotAnalyzedError
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.reasons import Unanalyzed
from dicom_node.screening import RADIOGRAPHS, ScreeningRules, screen
from inference.phantom import draw_phantom

TODAY = date(2024, 3, 10)
ANY = ScreeningRules(max_study_age_days=0, body_parts=(), today=TODAY)
Change = Callable[[Dataset], None]


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))


def identified(**uids: str) -> Change:
    """Give UIDs that pydicom would warn of."""

    def change(dataset: Dataset) -> None:
        for keyword, uid in uids.items():
            tag, value = Tag(keyword), UID(uid, IGNORE)
            dataset.add(DataElement(tag, "UI", value, validation_mode=IGNORE))

    return change


def setting(**values: object) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def leaving_out(keyword: str) -> Change:
    return lambda dataset: dataset.__delattr__(keyword)


def equipment(model: str, value: str, scheme: str = "DCM") -> list[Dataset]:
    code, item = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "x"
    item.PurposeOfReferenceCodeSequence = [code]
    item.Manufacturer, item.ManufacturerModelName = "Somebody", model
    return [item]


CAPTURE = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CR"}


@pytest.mark.parametrize("sop_class_uid", RADIOGRAPHS, ids=lambda uid: uid.name)
def test_radiographs_of_every_class_pass(sop_class_uid: str, dataset: Dataset) -> None:
    dataset.SOPClassUID = sop_class_uid

    screen(dataset, ANY, max_megapixels=1)


def test_radiographs_are_the_classes_that_the_node_promises() -> None:
    assert set(RADIOGRAPHS) == {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        XRayRadiofluoroscopicImageStorage,
        XRayAngiographicImageStorage,
        SecondaryCaptureImageStorage,
    }


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        pytest.param(
            leaving_out("PixelData"),
            r"\(7FE0,0010\) is absent",
            Unanalyzed.NO_IMAGE,
            id="no-pixels",
        ),
        pytest.param(
            setting(FloatPixelData=b"1234"),
            r"Float Pixel Data",
            Unanalyzed.NO_IMAGE,
            id="float-pixels",
        ),
        pytest.param(
            setting(SOPClassUID=CTImageStorage),
            "no radiograph but CT Image",
            Unanalyzed.NO_RADIOGRAPH,
            id="ct",
        ),
        pytest.param(
            setting(SOPClassUID="PHANTOM^NAME"),
            r"no valid SOP Class UID \(0008,0016\)",
            Unanalyzed.NO_RADIOGRAPH,
            id="no-class",
        ),
        pytest.param(
            setting(**{**CAPTURE, "Modality": "OT"}),
            r"\(0008,0060\) of this Secondary Capture is OT",
            Unanalyzed.MODALITY,
            id="capture-of-something",
        ),
        pytest.param(
            setting(**{**CAPTURE, "Modality": "Jane Doe"}),
            r"is not a valid code",
            Unanalyzed.MODALITY,
            id="capture-of-nonsense",
        ),
        pytest.param(
            setting(**CAPTURE, PhotometricInterpretation="RGB"),
            r"\(0028,0004\) is RGB",
            Unanalyzed.COLOR,
            id="color-capture",
        ),
        pytest.param(
            setting(NumberOfFrames=12),
            r"\(0028,0008\) is 12",
            Unanalyzed.FRAMES,
            id="multi-frame",
        ),
        pytest.param(
            setting(BitsAllocated=32),
            r"\(0028,0100\) is 32",
            Unanalyzed.BITS,
            id="32-bits",
        ),
        pytest.param(
            setting(Rows=46341, Columns=46341),
            r"\(0028,0010\).*46341 x 46341 x 1, more than 1 megapixels",
            Unanalyzed.TOO_LARGE,
            id="too-large",
        ),
        pytest.param(
            leaving_out("StudyInstanceUID"),
            r"\(0020,000D\) is absent",
            Unanalyzed.NO_STUDY,
            id="no-study",
        ),
        pytest.param(
            identified(StudyInstanceUID="Jane.1"),
            r"Study Instance UID \(0020,000D\) has a value that is not digits",
            Unanalyzed.NOT_A_UID,
            id="study-uid",
        ),
        pytest.param(
            identified(SeriesInstanceUID="1.2\\1.3"),
            r"Series Instance UID \(0020,000E\) has a value that is not digits",
            Unanalyzed.NOT_A_UID,
            id="two-series-uids",
        ),
        pytest.param(
            identified(SOPInstanceUID="1" * 257),
            r"SOP Instance UID \(0008,0018\) has 257 characters, more than the 256",
            Unanalyzed.NOT_A_UID,
            id="instance-uid",
        ),
    ],
)
def test_what_is_not_a_radiograph_is_not_analyzed(
    change: Change, words: str, reason: Unanalyzed, dataset: Dataset
) -> None:
    change(dataset)

    with pytest.raises(NotAnalyzedError, match=words) as caught:
        screen(dataset, ANY, max_megapixels=1)

    assert caught.value.reason is reason
    assert "Jane" not in str(caught.value)
    assert "PHANTOM" not in str(caught.value)


@pytest.mark.parametrize(
    "uid", ["1." + "2" * 66, "1" * 256, "1.02", "1..2", "1.2.", " 1.2"]
)
def test_a_uid_that_breaks_another_rule_is_analyzed(uid: str, dataset: Dataset) -> None:
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    identified(**dict.fromkeys(keywords, uid))(dataset)

    screen(dataset, ANY, max_megapixels=1)


def test_report_is_named_as_what_it_is(dataset: Dataset) -> None:
    del dataset.PixelData
    dataset.SOPClassUID = BasicTextSRStorage

    with pytest.raises(NotAnalyzedError, match="Basic Text SR Storage"):
        screen(dataset, ANY, max_megapixels=1)


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        pytest.param(
            setting(ContributingEquipmentSequence=equipment("fracture-node", "109102")),
            "A result of this software came back",
            Unanalyzed.OWN_RESULT,
            id="ours",
        ),
        pytest.param(
            setting(ContributingEquipmentSequence=equipment("X", "Newcode1", "99IHE")),
            "result of other image processing or AI",
            Unanalyzed.OTHER_RESULT,
            id="algorithm-as-the-MONAI-SDK-codes-it",
        ),
        pytest.param(
            setting(**CAPTURE, ContributingEquipmentSequence=equipment("X", "109102")),
            r"\(0018,A001\).*Send the radiograph",
            Unanalyzed.OTHER_RESULT,
            id="capture-by-processing-equipment",
        ),
    ],
)
def test_results_of_an_ai_are_not_analyzed(
    change: Change, words: str, reason: Unanalyzed, dataset: Dataset
) -> None:
    change(dataset)

    with pytest.raises(NotAnalyzedError, match=words) as caught:
        screen(dataset, ANY, max_megapixels=1)

    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(setting(ImageType=["DERIVED", "SECONDARY"]), id="derived"),
        pytest.param(
            setting(ContributingEquipmentSequence=equipment("X", "109102")),
            id="workstation-of-the-modality",
        ),
        pytest.param(
            setting(**CAPTURE, ContributingEquipmentSequence=equipment("X", "109101")),
            id="acquisition-equipment",
        ),
        pytest.param(
            setting(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("Highdicom", "109102"),
            ),
            id="library-that-wrote-the-file",
        ),
        pytest.param(setting(ContributingEquipmentSequence=[Dataset()]), id="empty"),
    ],
)
def test_what_only_looks_like_a_result_is_analyzed(
    change: Change, dataset: Dataset
) -> None:
    change(dataset)

    screen(dataset, ANY, max_megapixels=1)


@pytest.mark.parametrize(
    ("study_date", "limit", "passes"),
    [
        # Today is 10 March 2024; in a leap year, 28 February is 11 days ago.
        ("20240228", 11, True),
        ("20240228", 10, False),
        ("2024.02.28", 10, False),
        ("20240228", 0, True),
        ("20250101", 1, True),
        ("", 1, True),
        ("20241332", 1, True),
        ("somewhen", 1, True),
    ],
)
def test_studies_older_than_the_limit_are_not_analyzed(
    study_date: str, limit: int, *, passes: bool, dataset: Dataset
) -> None:
    dataset.add_new("StudyDate", "LO", study_date)
    rules = ScreeningRules(max_study_age_days=limit, body_parts=(), today=TODAY)

    if passes:
        screen(dataset, rules, max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError, match=r"11 days old.*limit is 10") as caught:
        screen(dataset, rules, max_megapixels=1)
    assert caught.value.reason is Unanalyzed.AGE


@pytest.mark.parametrize(
    ("body_part", "passes"),
    [
        ("ELBOW", True),
        ("elbow ", True),
        ("ELBOW LT", True),
        ("HAND_R", True),
        ("LEFT HAND", True),
        ("", True),
        ("ELBOWS", False),
        ("CHEST", False),
    ],
)
def test_body_parts_that_the_model_does_not_know_are_not_analyzed(
    body_part: str, *, passes: bool, dataset: Dataset
) -> None:
    dataset.add_new("BodyPartExamined", "LO", body_part)
    rules = ScreeningRules(0, body_parts=("ELBOW", "HAND"), today=TODAY)

    if passes:
        screen(dataset, rules, max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, rules, max_megapixels=1)
    assert caught.value.reason is Unanalyzed.BODY_PART
    assert str(caught.value) == (
        f"Body Part Examined (0018,0015) is {body_part}, which is outside the model's "
        "intended use."
    )


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_codes_of_a_capture_count_in_any_case(dataset: Dataset) -> None:
    setting(**CAPTURE)(dataset)
    dataset.Modality, dataset.PhotometricInterpretation = "cr", " monochrome2"

    screen(dataset, ANY, max_megapixels=1)


def test_contributing_equipment_that_is_no_sequence_says_nothing(
    dataset: Dataset,
) -> None:
    dataset.add_new("ContributingEquipmentSequence", "LO", "fracture-node")

    screen(dataset, ANY, max_megapixels=1)
