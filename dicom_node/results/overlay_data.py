"""The parts of a finding that the journal stores to draw overlays of any size."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.finding import (
    Arrow,
    Finding,
    Location,
    OperatingPoint,
    Thresholds,
)


@dataclass(frozen=True, slots=True, eq=False)
class OverlayData:
    """The heatmap, the locations and the thresholds of a finding.

    Attributes:
        picture_shape: (rows, columns) of the radiograph as displayed.
        locations: The locations of the finding, in pixels of that radiograph.
        doubtful: Minimum probability of a doubtful fracture, in [0, 1].
        definite: Minimum probability of a definite fracture, in [0, 1].
        levels: The heatmap, uint8, (h, w), 0 to 255, at the resolution of the network
            input. It covers the whole radiograph.
    """

    picture_shape: tuple[int, int]
    locations: tuple[Location, ...]
    doubtful: float
    definite: float
    levels: NDArray[np.uint8]

    def values(self) -> dict[str, Any]:
        """Return the values for the journal's table of findings, by column name."""
        arrows = [[each.arrow.tip, each.arrow.tail] for each in self.locations]
        return {
            "picture_rows": self.picture_shape[0],
            "picture_columns": self.picture_shape[1],
            "arrow": json.dumps(arrows[0]) if arrows else "",
            "doubtful": self.doubtful,
            "definite": self.definite,
            "map_rows": self.levels.shape[0],
            "map_columns": self.levels.shape[1],
            "map": zlib.compress(self.levels.tobytes()),
            "locations": json.dumps([*map(_columns, self.locations)]),
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
        picture_shape, finding.locations, points.doubtful, points.definite, levels
    )


def overlay_in(columns: Mapping[Any, Any], probability: float | None) -> OverlayData:
    """Return the OverlayData in a row with the columns of `OverlayData.values`.

    Args:
        columns: The row. `locations` is None if the previous release wrote it.
        probability: The probability of the finding, in [0, 1]; None if there is none.
            It is the score of a location that the previous release wrote.
    """
    thresholds = Thresholds(columns["doubtful"], columns["definite"])
    levels = np.frombuffer(zlib.decompress(columns["map"]), np.uint8)
    return OverlayData(
        (columns["picture_rows"], columns["picture_columns"]),
        _locations(columns, probability or 0.0, thresholds),
        thresholds.doubtful,
        thresholds.definite,
        levels.reshape(columns["map_rows"], columns["map_columns"]),
    )


def _locations(
    columns: Mapping[Any, Any], probability: float, thresholds: Thresholds
) -> tuple[Location, ...]:
    if columns["locations"] is not None:
        return tuple(map(_location, json.loads(columns["locations"])))
    if not columns["arrow"]:
        return ()
    tip, tail = json.loads(columns["arrow"])
    point = thresholds.operating_point(probability)
    return (Location(Arrow(tuple(tip), tuple(tail)), probability, point),)


def _columns(location: Location) -> dict[str, Any]:
    return {
        "tip": location.arrow.tip,
        "tail": location.arrow.tail,
        "score": location.score,
        "operating_point": location.operating_point,
    }


def _location(stored: Mapping[str, Any]) -> Location:
    arrow = Arrow(tuple(stored["tip"]), tuple(stored["tail"]))
    return Location(arrow, stored["score"], OperatingPoint(stored["operating_point"]))
