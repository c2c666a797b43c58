"""The kinds of result objects, and which of them a destination gets."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from config.destinations import Destination

SECONDARY_CAPTURE, NOTICE, HEATMAP = "secondary_capture", "notice", "heatmap"
STRUCTURED_REPORT = "structured_report"

EXAM_SUMMARY, EXAM_REPORT = "exam_summary", "exam_report"
HL7_MESSAGE, EXAM_HL7_MESSAGE = "hl7_message", "exam_hl7_message"

CAPTURES = SECONDARY_CAPTURE, NOTICE
"""Object types that are Secondary Captures of one image.

Each of them has several kinds, which differ in modality and compression.
"""

HL7_MESSAGES = HL7_MESSAGE, EXAM_HL7_MESSAGE
"""Object types that are HL7 messages, not DICOM objects."""

EXAMINATIONS = EXAM_SUMMARY, EXAM_REPORT, EXAM_HL7_MESSAGE
"""Object types that are made for a whole examination instead of one image."""

WITHOUT_RESULT = NOTICE, HL7_MESSAGE
"""Object types that are made if an instance has no answer.

An HL7 message is also made if the instance has an answer.
"""

WITH_RESULT = SECONDARY_CAPTURE, "presentation_state", STRUCTURED_REPORT, HL7_MESSAGE
"""Object types that are made for every finding.

A heatmap is made only if a fracture is reported and the heatmap has a peak.
"""


@dataclass(frozen=True, slots=True, order=True)
class ResultKind:
    """A kind of result object: an object type with its variant.

    Attributes:
        object_type: "heatmap", "presentation_state", "secondary_capture",
            "structured_report", "notice", "hl7_message", "exam_summary",
            "exam_report" or "exam_hl7_message".
        modality: The Modality (0008,0060) of a Secondary Capture: "OT", or "source" for
            the modality of the source.
        lossy: Whether the pixels of a Secondary Capture are written as JPEG.
        with_heatmap: Whether a structured report references the heatmap. A destination
            gets this kind of report if it gets the heatmap, too.
    """

    object_type: str
    modality: Literal["OT", "source"] = "OT"
    lossy: bool = False
    with_heatmap: bool = False

    @property
    def name(self) -> str:
        """The name in the journal and in file names.

        For example, "secondary_capture-source-jpeg".
        """
        unusual = (
            ("source", self.modality == "source"),
            ("jpeg", self.lossy),
            ("heatmap", self.with_heatmap),
        )
        return "-".join(
            (self.object_type, *(name for name, applies in unusual if applies))
        )


_LABELS = {
    SECONDARY_CAPTURE: "Secondary Capture",
    NOTICE: "Notice",
    HEATMAP: "Heatmap",
    "presentation_state": "Presentation State",
    STRUCTURED_REPORT: "Structured Report",
    HL7_MESSAGE: "HL7 Message",
    EXAM_SUMMARY: "Examination Summary",
    EXAM_REPORT: "Examination Report",
    EXAM_HL7_MESSAGE: "Examination HL7 Message",
}


def kind_label(name: str) -> str:
    """Return the label of a kind for users, such as "Secondary Capture (jpeg)".

    Both kinds of structured reports have the same label.

    Args:
        name: `ResultKind.name` of the kind.
    """
    object_type, *unusual = name.split("-")
    label = _LABELS.get(object_type, object_type or "an object")
    details = ", ".join(each for each in unusual if each != HEATMAP)
    return f"{label} ({details})" if details else label


def kinds_for(destination: Destination) -> frozenset[ResultKind]:
    """Return the kinds of objects that a destination gets about each image."""
    types = destination.result_types
    return frozenset(
        _kind(each, destination) for each in types if each not in EXAMINATIONS
    )


def _kind(object_type: str, destination: Destination) -> ResultKind:
    """Return the kind of an object about an image, by the settings of a destination."""
    if object_type in CAPTURES:
        lossy = destination.transfer_syntax == "jpeg_baseline"
        return ResultKind(object_type, destination.modality, lossy)
    is_report = object_type == STRUCTURED_REPORT
    gets_heatmap = HEATMAP in destination.result_types
    return ResultKind(object_type, with_heatmap=is_report and gets_heatmap)


def examination_kinds_for(destination: Destination) -> frozenset[ResultKind]:
    """Return the kinds of objects that a destination gets about each examination.

    The modality of an examination summary is always "OT", because its images may have
    several modalities.
    """
    lossy = destination.transfer_syntax == "jpeg_baseline"
    types = set(destination.result_types) & set(EXAMINATIONS)
    return frozenset(
        ResultKind(each, lossy=lossy and each == EXAM_SUMMARY) for each in types
    )


def wants_summary(destination: Destination) -> bool:
    """Return whether a destination gets objects about examinations."""
    return bool(examination_kinds_for(destination))


def names_for(destination: Destination) -> frozenset[str]:
    """Return `ResultKind.name` of all kinds of objects that a destination gets."""
    kinds = kinds_for(destination) | examination_kinds_for(destination)
    return frozenset(each.name for each in kinds)


def with_stored_reports(
    wanted: Collection[str], stored: Collection[str]
) -> frozenset[str]:
    """Return the kinds of stored objects to send to a destination.

    These are the wanted kinds. If a wanted structured report is not stored, the result
    also has the other kind of structured report, which differs only in the reference to
    the heatmap. For example, the wanted report is not stored if `heatmap` was added to
    the settings of the destination after the report was made.

    Args:
        wanted: The kinds that the destination gets, as `names_for` returns them.
        stored: `ResultKind.name` of each stored object.
    """
    reports = {
        ResultKind(STRUCTURED_REPORT, with_heatmap=each).name for each in (False, True)
    }
    names = frozenset(wanted)
    if names & reports and not names & reports & set(stored):
        return names | reports
    return names


def all_kinds(destinations: Iterable[Destination]) -> tuple[ResultKind, ...]:
    """Return the kinds of objects that at least one destination gets, sorted.

    If there are no destinations, the result contains only the Secondary Capture, which
    the command `analyze` then writes.
    """
    wanted = {
        kind
        for each in destinations
        for kind in kinds_for(each) | examination_kinds_for(each)
    }
    return tuple(sorted(wanted or {ResultKind(SECONDARY_CAPTURE)}))
