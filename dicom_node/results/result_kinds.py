"""The kinds of result objects, and which of them a destination gets."""

from dataclasses import dataclass
from typing import Literal

from config.destinations import Destination

SECONDARY_CAPTURE, NOTICE, HEATMAP = "secondary_capture", "notice", "heatmap"
HL7_MESSAGE = "hl7_message"

CAPTURES = SECONDARY_CAPTURE, NOTICE
"""Object types that are Secondary Captures. Each of them has several kinds."""

WITHOUT_RESULT = NOTICE, HL7_MESSAGE
"""Object types that report that an instance has no result."""

WITH_RESULT = SECONDARY_CAPTURE, "presentation_state", "structured_report", HL7_MESSAGE
"""Object types that are made for every finding.

A heatmap is omitted if there is nothing to show.
"""


@dataclass(frozen=True, slots=True, order=True)
class ResultKind:
    """A kind of result object.

    Attributes:
        object_type: "heatmap", "presentation_state", "secondary_capture",
            "structured_report", "notice" or "hl7_message".
        modality: The Modality (0008,0060) of a Secondary Capture: "OT", or "source" for
            the modality of the source.
        lossy: Whether the pixels of a Secondary Capture are written as JPEG.
    """

    object_type: str
    modality: Literal["OT", "source"] = "OT"
    lossy: bool = False

    @property
    def name(self) -> str:
        """The name in the journal and in file names.

        For example, "secondary_capture-source-jpeg".
        """
        unusual = ("source", self.modality == "source"), ("jpeg", self.lossy)
        return "-".join(
            (self.object_type, *(name for name, applies in unusual if applies))
        )


_LABELS = {
    SECONDARY_CAPTURE: "Secondary Capture",
    NOTICE: "Notice",
    HEATMAP: "Heatmap",
    "presentation_state": "Presentation State",
    "structured_report": "Structured Report",
    HL7_MESSAGE: "HL7 Message",
}


def kind_label(name: str) -> str:
    """Return the label for `ResultKind.name`, as in "Secondary Capture (jpeg)"."""
    object_type, *unusual = name.split("-")
    label = _LABELS.get(object_type, object_type or "an object")
    return f"{label} ({', '.join(unusual)})" if unusual else label


def kinds_for(destination: Destination) -> frozenset[ResultKind]:
    """Return the kinds of the objects to make for a destination."""
    lossy = destination.transfer_syntax == "jpeg_baseline"
    return frozenset(
        ResultKind(each, destination.modality, lossy)
        if each in CAPTURES
        else ResultKind(each)
        for each in destination.result_types
    )
