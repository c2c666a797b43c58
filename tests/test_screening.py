"""Which instances are not analyzed, and that the reason says what to do."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from io import BytesIO

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.errors import NotAnalyzedError, NotMeantError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import encode_file, encode_notice
from dicom_node.results.forms import Form
from dicom_node.results.uids import derived_uid, may_be_derived
from dicom_node.screening import RADIOGRAPHS, ScreeningRules, screen
from inference.finding import Arrow
from inference.phantom import draw_phantom
from tests.test_encode import FINDING, OPTIONS, RADIOGRAPH
from tests.test_presentation_state import POSITIVE

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


def both(*changes: Change) -> Change:
    def change(dataset: Dataset) -> None:
        for each in changes:
            each(dataset)

    return change


OURS = ["DERIVED", "SECONDARY", "OTHER", "AI_OVERLAY"]
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
            setting(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("fracture-node", "109102"),
            ),
            "A result of this software came back",
            Unanalyzed.OWN_RESULT,
            id="ours",
        ),
        pytest.param(
            setting(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("X", "Newcode1", "99IHE"),
            ),
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
def test_captures_of_an_ai_are_not_analyzed(
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
            setting(ContributingEquipmentSequence=equipment("X", "Newcode1", "99IHE")),
            id="filter-against-noise",
        ),
        pytest.param(
            setting(ContributingEquipmentSequence=equipment("fracture-node", "109102")),
            id="image-of-a-modality-that-names-us",
        ),
        pytest.param(
            setting(ManufacturerModelName="fracture-node", ImageType=OURS),
            id="image-of-a-modality-that-calls-itself-like-us",
        ),
        pytest.param(
            identified(SOPInstanceUID=derived_uid("x"), SeriesInstanceUID="1.2"),
            id="image-with-a-uid-like-ours",
        ),
        pytest.param(
            both(setting(**CAPTURE), identified(SOPInstanceUID=derived_uid("x"))),
            id="capture-with-a-uid-like-ours-and-no-other-trace",
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


KINDS = "secondary_capture", "presentation_state", "structured_report", "heatmap"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One result of each kind, and a notice."""
    source = phantom_dataset(draw_phantom(broken=True, rows=200, columns=150))
    path = tmp_path_factory.mktemp("source") / "source.dcm"
    source.save_as(path, enforce_file_format=True)
    header = InstanceHeader(
        source.SOPClassUID, source.SOPInstanceUID, ExplicitVRLittleEndian, modality="DX"
    )
    moment = datetime(2026, 3, 4, tzinfo=UTC)
    who = "cd" * 32, path.stat().st_size, "DX1", "127.0.0.1"
    instance = ReceivedInstance("0" * 32, path, header, *who, moment)
    kinds = replace(OPTIONS, forms=tuple(Form(each, "source") for each in KINDS))
    arrow = replace(POSITIVE, arrow=Arrow((10.0, 20.0), (30.0, 40.0)))
    results = encode_file(instance, RADIOGRAPH, arrow, kinds)
    notices = replace(OPTIONS, forms=(Form("notice", "source"),))
    results += encode_notice(instance, ("Failed", "x"), FINDING.model, notices)
    assert len(results) == len(KINDS) + 1
    return [each.content for each in results]


def as_it_was(_: Dataset) -> None:
    pass


def with_other_uids(dataset: Dataset) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, f"1.2.{len(keyword)}")


def without_identity(dataset: Dataset) -> None:
    """As the Basic Profile leaves it (PS3.15 table E.1-1)."""
    with_other_uids(dataset)
    dataset.PatientName = dataset.PatientID = ""
    for keyword in (
        *("ContributingEquipmentSequence", "DerivationDescription", "ImageComments"),
        *("SourceImageSequence", "ReferencedSeriesSequence"),
    ):
        if keyword in dataset:
            delattr(dataset, keyword)


