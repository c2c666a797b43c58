"""The structured report: its codes and its validity."""

import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, ComputedRadiographyImageStorage

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.instance import ReceivedInstance
from dicom_node.results.codes import FRACTURE_OF_BONE, code_item
from dicom_node.results.encode import encode_file
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow, Finding, Location, OperatingPoint, Thresholds
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.dicom_node.results.test_presentation_state import POSITIVE
from tests.dicom_node.results.test_secondary_capture import OPTIONS, received
from tests.support.locations import locations, with_probability
from tests.support.sr_validator import Validation
from tests.support.validators import Complaints, real_radiographs, renamed

PHANTOM = draw_phantom(broken=True, rows=400, columns=300)
REPORT = replace(OPTIONS, kinds=(ResultKind("structured_report"),))
NEGATIVE = replace(POSITIVE, probability=0.02, locations=())
DOUBTFUL = with_probability(POSITIVE, 0.612)
SEVERAL = replace(
    POSITIVE,
    locations=(
        Location(Arrow((150, 200), (50, 90)), 0.81237, OperatingPoint.DEFINITE),
        Location(Arrow((30.5, 350.25), (90, 300)), 0.31, OperatingPoint.DOUBTFUL),
    ),
)
EXPLAINED = ResultKind("structured_report", with_heatmap=True)
BOTH = replace(OPTIONS, kinds=(EXPLAINED, ResultKind("heatmap")))
SHIPPED = Thresholds(0.0598, 0.3735)


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


Source = Callable[[Dataset], ReceivedInstance]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    def written(dataset: Dataset) -> ReceivedInstance:
        path = tmp_path / "source.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return received(path, dataset)

    return written


def content(instance: ReceivedInstance, finding: Finding = POSITIVE) -> bytes:
    (result,) = encode_file(instance, PHANTOM.radiograph(), finding, REPORT)
    assert (result,) == encode_file(instance, PHANTOM.radiograph(), finding, REPORT)
    return result.content


def report(instance: ReceivedInstance, finding: Finding = POSITIVE) -> Dataset:
    return dcmread(BytesIO(content(instance, finding)))


def explained(
    instance: ReceivedInstance, finding: Finding = POSITIVE
) -> tuple[bytes, Dataset | None]:
    """Return the report that references the heatmap, and the heatmap if it is made."""
    written = encode_file(instance, PHANTOM.radiograph(), finding, BOTH)
    assert written == encode_file(instance, PHANTOM.radiograph(), finding, BOTH)
    first, *others = written
    assert first.kind == EXPLAINED.name
    heatmaps = [dcmread(BytesIO(each.content)) for each in others]
    return first.content, heatmaps[0] if heatmaps else None


