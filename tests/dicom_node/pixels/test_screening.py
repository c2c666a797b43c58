"""Screening: instances that are not analyzed, and their reasons."""

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

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import NotAnalyzedError, NotMeantError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.pixels.intended_use import ANY_USE, IntendedUse
from dicom_node.pixels.screening import RADIOGRAPHS, ScreeningRules, screen
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import encode_file, encode_notice
from dicom_node.results.result_kinds import ResultKind
from dicom_node.uids import derived_uid, may_be_derived
from inference.finding import Arrow
from inference.phantom.long_bone import draw_phantom
from tests.dicom_node.results.test_encode import FINDING, OPTIONS, RADIOGRAPH
from tests.dicom_node.results.test_presentation_state import POSITIVE
from tests.support.locations import locations

TODAY = date(2024, 3, 10)
ANY = ScreeningRules(max_study_age_days=0, intended_use=ANY_USE, received_on=TODAY)
Change = Callable[[Dataset], None]


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))


def with_uids(**uids: str) -> Change:
    """Return a change that sets UIDs without the validation of pydicom."""

    def change(dataset: Dataset) -> None:
        for keyword, uid in uids.items():
            tag, value = Tag(keyword), UID(uid, IGNORE)
            dataset.add(DataElement(tag, "UI", value, validation_mode=IGNORE))

    return change


def with_values(**values: object) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def without(keyword: str) -> Change:
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
def test_radiographs_of_every_class_are_analyzed(
    sop_class_uid: str, dataset: Dataset
) -> None:
    dataset.SOPClassUID = sop_class_uid

    screen(dataset, ANY, max_megapixels=1)