def without_names_of_equipment(dataset: Dataset) -> None:
    for keyword in (
        *("ContributingEquipmentSequence", "Manufacturer", "ManufacturerModelName"),
        *("SecondaryCaptureDeviceManufacturer", "SoftwareVersions"),
        "SecondaryCaptureDeviceManufacturerModelName",
    ):
        if keyword in dataset:
            delattr(dataset, keyword)


def in_gray(dataset: Dataset) -> None:
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1


@pytest.mark.parametrize("gray", [as_it_was, in_gray])
@pytest.mark.parametrize("change", [as_it_was, with_other_uids, without_identity])
def test_results_of_this_software_are_known_whatever_an_archive_changes(
    made: list[bytes], change: Change, gray: Change
) -> None:
    for each in made:
        result = dcmread(BytesIO(each))
        change(result)
        gray(result)

        with pytest.raises(NotMeantError) as caught:
            screen(result, ANY, max_megapixels=1)

        assert caught.value.reason is Unanalyzed.OWN_RESULT


def test_a_capture_of_ours_is_known_by_its_uids_and_image_type(
    made: list[bytes],
) -> None:
    captures = [dcmread(BytesIO(each)) for each in made]
    captures = [
        each for each in captures if each.SOPClassUID == SecondaryCaptureImageStorage
    ]
    assert len(captures) == 2
    for each in captures:
        without_names_of_equipment(each)
        in_gray(each)

        with pytest.raises(NotMeantError) as caught:
            screen(each, ANY, max_megapixels=1)

        assert caught.value.reason is Unanalyzed.OWN_RESULT


@pytest.mark.parametrize(
    ("uid", "may_be"),
    [
        (derived_uid("a"), True),
        ("2.25.3", False),
        ("2.25.", False),
        ("1.2.840.10008.1.2", False),
        ("2.25.1\\2.25.2", False),
        # UUID 8 with the variant of RFC 9562, and one bit beside each.
        (f"2.25.{8 << 76 | 2 << 62}", True),
        (f"2.25.{4 << 76 | 2 << 62}", False),
        (f"2.25.{8 << 76 | 3 << 62}", False),
        (f"2.25.{1 << 128 | 8 << 76 | 2 << 62}", False),
    ],
)
def test_a_derived_uid_is_known_by_its_form(
    uid: str,
    may_be: bool,  # noqa: FBT001
) -> None:
    assert may_be_derived(uid) is may_be


@pytest.mark.parametrize("sop_class_uid", RADIOGRAPHS, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(setting(StudyDate="20000101"), id="old"),
        pytest.param(leaving_out("PixelData"), id="no-pixels"),
        pytest.param(setting(NumberOfFrames=12), id="frames"),
        pytest.param(setting(BodyPartExamined="CHEST"), id="body-part"),
        pytest.param(leaving_out("StudyInstanceUID"), id="no-study"),
    ],
)
def test_every_radiograph_without_an_answer_leaves_a_notice(
    change: Change, sop_class_uid: str, dataset: Dataset
) -> None:
    dataset.SOPClassUID = sop_class_uid
    change(dataset)
    rules = ScreeningRules(max_study_age_days=10, body_parts=("HAND",), today=TODAY)

    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, rules, max_megapixels=1)

    assert not isinstance(caught.value, NotMeantError)


def test_a_gray_capture_that_other_equipment_processed_leaves_a_notice(
    dataset: Dataset,
) -> None:
    by_other = equipment("X", "109102")
    setting(**CAPTURE, ContributingEquipmentSequence=by_other)(dataset)

    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, ANY, max_megapixels=1)

    assert not isinstance(caught.value, NotMeantError)


@pytest.mark.parametrize(
    "change",
    [
        setting(SOPClassUID=BasicTextSRStorage),
        setting(**{**CAPTURE, "Modality": "OT"}),
        setting(**CAPTURE, PhotometricInterpretation="RGB"),
    ],
    ids=["report", "capture-of-something", "color-capture"],
)
def test_what_is_no_radiograph_leaves_no_notice(
    change: Change, dataset: Dataset
) -> None:
    change(dataset)

    with pytest.raises(NotMeantError):
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
