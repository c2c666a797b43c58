"""Which objects a destination gets, of all that can be made."""

from dataclasses import dataclass
from typing import Literal

from config.destinations import Destination

SECONDARY_CAPTURE, NOTICE, HEATMAP = "secondary_capture", "notice", "heatmap"

CAPTURES = SECONDARY_CAPTURE, NOTICE
"""Kinds that are pictures of ours, of which there are several forms."""


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """One object that is to be made.

    Attributes:
        kind: "heatmap", "presentation_state", "secondary_capture",
            "structured_report", or "notice", the capture that says why there is no
            answer.
        modality: Of a capture: "OT", or "source", that of the image.
        lossy: Whether the pixels of a capture are written as JPEG.
    """

    kind: str
    modality: Literal["OT", "source"] = "OT"
    lossy: bool = False

    @property
    def name(self) -> str:
        """What journal and files call it: the kind, and what is unusual about it."""
        unusual = ("source", self.modality == "source"), ("jpeg", self.lossy)
        return "-".join((self.kind, *(word for word, is_so in unusual if is_so)))


_SPOKEN = {
    SECONDARY_CAPTURE: "Secondary Capture",
    NOTICE: "Notice",
    HEATMAP: "Heatmap",
    "presentation_state": "Presentation State",
    "structured_report": "Structured Report",
}


def spoken_kind(name: str) -> str:
    """Return the label of the object that has this name in the journal."""
    kind, *unusual = name.split("-")
    words = _SPOKEN.get(kind, kind or "an object")
    return f"{words} ({', '.join(unusual)})" if unusual else words


def forms(destination: Destination) -> frozenset[Form]:
    """List what is made for a destination.

    Where negative answers are not sent, notices are, whatever else is: silence would
    read as negative.
    """
    kinds: list[str] = [*destination.results]
    if not destination.send_negative:
        kinds.append(NOTICE)
    lossy = destination.transfer_syntax == "jpeg_baseline"
    return frozenset(
        Form(kind, destination.modality, lossy) if kind in CAPTURES else Form(kind)
        for kind in kinds
    )
