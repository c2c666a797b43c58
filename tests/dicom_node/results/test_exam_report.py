"""The report on an examination: its codes, references and validity."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_node.results.encode import encode_examination
from dicom_node.results.examination import (
    ExaminationImage,
    Predecessor,
    conclude,
)
from dicom_node.results.measurement_groups import TRACKING
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow, Finding
from tests.dicom_node.results.test_exam_summary import order
from tests.dicom_node.results.test_structured_report import coded, items
from tests.support.examinations import (
    DEFINITE,
    DOUBTFUL,
    EARLIER_MODEL,
    FAILED,
    MODEL,
    NEGATIVE,
    NOT_ANALYZED,
    OPTIONS,
    STUDY,
    Studies,
)
from tests.support.locations import locations
from tests.support.sr_validator import Validation
from tests.support.validators import Complaints

ARROWS = Arrow((75.0, 105.0), (30.0, 40.0)), Arrow((20.0, 50.0), (60.0, 60.0))
SEVERAL = replace(DEFINITE, locations=locations(*ARROWS))
REPORT = replace(OPTIONS, kinds=(ResultKind("exam_report"),))


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


def content(*images: ExaminationImage, **changes: object) -> bytes:
    """Return the report on images; `changes` are fields of Examination."""
    examination = replace(conclude(images), **changes)  # type: ignore[arg-type]
    (result,) = encode_examination(examination, MODEL, REPORT)
    return result.content


def report(*images: ExaminationImage, **changes: object) -> Dataset:
    return dcmread(BytesIO(content(*images, **changes)))


def evaluations(written: Dataset) -> list[tuple[str, Dataset]]:
    """Return (meaning of the concept name, content item) for each evaluation."""
    container = written.ContentSequence[-1]
    names = [each.ConceptNameCodeSequence[0] for each in container.ContentSequence]
    assert container.ConceptNameCodeSequence[0].CodeValue == "C0034375"
    meanings = [name.CodeMeaning for name in names]
    return [*zip(meanings, container.ContentSequence, strict=True)]


def comments(written: Dataset) -> list[str]:
    found = evaluations(written)
    return [str(item.TextValue) for name, item in found if name == "Comment"]


def test_report_has_one_group_for_each_analyzed_image(studies: Studies) -> None:
    written = report(*studies.every_outcome())

    read = Comprehensive3DSR.from_dataset(written).content
    regions = read.get_planar_roi_measurement_groups()
    whole = read.get_image_measurement_groups()
    assert [group.get_measurements()[0].value for group in regions] == [0.943, 0.3]
    assert [group.get_measurements()[0].value for group in whole] == [0.02]
    referenced = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for _, item in items(written)
        if item.ValueType == "IMAGE"
    ]
    assert len(referenced) == len(set(referenced)) == 6  # each image once
    assert (written.Modality, written.SOPClassUID) == ("SR", Comprehensive3DSRStorage)


def test_report_contains_the_answer_and_the_images_without_a_result(
    studies: Studies,
) -> None:
    written = report(*studies.every_outcome())

    found = dict(evaluations(written))
    assert coded(found["Presence of property"]) == ("52101004", "SCT")
    assert found["CAD Operating Point Description"].TextValue == "definite"
    answer, *others = comments(written)
    assert answer == (
        "Fracture suspected in 2 of 3 analyzed images (1 definite, 1 doubtful); 1 "
        "image was not analyzed; the analysis of 1 image failed. AI result, not for "
        "diagnostic use."
    )
    same_picture = "Same picture as image 3. The picture is counted once."
    assert others == [
        f"Image 4 (series 2, number 2), LEG, AP, left: {'. '.join(NOT_ANALYZED)}",
        f"Image 5 (series 3, number 1), LEG, AP, left: {'. '.join(FAILED)}",
        f"Image 6 (series 3, number 2), LEG, AP, left: {same_picture}",
    ]


@pytest.mark.parametrize(
    ("outcomes", "presence", "summary"),
    [
        ((DOUBTFUL, NEGATIVE), "415684004", "111242"),
        ((NEGATIVE, NEGATIVE), "272519000", "111241"),
        ((DEFINITE, FAILED), "52101004", "111244"),
        ((NEGATIVE, NOT_ANALYZED), None, "111243"),
        ((FAILED, NOT_ANALYZED), None, "111245"),
    ],
)
def test_answer_of_the_examination_is_coded(
    studies: Studies,
    outcomes: tuple[tuple[str, str], ...],
    presence: str | None,
    summary: str,
) -> None:
    images = [studies.image(number, each) for number, each in enumerate(outcomes)]

    found = dict(evaluations(report(*images)))

    stated = found.get("Presence of property")
    assert (stated and coded(stated)[0]) == presence
    assert ("CAD Operating Point Description" in found) == (presence is not None)
    assert coded(found["CAD Processing and Findings Summary"])[0] == summary


def test_report_without_an_answer_has_no_measurements(studies: Studies) -> None:
    written = report(studies.image(1, NOT_ANALYZED), studies.image(2, FAILED))

    names = [name for name, _ in items(written)]
    assert "Imaging Measurements" not in names
    assert comments(written)[0].startswith("No image was analyzed")
    assert len(comments(written)) == 3


def test_evidence_lists_all_images_of_all_series(studies: Studies) -> None:
    (study,) = report(
        *studies.every_outcome()
    ).CurrentRequestedProcedureEvidenceSequence

    assert study.StudyInstanceUID == STUDY
    uids = {
        series.SeriesInstanceUID: [
            image.ReferencedSOPInstanceUID for image in series.ReferencedSOPSequence
        ]
        for series in study.ReferencedSeriesSequence
    }
    assert uids == {
        f"{STUDY}.{s}": [f"{STUDY}.{s}.{n}" for n in (1, 2)] for s in (1, 2, 3)
    }


def test_image_without_a_series_is_named_but_not_referenced(studies: Studies) -> None:
    lost = studies.image(2, DEFINITE, series=2, SeriesInstanceUID=None)

    written = report(studies.image(1, NEGATIVE), lost)

    assert coded(dict(evaluations(written))["Presence of property"])[0] == "52101004"
    assert "Definite fracture. Probability of a fracture 94.3%" in comments(written)[1]
    images = [item for _, item in items(written) if item.ValueType == "IMAGE"]
    assert len(images) == 1


def test_finding_of_an_image_without_a_size_is_about_the_whole_image(
    studies: Studies,
) -> None:
    image = replace(studies.image(1, DEFINITE, Rows=None), thumbnail=None)

    read = Comprehensive3DSR.from_dataset(report(image)).content

    assert len(read.get_image_measurement_groups()) == 1
    assert read.get_planar_roi_measurement_groups() == []


@pytest.mark.parametrize("finding", [DEFINITE, SEVERAL], ids=["one", "several"])
def test_report_has_the_regions_of_images_that_are_not_drawn(
    studies: Studies, finding: Finding
) -> None:
    """If the decoding of an image takes long, the image is not drawn."""
    drawn = studies.image(1, finding)

    assert content(replace(drawn, thumbnail=None)) == content(drawn)


def test_image_with_several_locations_has_a_group_for_each(studies: Studies) -> None:
    image = studies.image(1, SEVERAL)

    read = Comprehensive3DSR.from_dataset(
        report(image, studies.image(2, DOUBTFUL))
    ).content

    (whole,) = read.get_image_measurement_groups()
    first, second, other = read.get_planar_roi_measurement_groups()
    names = [each.tracking_identifier for each in (whole, first, second, other)]
    assert names == [TRACKING, "Finding 1", "Finding 2", TRACKING]
    points = [each.roi.value.tolist() for each in (first, second)]
    assert points == [[[75, 105]], [[20, 50]]]
    for group in (whole, first, second):
        comments = [
            item.TextValue for name, item in items(group[0]) if name == "Comment"
        ]
        assert comments[-1] == "Image 1 (series 1, number 1), LEG, AP, left"


def test_new_revision_names_its_predecessor(studies: Studies) -> None:
    page, document = (
        Predecessor(sop_class, f"1.2.{n}", "1.2.9", revision=1, image_count=1)
        for n, sop_class in enumerate(
            (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
        )
    )
    images = studies.image(1, NEGATIVE), studies.image(2, NEGATIVE)

    first = report(*images)
    second = report(*images, revision=2, predecessors=(page, document))

    assert "PredecessorDocumentsSequence" not in first
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == STUDY
    assert series.SeriesInstanceUID == "1.2.9"
    assert reference.ReferencedSOPInstanceUID == "1.2.1"
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert comments(second)[1] == (
        "Revision 2 of the examination summary. It replaces revision 1 (1 image)."
    )


def test_each_order_is_listed_once(studies: Studies) -> None:
    written = report(
        studies.image(
            1,
            NEGATIVE,
            AccessionNumber="A1",
            RequestAttributesSequence=[order("", "R1")],
        ),
        studies.image(
            2,
            NEGATIVE,
            AccessionNumber="A1",
            RequestAttributesSequence=[order("A1", "R1")],
        ),
        studies.image(3, NEGATIVE, AccessionNumber="A2"),
    )

    assert written["AccessionNumber"].is_empty
    orders = [
        (each.AccessionNumber, each.RequestedProcedureID)
        for each in written.ReferencedRequestSequence
    ]
    assert orders == [("A1", "R1"), ("A2", "")]
    assert {each.StudyInstanceUID for each in written.ReferencedRequestSequence} == {
        STUDY
    }
    assert "RequestAttributesSequence" not in written


def test_unlisted_images_are_counted_in_words(studies: Studies) -> None:
    examination = conclude([studies.image(1, DOUBTFUL)])
    unlisted = replace(examination.counts, doubtful=0, none=7)

    written = report(studies.image(1, DOUBTFUL), unlisted=unlisted)

    assert comments(written)[0].startswith("Fracture suspected in 1 of 8 analyzed")
    assert comments(written)[1] == (
        "7 further images are not listed (no fracture suspected: 7)."
    )


EARLIER_NEGATIVE = replace(NEGATIVE, model=EARLIER_MODEL)


def versions(written: Dataset) -> list[str]:
    """Return the versions of the models that the report names as equipment."""
    versions: list[str] = []
    for each in written.ContributingEquipmentSequence:
        assert (
            each.SoftwareVersions[1:]
            == written.SoftwareVersions[len(versions) * 2 + 1 :][:2]
        )
        versions.append(each.SoftwareVersions[1].split()[1])
    assert len(written.SoftwareVersions) == 1 + 2 * len(versions)
    return versions


def test_report_names_the_models_that_gave_the_answers(studies: Studies) -> None:
    earlier, failed = studies.image(1, EARLIER_NEGATIVE), studies.image(2, NOT_ANALYZED)
    current = studies.image(3, DOUBTFUL)
    old = report(earlier, failed)
    new, none = report(current, failed), report(failed)
    both = report(earlier, current)

    written = none, new, old, both
    assert [versions(each) for each in written] == [
        *(["0.1.0"], ["0.1.0"], ["0.0.9"], ["0.0.9", "0.1.0"])
    ]
    observers = [dict(items(each))["Device Observer UID"].UID for each in written]
    (device,) = old.ContributingEquipmentSequence
    assert (observers[0], observers[2]) == (observers[1], device.DeviceUID)
    assert len(set(observers)) == 3
    assert len({each.SeriesInstanceUID for each in written}) == 3
    assert old.DeviceSerialNumber == EARLIER_MODEL.digest[:16]


@pytest.mark.parametrize("case", ["answers", "no answer"])
def test_validators_report_no_error(  # noqa: PLR0913, PLR0917
    studies: Studies,
    complaints: Complaints,
    peer: Callable[[str], str],
    sr_validation: Validation,
    tmp_path: Path,
    case: str,
) -> None:
    earlier = Predecessor(
        Comprehensive3DSRStorage, "1.2.4", "1.2.5", revision=1, image_count=1
    )
    images = (
        [
            studies.image(3, SEVERAL),
            studies.image(4, EARLIER_NEGATIVE),
            *studies.every_outcome(),
        ]
        if case == "answers"
        else []
    )
    images = images or [studies.image(1, NOT_ANALYZED), studies.image(2, FAILED)]
    path = tmp_path / "report.dcm"
    path.write_bytes(content(*images, revision=2, predecessors=(earlier,)))

    assert complaints(path) == set()
    subprocess.run([peer("dsrdump"), path], check=True, capture_output=True)
    output = sr_validation(path)
    assert "Root Template Validation Complete" in output
    # The validator has context group 100 of 2019, without (43468-8, LN), radiography.
    errors = [line for line in output if "Error" in line]
    assert [line for line in errors if "(43468-8,LN" not in line] == []