def test_radiographs_are_the_documented_classes() -> None:
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
            without("PixelData"),
            r"\(7FE0,0010\) is absent",
            Unanalyzed.NO_IMAGE,
            id="no-pixels",
        ),
        pytest.param(
            with_values(FloatPixelData=b"1234"),
            r"Float Pixel Data",
            Unanalyzed.NO_IMAGE,
            id="float-pixels",
        ),
        pytest.param(
            with_values(SOPClassUID=CTImageStorage),
            "not a radiograph but CT Image",
            Unanalyzed.NO_RADIOGRAPH,
            id="ct",
        ),
        pytest.param(
            with_values(SOPClassUID="PHANTOM^NAME"),
            r"no valid SOP Class UID \(0008,0016\)",
            Unanalyzed.NO_RADIOGRAPH,
            id="no-class",
        ),
        pytest.param(
            with_values(**{**CAPTURE, "Modality": "OT"}),
            r"\(0008,0060\) of this Secondary Capture is OT",
            Unanalyzed.MODALITY,
            id="capture-of-something",
        ),
        pytest.param(
            with_values(**{**CAPTURE, "Modality": "Jane Doe"}),
            r"is not a valid code",
            Unanalyzed.MODALITY,
            id="capture-of-nonsense",
        ),
        pytest.param(
            with_values(**CAPTURE, PhotometricInterpretation="RGB"),
            r"\(0028,0004\) is RGB",
            Unanalyzed.COLOR,
            id="color-capture",
        ),
        pytest.param(
            with_values(NumberOfFrames=12),
            r"\(0028,0008\) is 12",
            Unanalyzed.FRAMES,
            id="multi-frame",
        ),
        pytest.param(
            with_values(BitsAllocated=32),
            r"\(0028,0100\) is 32",
            Unanalyzed.BITS,
            id="32-bits",
        ),
        pytest.param(
            with_values(Rows=46341, Columns=46341),
            r"\(0028,0010\).*46341 x 46341 x 1, more than 1 megapixels",
            Unanalyzed.TOO_LARGE,
            id="too-large",
        ),
        pytest.param(
            without("StudyInstanceUID"),
            r"\(0020,000D\) is absent",
            Unanalyzed.NO_STUDY,
            id="no-study",
        ),
        pytest.param(
            with_uids(StudyInstanceUID="Jane.1"),
            (
                r"Study Instance UID \(0020,000D\) is not a UID:"
                r" it has a value that is not digits"
            ),
            Unanalyzed.NOT_A_UID,
            id="study-uid",
        ),
        pytest.param(
            with_uids(SeriesInstanceUID="1.2\\1.3"),
            (
                r"Series Instance UID \(0020,000E\) is not a UID:"
                r" it has a value that is not digits"
            ),
            Unanalyzed.NOT_A_UID,
            id="two-series-uids",
        ),
        pytest.param(
            with_uids(SOPInstanceUID="1" * 257),
            r"\(0008,0018\) is not a UID: it has 257 characters, more than the 256",
            Unanalyzed.NOT_A_UID,
            id="instance-uid",
        ),
    ],
)
def test_instance_that_is_not_a_radiograph_is_not_analyzed(
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
def test_instance_with_a_nonconforming_numeric_uid_is_analyzed(
    uid: str, dataset: Dataset
) -> None:
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    with_uids(**dict.fromkeys(keywords, uid))(dataset)

    screen(dataset, ANY, max_megapixels=1)


def test_reason_for_a_report_names_its_sop_class(dataset: Dataset) -> None:
    del dataset.PixelData
    dataset.SOPClassUID = BasicTextSRStorage

    with pytest.raises(NotAnalyzedError, match="Basic Text SR Storage"):
        screen(dataset, ANY, max_megapixels=1)


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        pytest.param(
            with_values(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("fracture-node", "109102"),
            ),
            "A result of this software came back",
            Unanalyzed.OWN_RESULT,
            id="ours",
        ),
        pytest.param(
            with_values(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("X", "Newcode1", "99IHE"),
            ),
            "result of other image processing or AI",
            Unanalyzed.OTHER_RESULT,
            id="algorithm-as-the-MONAI-SDK-codes-it",
        ),
        pytest.param(
            with_values(
                **CAPTURE, ContributingEquipmentSequence=equipment("X", "109102")
            ),
            r"\(0018,A001\).*Send the radiograph",
            Unanalyzed.OTHER_RESULT,
            id="capture-by-processing-equipment",
        ),
    ],
)
def test_secondary_captures_of_an_ai_are_not_analyzed(
    change: Change, words: str, reason: Unanalyzed, dataset: Dataset
) -> None:
    change(dataset)

    with pytest.raises(NotAnalyzedError, match=words) as caught:
        screen(dataset, ANY, max_megapixels=1)

    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(with_values(ImageType=["DERIVED", "SECONDARY"]), id="derived"),
        pytest.param(
            with_values(ContributingEquipmentSequence=equipment("X", "109102")),
            id="workstation-of-the-modality",
        ),
        pytest.param(
            with_values(
                **CAPTURE, ContributingEquipmentSequence=equipment("X", "109101")
            ),
            id="acquisition-equipment",
        ),
        pytest.param(
            with_values(
                ContributingEquipmentSequence=equipment("X", "Newcode1", "99IHE")
            ),
            id="filter-against-noise",
        ),
        pytest.param(
            with_values(
                ContributingEquipmentSequence=equipment("fracture-node", "109102")
            ),
            id="image-of-a-modality-that-names-us",
        ),
        pytest.param(
            with_values(ManufacturerModelName="fracture-node", ImageType=OURS),
            id="image-of-a-modality-that-calls-itself-like-us",
        ),
        pytest.param(
            with_uids(SOPInstanceUID=derived_uid("x"), SeriesInstanceUID="1.2"),
            id="image-with-a-uid-like-ours",
        ),
        pytest.param(
            both(with_values(**CAPTURE), with_uids(SOPInstanceUID=derived_uid("x"))),
            id="capture-with-a-uid-like-ours-and-no-other-trace",
        ),
        pytest.param(
            with_values(
                **CAPTURE,
                ContributingEquipmentSequence=equipment("Highdicom", "109102"),
            ),
            id="library-that-wrote-the-file",
        ),
        pytest.param(
            with_values(ContributingEquipmentSequence=[Dataset()]), id="empty"
        ),
    ],
)
def test_image_with_single_traits_of_a_result_is_analyzed(
    change: Change, dataset: Dataset
) -> None:
    change(dataset)

    screen(dataset, ANY, max_megapixels=1)


