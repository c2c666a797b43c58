"""The kinds of objects that a destination gets about images and examinations."""

import pytest

from dicom_node.results.result_kinds import (
    ResultKind,
    all_kinds,
    examination_kinds_for,
    kind_label,
    kinds_for,
    with_stored_reports,
)
from tests.dicom_node.results.test_capture_iod import destination

EXAMINATION = ["exam_summary", "exam_report"]
REPORTS = {"structured_report", "structured_report-heatmap"}


@pytest.mark.parametrize(
    ("keys", "of_images", "of_examinations"),
    [
        ({}, {"secondary_capture"}, set()),
        ({"results": EXAMINATION}, set(), {"exam_summary", "exam_report"}),
        ({"results": ["exam_report"], "send_negative": False}, set(), {"exam_report"}),
        (
            {
                "results": ["secondary_capture", "exam_summary"],
                "send_negative": False,
                "modality": "source",
            },
            {"secondary_capture-source", "notice-source"},
            {"exam_summary"},
        ),
        (
            {"results": EXAMINATION, "transfer_syntax": "jpeg_baseline"},
            set(),
            {"exam_summary-jpeg", "exam_report"},
        ),
        (
            {"results": ["structured_report", "secondary_capture"]},
            {"structured_report", "secondary_capture"},
            set(),
        ),
        (
            {"results": ["structured_report", "heatmap", "exam_report"]},
            {"structured_report-heatmap", "heatmap"},
            {"exam_report"},
        ),
    ],
)
def test_kinds_of_images_and_examinations_are_separate(
    keys: dict[str, object], of_images: set[str], of_examinations: set[str]
) -> None:
    chosen = destination(**keys)

    assert {each.name for each in kinds_for(chosen)} == of_images
    assert {each.name for each in examination_kinds_for(chosen)} == of_examinations


@pytest.mark.parametrize(
    ("wanted", "stored", "sent"),
    [
        ("structured_report", {"structured_report-heatmap"}, True),
        ("structured_report-heatmap", {"structured_report"}, True),
        (
            "structured_report",
            {"structured_report", "structured_report-heatmap"},
            False,
        ),
        ("secondary_capture", {"structured_report"}, False),
        ("secondary_capture", {"secondary_capture-jpeg"}, False),
    ],
)
def test_another_stored_kind_is_sent_only_if_the_wanted_report_is_absent(
    wanted: str, stored: set[str], *, sent: bool
) -> None:
    others = stored - {wanted}

    chosen = with_stored_reports([wanted], stored)

    assert wanted in chosen
    assert (others <= chosen) is sent


def test_all_kinds_are_those_of_all_destinations() -> None:
    chosen = [
        destination(results=EXAMINATION),
        destination(results=["structured_report", "exam_report"]),
    ]

    names = [each.name for each in all_kinds(chosen)]

    assert names == ["exam_report", "exam_summary", "structured_report"]


def test_without_destinations_only_captures_are_made() -> None:
    assert all_kinds([]) == (ResultKind("secondary_capture"),)
    assert ResultKind("secondary_capture") not in all_kinds(
        [destination(results=EXAMINATION)]
    )


def test_labels_name_the_kinds_of_examinations() -> None:
    assert kind_label("exam_report") == "Examination Report"
    reports = {kind_label(each) for each in REPORTS}
    assert reports == {"Structured Report"}
    assert kind_label(ResultKind("exam_summary", lossy=True).name) == (
        "Examination Summary (jpeg)"
    )
