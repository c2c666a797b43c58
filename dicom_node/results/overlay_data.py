"""The parts of a finding that the journal stores to draw overlays of any size."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.finding import Arrow, Finding


@dataclass(frozen=True, slots=True, eq=False)
class OverlayData:
    """The heatmap, the arrow and the thresholds of a finding.

    Attributes:
        picture_shape: (rows, columns) of the radiograph as displayed.
        arrow: The arrow in pixels of that radiograph; None if there is none.
        doubtful: Minimum probability of a doubtful fracture, in [0, 1].
        definite: Minimum probability of a definite fracture, in [0, 1].
        levels: The heatmap, uint8, (h, w), 0 to 255, at the resolution of the network
            input. It covers the whole radiograph.
    """

    picture_shape: tuple[int, int]
    arrow: Arrow | None
    doubtful: float
    definite: float
    levels: NDArray[np.uint8]

    def values(self) -> dict[str, Any]:
        """Return the values for the journal's table of findings, by column name."""
        arrow = self.arrow and json.dumps([self.arrow.tip, self.arrow.tail])
        return {
            "picture_rows": self.picture_shape[0],
            "picture_columns": self.picture_shape[1],
            "arrow": arrow or "",
            "doubtful": self.doubtful,
            "definite": self.definite,
            "map_rows": self.levels.shape[0],
            "map_columns": self.levels.shape[1],
            "map": zlib.compress(self.levels.tobytes()),
        }


def overlay_of(finding: Finding, picture_shape: tuple[int, int]) -> OverlayData:
    """Return the parts of a finding that the journal stores.

    Args:
        finding: The finding on the radiograph.
        picture_shape: (rows, columns) of the radiograph as displayed.
    """
    levels = np.rint(np.clip(finding.saliency, 0, 1) * 255).astype(np.uint8)
    points = finding.thresholds
    return OverlayData(
        picture_shape, finding.arrow, points.doubtful, points.definite, levels
    )


def overlay_in(columns: Mapping[Any, Any]) -> OverlayData:
    """Return the OverlayData in a row with the columns of `OverlayData.values`."""
    ends = json.loads(columns["arrow"]) if columns["arrow"] else None
    arrow = ends and Arrow(*(tuple(end) for end in ends))
    levels = np.frombuffer(zlib.decompress(columns["map"]), np.uint8)
    return OverlayData(
        (columns["picture_rows"], columns["picture_columns"]),
        arrow,
        columns["doubtful"],
        columns["definite"],
        levels.reshape(columns["map_rows"], columns["map_columns"]),
    )