KINDS = "secondary_capture", "presentation_state", "structured_report", "heatmap"


@pytest.fixture(scope="module")
def own_results(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The encoded results of an image: one of each kind in KINDS, and a notice."""
    source = phantom_dataset(draw_phantom(broken=True, rows=200, columns=150))
    path = tmp_path_factory.mktemp("source") / "source.dcm"
    source.save_as(path, enforce_file_format=True)
    header = InstanceHeader(
        source.SOPClassUID, source.SOPInstanceUID, ExplicitVRLittleEndian, modality="DX"
    )
    moment = datetime(2026, 3, 4, tzinfo=UTC)
    origin = "cd" * 32, path.stat().st_size, "DX1", "127.0.0.1"
    instance = ReceivedInstance("0" * 32, path, header, *origin, moment)
    kinds = replace(OPTIONS, kinds=tuple(ResultKind(each, "source") for each in KINDS))
    arrow = Arrow((10.0, 20.0), (30.0, 40.0))
    finding = replace(POSITIVE, locations=locations(arrow))
    results = encode_file(instance, RADIOGRAPH, finding, kinds)
    notices = replace(OPTIONS, kinds=(ResultKind("notice", "source"),))
    results += encode_notice(instance, ("Failed", "x"), FINDING.model, notices)
    assert len(results) == len(KINDS) + 1
    return [each.content for each in results]


def unchanged(_: Dataset) -> None:
    pass


def with_other_uids(dataset: Dataset) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, f"1.2.{len(keyword)}")


def without_identity(dataset: Dataset) -> None:
    """Remove or replace identifying attributes (Basic Profile, PS3.15 table E.1-1)."""
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


@pytest.mark.parametrize("gray", [unchanged, in_gray])
@pytest.mark.parametrize("change", [unchanged, with_other_uids, without_identity])
def test_own_results_are_recognized_after_changes_of_an_archive(
    own_results: list[bytes], change: Change, gray: Change
) -> None:
    for each in own_results:
        result = dcmread(BytesIO(each))
        change(result)
        gray(result)

        with pytest.raises(NotMeantError) as caught:
            screen(result, ANY, max_megapixels=1)

        assert caught.value.reason is Unanalyzed.OWN_RESULT


def test_own_capture_is_recognized_by_its_uids_and_image_type(
    own_results: list[bytes],
) -> None:
    captures = [dcmread(BytesIO(each)) for each in own_results]
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
        # A UUID of version 8 with the variant of RFC 9562. The next ones have another
        # version, another variant and more than 128 bits.
        (f"2.25.{8 << 76 | 2 << 62}", True),
        (f"2.25.{4 << 76 | 2 << 62}", False),
        (f"2.25.{8 << 76 | 3 << 62}", False),
        (f"2.25.{1 << 128 | 8 << 76 | 2 << 62}", False),
    ],
)
def test_derived_uid_is_recognized_by_its_form(
    uid: str,
    may_be: bool,  # noqa: FBT001
) -> None:
    assert may_be_derived(uid) is may_be


@pytest.mark.parametrize("sop_class_uid", RADIOGRAPHS, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(with_values(StudyDate="20000101"), id="old"),
        pytest.param(without("PixelData"), id="no-pixels"),
        pytest.param(with_values(NumberOfFrames=12), id="frames"),
        pytest.param(with_values(BodyPartExamined="CHEST"), id="body-part"),
        pytest.param(without("StudyInstanceUID"), id="no-study"),
    ],
)
def test_every_unanalyzed_radiograph_gets_a_notice(
    change: Change, sop_class_uid: str, dataset: Dataset
) -> None:
    dataset.SOPClassUID = sop_class_uid
    change(dataset)
    rules = ScreeningRules(
        max_study_age_days=10,
        intended_use=IntendedUse(body_parts=("HAND",)),
        received_on=TODAY,
    )

    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, rules, max_megapixels=1)

    assert not isinstance(caught.value, NotMeantError)


def test_gray_capture_processed_by_other_equipment_gets_a_notice(
    dataset: Dataset,
) -> None:
    by_other = equipment("X", "109102")
    with_values(**CAPTURE, ContributingEquipmentSequence=by_other)(dataset)

    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, ANY, max_megapixels=1)

    assert not isinstance(caught.value, NotMeantError)


@pytest.mark.parametrize(
    "change",
    [
        with_values(SOPClassUID=BasicTextSRStorage),
        with_values(**{**CAPTURE, "Modality": "OT"}),
        with_values(**CAPTURE, PhotometricInterpretation="RGB"),
    ],
    ids=["report", "capture-of-something", "color-capture"],
)
def test_instance_that_is_not_a_radiograph_gets_no_notice(
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
    rules = ScreeningRules(
        max_study_age_days=limit, intended_use=ANY_USE, received_on=TODAY
    )

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
def test_body_parts_outside_the_intended_use_are_not_analyzed(
    body_part: str, *, passes: bool, dataset: Dataset
) -> None:
    dataset.add_new("BodyPartExamined", "LO", body_part)
    del dataset.AnatomicRegionSequence
    rules = ScreeningRules(
        0, IntendedUse(body_parts=("ELBOW", "HAND")), received_on=TODAY
    )

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


@pytest.mark.parametrize(
    ("body_part", "region", "passes"),
    [
        ("", "89546000", False),  # skull
        ("", "85562004", True),  # hand
        ("", "15497006", True),  # not in the table, so unknown
        ("HAND", "89546000", True),  # Body Part Examined counts
        ("SKULL", "85562004", False),
    ],
)
def test_without_body_part_examined_the_anatomic_region_counts(
    body_part: str, region: str, *, passes: bool, dataset: Dataset
) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = region, "SCT"
    dataset.BodyPartExamined, dataset.AnatomicRegionSequence = body_part, [item]
    rules = ScreeningRules(0, IntendedUse(body_parts=("HAND",)), received_on=TODAY)

    if passes:
        screen(dataset, rules, max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError, match="outside the model's") as caught:
        screen(dataset, rules, max_megapixels=1)
    assert caught.value.reason is Unanalyzed.BODY_PART
    assert ("has the code 89546000 (SKULL)" in str(caught.value)) == (not body_part)


@pytest.mark.parametrize(
    ("body_part", "passes"), [("LOWERLEG", True), ("tibiafibula", True), ("ARM", False)]
)
def test_other_names_of_a_body_part_are_the_same_part(
    body_part: str, *, passes: bool, dataset: Dataset
) -> None:
    dataset.add_new("BodyPartExamined", "LO", body_part)
    rules = ScreeningRules(0, IntendedUse(body_parts=("LEG",)), received_on=TODAY)

    if passes:
        screen(dataset, rules, max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError):
        screen(dataset, rules, max_megapixels=1)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_codes_of_a_capture_are_accepted_in_lower_case(dataset: Dataset) -> None:
    with_values(**CAPTURE)(dataset)
    dataset.Modality, dataset.PhotometricInterpretation = "cr", " monochrome2"

    screen(dataset, ANY, max_megapixels=1)


def test_contributing_equipment_that_is_not_a_sequence_is_ignored(
    dataset: Dataset,
) -> None:
    dataset.add_new("ContributingEquipmentSequence", "LO", "fracture-node")

    screen(dataset, ANY, max_megapixels=1)