def items(container: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield (name, content item) for each item at any depth below a container.

    The name is the meaning of the concept name. If there is none, it is the value type.
    """
    for item in container.get("ContentSequence", []):
        names = item.get("ConceptNameCodeSequence")
        yield names[0].CodeMeaning if names else item.ValueType, item
        yield from items(item)


def coded(item: Dataset) -> tuple[str, str]:
    (code,) = item.ConceptCodeSequence
    return code.CodeValue, code.CodingSchemeDesignator


def test_positive_report_contains_finding_region_and_probability(
    source: Source, dataset: Dataset
) -> None:
    written = report(source(dataset))

    assert written.SOPClassUID == Comprehensive3DSRStorage
    assert written.Modality == "SR"
    content_items = dict(items(written))
    assert coded(content_items["Finding"]) == ("125605004", "SCT")
    assert coded(content_items["Presence of property"]) == ("52101004", "SCT")
    assert coded(content_items["CAD Processing and Findings Summary"]) == (
        "111242",
        "DCM",
    )
    assert content_items["CAD Operating Point Description"].TextValue == "definite"
    assert coded(content_items["Procedure reported"]) == ("43468-8", "LN")
    assert coded(content_items["Finding Site"]) == ("30021000", "SCT")
    assert coded(content_items["Laterality"]) == ("7771000", "SCT")
    (number,) = content_items["Probability"].MeasuredValueSequence
    assert number.NumericValue == pytest.approx(0.943)
    assert content_items["Algorithm Name"].TextValue == "phantom-resnet18"
    assert content_items["Algorithm Version"].TextValue == "0.1.0"
    region = content_items["Image Region"]
    points = np.reshape(region.GraphicData, (-1, 2))
    assert region.GraphicType == "POLYLINE"
    np.testing.assert_array_equal(points[0], points[-1])
    assert points.min() > 0
    assert (points.max(axis=0) < (300, 400)).all()
    (image,) = content_items["Source"].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID


def test_fracture_without_a_location_refers_to_the_whole_image_and_the_heatmap(
    source: Source, dataset: Dataset
) -> None:
    """No peak has a sufficient score for a location."""
    content, heatmap = explained(source(dataset), replace(POSITIVE, locations=()))

    (group,) = groups_of(dcmread(BytesIO(content)))
    found = dict(items(group))
    assert coded(found["Presence of property"]) == ("52101004", "SCT")
    assert "Image Region" not in found
    (image,) = found["Source of Measurement"].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert heatmap is not None
    (image,) = found["Visual explanation"].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == heatmap.SOPInstanceUID


def test_single_location_has_the_region_around_its_point(
    source: Source, dataset: Dataset
) -> None:
    """The location is not at the highest peak."""
    arrow = Arrow((290, 390), (230, 398))
    finding = replace(POSITIVE, locations=locations(arrow, score=0.943))

    region = dict(items(report(source(dataset), finding)))["Image Region"]

    points = np.reshape(region.GraphicData, (-1, 2)) * 7 / (300, 400)
    np.testing.assert_allclose(points.min(axis=0), 6.25)
    np.testing.assert_allclose(points.max(axis=0), 6.75)


def test_negative_report_refers_to_the_whole_image(
    source: Source, dataset: Dataset
) -> None:
    content_items = dict(items(report(source(dataset), NEGATIVE)))

    assert coded(content_items["Presence of property"]) == ("272519000", "SCT")
    assert "Image Region" not in content_items
    (image,) = content_items["Source of Measurement"].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID


def test_doubtful_finding_is_coded_as_suspected(
    source: Source, dataset: Dataset
) -> None:
    content_items = dict(items(report(source(dataset), DOUBTFUL)))

    assert coded(content_items["Finding"]) == ("125605004", "SCT")
    assert coded(content_items["Presence of property"]) == ("415684004", "SCT")
    assert content_items["CAD Operating Point Description"].TextValue == "doubtful"
    assert content_items["Comment"].TextValue == (
        "Fracture: doubtful, probability of a fracture 61.2%. "
        "AI result, not for diagnostic use."
    )
    assert "Image Region" in content_items


def test_negative_report_has_no_finding_and_no_fracture_code(
    source: Source, dataset: Dataset
) -> None:
    """Some viewers list only names of items. The names must not suggest a fracture."""
    written = report(source(dataset), NEGATIVE)

    content_items = dict(items(written))
    assert "Finding" not in content_items
    coded_items = [item for _, item in items(written) if "ConceptCodeSequence" in item]
    assert "125605004" not in {coded(item)[0] for item in coded_items}
    assert coded(content_items["CAD Processing and Findings Summary"]) == (
        "111241",
        "DCM",
    )
    assert content_items["CAD Operating Point Description"].TextValue == "none"
    assert content_items["Comment"].TextValue.startswith("No Fracture: probability")


@pytest.mark.parametrize(
    ("probability", "point", "presence"),
    [
        (0.0597, "none", "Absent"),
        (0.06, "doubtful", "Suspected"),
        (0.3734, "doubtful", "Suspected"),
        (0.3735, "definite", "Present"),
    ],
)
def test_highdicom_reads_presence_operating_point_and_thresholds(
    source: Source, dataset: Dataset, probability: float, point: str, presence: str
) -> None:
    finding = with_probability(
        replace(POSITIVE if point != "none" else NEGATIVE, thresholds=SHIPPED),
        probability,
    )

    read = Comprehensive3DSR.from_dataset(report(source(dataset), finding)).content

    groups = [
        *read.get_image_measurement_groups(),
        *read.get_planar_roi_measurement_groups(),
    ]
    (group,) = groups
    evaluations = {
        each.name.meaning: each.value.meaning
        for each in group.get_qualitative_evaluations()
    }
    assert evaluations["Presence of property"] == presence
    (measured,) = group.get_measurements()
    assert measured.name.meaning == "Probability"
    assert measured.value == probability
    positive = [
        *read.get_image_measurement_groups(finding_type=FRACTURE_OF_BONE),
        *read.get_planar_roi_measurement_groups(finding_type=FRACTURE_OF_BONE),
    ]
    assert len(positive) == (presence != "Absent")
    texts = [
        (name, item.TextValue)
        for name, item in items(group[0])
        if item.ValueType == "TEXT"
    ]
    assert ("CAD Operating Point Description", point) in texts
    assert ("Algorithm Parameters", "doubtful from a probability of 0.0598") in texts
    assert ("Algorithm Parameters", "definite from a probability of 0.3735") in texts


@pytest.mark.parametrize(
    ("probability", "written"), [(0.99999, 0.9999), (0.00001, 0.0001)]
)
def test_probability_is_never_rounded_to_0_or_1(
    source: Source, dataset: Dataset, probability: float, written: float
) -> None:
    finding = replace(POSITIVE, probability=probability, locations=())

    content_items = dict(items(report(source(dataset), finding)))

    (number,) = content_items["Probability"].MeasuredValueSequence
    assert float(number.NumericValue) == written


def test_report_has_no_finding_site_if_the_source_has_no_body_part(
    source: Source, dataset: Dataset
) -> None:
    del dataset.BodyPartExamined, dataset.ImageLaterality
    del dataset.AnatomicRegionSequence

    content_items = dict(items(report(source(dataset))))

    assert "Finding Site" not in content_items
    assert "Laterality" not in content_items


@pytest.mark.parametrize(
    ("body_part", "region", "found"),
    [
        ("ELBOW LT", None, ("16953009", "7771000")),
        ("RIGHT_KNEE", None, ("72696002", "24028007")),
        ("HAND_R PA", None, ("85562004", None)),
        ("LOWEREXTREMITY", None, ("61685007", None)),
        ("LOWER EXTREMITY", None, ("61685007", None)),
        ("UPPER LEG", None, ("68367000", None)),
        ("LEFT_LOWER_LEG", None, ("30021000", "7771000")),
        ("LONG LEG", None, ("61685007", None)),
        ("WHOLE LEG", None, ("61685007", None)),
        ("UPPERARM", None, ("40983000", None)),
        ("LOWER ARM RT", None, ("14975008", "24028007")),
        ("FORE ARM", None, ("14975008", None)),
        ("ELBOW", ("71341001", "SCT", "Femur"), ("71341001", None)),
        ("", ("T-D9400", "SRT", "Knee"), ("T-D9400", None)),
        ("KNEE", ("1", "SCT", "Łokieć"), ("72696002", None)),
        ("KNEE", ("1", "SCT", "M" * 64), ("1", None)),
        ("KNEE", ("1", "SCT", "M" * 65), ("72696002", None)),
        ("KNEE", ("1" * 17, "SCT", "Elbow"), ("72696002", None)),
        ("KNEE", ("1", "S" * 17, "Elbow"), ("72696002", None)),
        ("KNEE", ("1", "SCT", "Elbow\\Knee"), ("72696002", None)),
    ],
)
def test_finding_site_comes_from_the_region_code_or_the_body_part(
    source: Source,
    dataset: Dataset,
    body_part: str,
    region: tuple[str, str, str] | None,
    found: tuple[str, str | None],
) -> None:
    del dataset.ImageLaterality, dataset.AnatomicRegionSequence
    dataset.BodyPartExamined = body_part
    dataset.SpecificCharacterSet = "ISO_IR 192"
    with warnings.catch_warnings(action="ignore"):  # about values that are too long
        if region:
            dataset.AnatomicRegionSequence = [code_item(Code(*region))]
        instance = source(dataset)

    content = dict(items(report(instance)))

    side = content.get("Laterality")
    codes = coded(content["Finding Site"])[0], side and coded(side)[0]
    assert codes == found


@pytest.mark.parametrize("body_part", ["FOOT ANKLE", "LEG STUMP", "LEFT", "ARMS"])
def test_body_part_that_is_not_known_as_a_whole_has_no_finding_site(
    source: Source, dataset: Dataset, body_part: str
) -> None:
    del dataset.AnatomicRegionSequence
    dataset.BodyPartExamined = body_part

    assert "Finding Site" not in dict(items(report(source(dataset))))


def test_report_of_another_model_has_the_same_tracking_uid(
    source: Source, dataset: Dataset
) -> None:
    instance = source(dataset)
    trained = replace(POSITIVE, model=replace(POSITIVE.model, digest="cd" * 32))

    first, second = report(instance), report(instance, trained)

    uids = [dict(items(r))["Tracking Unique Identifier"].UID for r in (first, second)]
    assert uids[0] == uids[1]
    assert first.SOPInstanceUID != second.SOPInstanceUID


def groups_of(written: Dataset) -> list[Dataset]:
    """Return the measurement groups of a report."""
    (container,) = (
        item for name, item in items(written) if name == "Imaging Measurements"
    )
    return list(container.ContentSequence)


def test_each_of_several_locations_has_a_group_about_its_point(
    source: Source, dataset: Dataset
) -> None:
    written = report(source(dataset), SEVERAL)

    read = Comprehensive3DSR.from_dataset(written).content
    groups = read.get_planar_roi_measurement_groups(finding_type=FRACTURE_OF_BONE)
    assert [each.tracking_identifier for each in groups] == ["Finding 1", "Finding 2"]
    assert len({each.tracking_uid for each in groups}) == 2
    points = [each.roi.value.tolist() for each in groups]
    assert points == [[[150, 200]], [[30.5, 350.25]]]
    assert {each.roi.graphic_type.value for each in groups} == {"POINT"}
    scores = [each.get_measurements() for each in groups]
    assert [[each.value for each in some] for some in scores] == [[0.8124], [0.31]]
    assert [each.finding_sites[0].value.meaning for each in groups] == 2 * ["Lower leg"]
    coded_items = [dict(items(each[0])) for each in groups]
    presences = [coded(each["Presence of property"])[0] for each in coded_items]
    assert presences == ["52101004", "415684004"]
    texts = [each["CAD Operating Point Description"].TextValue for each in coded_items]
    assert texts == ["definite", "doubtful"]
    assert coded_items[1]["Comment"].TextValue == (
        "Finding 2 of 2: doubtful, probability of a fracture 31.0%, considering only "
        "this location. AI result, not for diagnostic use."
    )


def test_with_several_locations_the_first_group_is_about_the_image(
    source: Source, dataset: Dataset
) -> None:
    instance = source(dataset)

    first, *others = groups_of(report(instance, SEVERAL))
    (only,) = groups_of(report(instance))

    assert len(others) == 2
    found, before = dict(items(first)), dict(items(only))
    assert before.keys() - found.keys() == {"Image Region", "Source", "Finding"}
    assert found.keys() - before.keys() == {"Source of Measurement"}
    for name in found.keys() & before.keys():
        assert found[name] == before[name]


def test_only_location_has_a_group_if_its_score_differs_from_the_probability(
    source: Source, dataset: Dataset
) -> None:
    (same,) = POSITIVE.locations
    almost, doubtful = (
        replace(same, score=0.943001),
        replace(same, score=0.62, operating_point=OperatingPoint.DOUBTFUL),
    )
    instance = source(dataset)

    (_,) = groups_of(report(instance, replace(POSITIVE, locations=(almost,))))
    first, second = groups_of(
        report(instance, replace(POSITIVE, locations=(doubtful,)))
    )

    of_image, of_location = dict(items(first)), dict(items(second))
    assert of_image["Image Region"].GraphicType == "POLYLINE"
    assert "Finding" not in of_image
    assert coded(of_image["Presence of property"])[0] == "52101004"
    assert of_location["Image Region"].GraphicType == "POINT"
    assert coded(of_location["Finding"])[0] == "125605004"
    assert coded(of_location["Presence of property"])[0] == "415684004"
    (number,) = of_location["Probability"].MeasuredValueSequence
    assert number.NumericValue == pytest.approx(0.62)


def test_tracking_uid_of_a_location_depends_on_its_point(
    source: Source, dataset: Dataset
) -> None:
    first, second = SEVERAL.locations
    swapped = replace(
        SEVERAL,
        locations=(replace(second, score=0.9), first),
        model=replace(SEVERAL.model, digest="cd" * 32),
    )

    uids = [
        [dict(items(each))["Tracking Unique Identifier"].UID for each in groups]
        for groups in (
            groups_of(report(source(dataset), each)) for each in (SEVERAL, swapped)
        )
    ]

    assert uids[0] == [uids[1][0], uids[1][2], uids[1][1]]
    assert len(set(uids[0])) == 3


def test_points_are_in_stored_pixels(source: Source, dataset: Dataset) -> None:
    displayed = Radiograph(np.zeros((800, 300), np.uint8), None, (400, 300))

    (result,) = encode_file(source(dataset), displayed, SEVERAL, REPORT)

    groups = groups_of(dcmread(BytesIO(result.content)))
    points = [dict(items(each))["Image Region"].GraphicData for each in groups[1:]]
    np.testing.assert_allclose(points, [(150, 100), (30.5, 175.125)])


@pytest.mark.parametrize("finding", [POSITIVE, SEVERAL], ids=["one", "several"])
def test_report_references_the_heatmap_as_visual_explanation(
    source: Source, dataset: Dataset, finding: Finding
) -> None:
    content, heatmap = explained(source(dataset), finding)

    assert heatmap is not None
    written = dcmread(BytesIO(content))
    for group in groups_of(written):
        (image,) = (
            each
            for each in group.ContentSequence
            if each.ConceptNameCodeSequence[0].CodeValue == "130401"
        )
        assert (image.ValueType, image.RelationshipType) == ("IMAGE", "CONTAINS")
        (reference,) = image.ReferencedSOPSequence
        assert reference.ReferencedSOPClassUID == heatmap.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == heatmap.SOPInstanceUID
    (study,) = written.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        series.SeriesInstanceUID: [
            each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence
        ]
        for series in study.ReferencedSeriesSequence
    }
    assert evidence == {
        dataset.SeriesInstanceUID: [dataset.SOPInstanceUID],
        heatmap.SeriesInstanceUID: [heatmap.SOPInstanceUID],
    }


def test_report_without_the_heatmap_references_only_the_source(
    source: Source, dataset: Dataset
) -> None:
    instance = source(dataset)
    alone = replace(OPTIONS, kinds=(*REPORT.kinds, ResultKind("heatmap")))
    unmade = replace(OPTIONS, kinds=(EXPLAINED,))

    negative, heatmap = explained(instance, NEGATIVE)
    others = [
        encode_file(instance, PHANTOM.radiograph(), POSITIVE, each)[0].content
        for each in (alone, unmade)
    ]

    assert heatmap is None
    for each in (negative, *others):
        written = dcmread(BytesIO(each))
        assert "Visual explanation" not in dict(items(written))
        (study,) = written.CurrentRequestedProcedureEvidenceSequence
        assert len(study.ReferencedSeriesSequence) == 1


def test_orders_and_evidence_come_from_the_source(
    source: Source, dataset: Dataset
) -> None:
    order = Dataset()
    order.AccessionNumber, order.RequestedProcedureID = "A1", "R1"
    dataset.RequestAttributesSequence = [order]

    written = report(source(dataset))

    (request,) = written.ReferencedRequestSequence
    assert (request.AccessionNumber, request.RequestedProcedureID) == ("A1", "R1")
    assert request.StudyInstanceUID == dataset.StudyInstanceUID
    assert request["RequestedProcedureDescription"].is_empty
    (study,) = written.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert written.PatientName == dataset.PatientName


def test_source_without_a_series_uid_is_refused(
    source: Source, dataset: Dataset
) -> None:
    del dataset.SeriesInstanceUID

    with pytest.raises(AnalysisError, match="Series Instance UID"):
        content(source(dataset))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda source: content(source, POSITIVE), id="present"),
        pytest.param(lambda source: explained(source, DOUBTFUL)[0], id="suspected"),
        pytest.param(lambda source: content(source, NEGATIVE), id="absent"),
        pytest.param(lambda source: explained(source, SEVERAL)[0], id="several"),
    ],
)
def test_validators_report_no_error(  # noqa: PLR0913, PLR0917
    source: Source,
    complaints: Complaints,
    peer: Callable[[str], str],
    sr_validation: Validation,
    tmp_path: Path,
    written: Callable[[ReceivedInstance], bytes],
) -> None:
    dataset = phantom_dataset(PHANTOM, sop_class_uid=ComputedRadiographyImageStorage)
    path = tmp_path / "report.dcm"
    path.write_bytes(written(source(dataset)))

    assert complaints(path) == set()
    subprocess.run([peer("dsrdump"), path], check=True, capture_output=True)
    output = sr_validation(path)
    assert "Root Template Validation Complete" in output
    # The validator has context group 100 of 2019, without (43468-8, LN), radiography.
    errors = [line for line in output if "Error" in line]
    assert [line for line in errors if "(43468-8,LN" not in line] == []


@pytest.mark.shared
def test_validators_report_only_errors_of_the_real_source(
    shared: Path, complaints: Complaints, tmp_path: Path
) -> None:
    new = {}
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            instance = received(path, dcmread(path, stop_before_pixels=True))
        written = tmp_path / "report.dcm"
        written.write_bytes(content(instance))
        if new_errors := complaints(written) - renamed(complaints(path)):
            new[path.name] = new_errors

    assert new == {}
