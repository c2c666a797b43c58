"""The kinds and forms of result objects, and which of them a destination gets."""

from dataclasses import dataclass
from typing import Literal

from config.destinations import Destination

SECONDARY_CAPTURE, NOTICE, HEATMAP = "secondary_capture", "notice", "heatmap"

CAPTURES = SECONDARY_CAPTURE, NOTICE
"""Kinds that are Secondary Captures; each has several forms."""


@dataclass(frozen=True, slots=True, order=True)
class ResultKind:
    """The form of one object to make.

    Attributes:
        kind: "heatmap", "presentation_state", "secondary_capture", "structured_report",
            or "notice", the capture with the reason why there is no result.
        modality: The modality of a capture: "OT", or "source" for that of the image.
        lossy: Whether the pixels of a capture are written as JPEG.
    """

    kind: str
    modality: Literal["OT", "source"] = "OT"
    lossy: bool = False

    @property
    def name(self) -> str:
        """The name in journal and files, such as "secondary_capture-source-jpeg"."""
        unusual = ("source", self.modality == "source"), ("jpeg", self.lossy)
        return "-".join((self.kind, *(name for name, applies in unusual if applies)))


_LABELS = {
    SECONDARY_CAPTURE: "Secondary Capture",
    NOTICE: "Notice",
    HEATMAP: "Heatmap",
    "presentation_state": "Presentation State",
    "structured_report": "Structured Report",
}


def kind_label(name: str) -> str:
    """Return the label for `ResultKind.name`, as in "Secondary Capture (jpeg)"."""
    kind, *unusual = name.split("-")
    label = _LABELS.get(kind, kind or "an object")
    return f"{label} ({', '.join(unusual)})" if unusual else label


def kinds_for(destination: Destination) -> frozenset[ResultKind]:
    """Return the forms of the objects to make for a destination.

    A destination that gets no negative results gets notices in addition to its kinds.
    Otherwise a study without a result would look negative.
    """
    kinds: list[str] = [*destination.results]
    if not destination.send_negative:
        kinds.append(NOTICE)
    lossy = destination.transfer_syntax == "jpeg_baseline"
    return frozenset(
        ResultKind(kind, destination.modality, lossy)
        if kind in CAPTURES
        else ResultKind(kind)
        for kind in kinds
    )
