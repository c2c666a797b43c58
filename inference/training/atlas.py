"""Read a folder of labelled radiographs: images and a manifest.

The manifest is the file manifest.csv. Its columns are path, label (0 or 1) and
boxes_norm_xyxy (a JSON list of [left, top, right, bottom] in shares of width and
height). The columns group, split and use are optional; rows with `use` = 0 are omitted.
Other columns, such as body_part, are kept for statistics.

The shipped weights were trained on FracAtlas: Abedeen et al., "FracAtlas: A Dataset for
Fracture Classification, Localization and Segmentation of Musculoskeletal Radiographs",
Scientific Data 10, 2023.
"""

import csv
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.plain_image import PlainImageError, read_plain_image
from inference.radiograph import Radiograph

MAX_MEGAPIXELS = 100

FOLDS = 5
"""Default number of folds in training."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom), right and bottom exclusive. Each user of the type states
the unit: pixels, or shares of the width and the height of the image."""


class ManifestError(Exception):
    """The radiographs or their manifest cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a manifest.

    Attributes:
        path: The path of the image.
        is_fractured: Whether the radiograph is labelled as fractured.
        boxes: Bounding boxes of the fractures, in shares of width and height.
        group: Name of the group of the image. Images of a group may show the same
            patient and are always in the same fold.
        split: "train", "val" or another name from the manifest; may be empty.
        traits: The other columns by name, for statistics by subgroup.
    """

    path: Path
    is_fractured: bool
    boxes: tuple[Box, ...]
    group: str
    split: str
    traits: Mapping[str, str]

    def read(self) -> Radiograph:
        """Return the image, as `read_plain_image` reads it.

        Raises:
            ManifestError: The image cannot be read.
        """
        try:
            content = self.path.read_bytes()
            return read_plain_image(content, max_megapixels=MAX_MEGAPIXELS)
        except (OSError, PlainImageError) as error:
            raise ManifestError(
                f"{self.path}: {error} Repair it, or set `use` to 0 in its row."
            ) from None


def read_manifest(folder: Path, excluded: Collection[str] = ()) -> tuple[Sample, ...]:
    """Return the rows of a folder's manifest as samples, without reading the images.

    Rows with `use` = 0 are omitted.

    Args:
        folder: The folder of the manifest.
        excluded: Values of the column `path`; their rows are omitted, too.

    Raises:
        ManifestError: There is no manifest, columns are missing, or rows are invalid,
            for example because an image does not exist. Also raised if the manifest
            has no row for a path in `excluded`.
    """
    path = folder / "manifest.csv"
    rows = _rows(path)
    missing = {"path", "label", "boxes_norm_xyxy"} - set(rows[0] if rows else ())
    if missing:
        names = ", ".join(sorted(missing))
        raise ManifestError(f"{path} is empty, or lacks the columns {names}.")
    if unknown := set(excluded) - {row["path"] for row in rows}:
        raise ManifestError(
            f"{path} has no row for {len(unknown)} paths that are to be excluded, "
            f"such as {min(unknown)}. Use the list that belongs to this manifest."
        )
    samples, problems = [], []
    paths: set[Path] = set()
    for number, row in enumerate(rows, start=2):
        if row.get("use") == "0" or row["path"] in excluded:
            continue
        try:
            sample = _sample(folder, row)
        except (ValueError, TypeError) as error:
            problems.append(f"  line {number}: {error}")
            continue
        if not sample.path.is_file():
            problems.append(f"  line {number}: {row['path']} does not exist")
        if sample.path in paths:
            problems.append(f"  line {number}: {row['path']} is listed twice")
        paths.add(sample.path)
        samples.append(sample)
    if problems:
        listed = "\n".join(problems[:8])
        rest = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""  # noqa: PLR2004
        raise ManifestError(f"{path}: {len(problems)} rows are wrong:\n{listed}{rest}")
    return tuple(samples)


def read_excluded(path: Path) -> frozenset[str]:
    """Return the column `path` of a CSV file; its other columns are for people.

    Raises:
        ManifestError: The file cannot be read, is empty or lacks the column.
    """
    rows = _rows(path)
    if "path" not in (rows[0] if rows else ()):
        raise ManifestError(f"{path} is empty, or lacks the column path.")
    return frozenset(row["path"] for row in rows)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        # Spreadsheets write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise ManifestError(
            f"{path} cannot be read: {error.strerror}. Name a folder with a "
            "manifest.csv and the images it lists."
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{path} cannot be read as CSV: {error}. Save it as UTF-8 with commas."
        ) from None


def folds(samples: Sequence[Sample], count: int) -> tuple[tuple[Sample, ...], ...]:
    """Return `count` folds with similar numbers of images and of fractured images.

    A group is never divided. The result is deterministic. Groups are assigned in
    decreasing order of fractured images, each to the fold with the fewest fractured
    images. If several folds have equally few, the fold with the fewest images is
    chosen. Groups without fractures are assigned last, each to the fold with the fewest
    images.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    parts: list[list[Sample]] = [[] for _ in range(count)]
    by_fractures = sorted(groups.items(), key=lambda g: (-_fractured(g[1]), g[0]))
    for _, group in by_fractures:
        least = min(parts, key=lambda part: (_fractured(part), len(part)))
        if not _fractured(group):
            least = min(parts, key=len)
        least.extend(group)
    return tuple(tuple(part) for part in parts)


def select_split(
    samples: Sequence[Sample], split: str, count: int = FOLDS
) -> tuple[Sample, ...]:
    """Return the samples of a split.

    Args:
        samples: All samples of a folder.
        split: A split of the manifest; or "fold-1", "fold-2" and so on for a fold of a
            training with the same samples, if the manifest has no split of this name;
            or "" for all samples.
        count: Number of folds of that training.

    Returns:
        The samples; empty if there is no split or fold of this name.
    """
    in_split = tuple(each for each in samples if not split or each.split == split)
    parts = folds(samples, count)
    held_out = {f"fold-{number}": part for number, part in enumerate(parts, start=1)}
    return in_split or held_out.get(split, ())


def _fractured(samples: Sequence[Sample]) -> int:
    return sum(sample.is_fractured for sample in samples)


def _sample(folder: Path, row: Mapping[str, str]) -> Sample:
    if None in row or None in row.values():
        raise ValueError("more or fewer fields than the header")
    boxes = tuple(_boxes(row["boxes_norm_xyxy"]))
    if row["label"] not in {"0", "1"}:
        raise ValueError(f"label is {row['label']!r}; expected 0 or 1")
    is_fractured = row["label"] == "1"
    if boxes and not is_fractured:
        raise ValueError("found boxes, but label is 0")
    used = {"path", "label", "boxes_norm_xyxy", "group", "split", "use"}
    return Sample(
        path=folder / row["path"],
        is_fractured=is_fractured,
        boxes=boxes,
        group=row.get("group") or row["path"],
        split=row.get("split", ""),
        traits={name: value for name, value in row.items() if name not in used},
    )


def _boxes(text: str) -> Iterator[Box]:
    for box in json.loads(text or "[]"):
        left, top, right, bottom = (float(np.clip(edge, 0, 1)) for edge in box)
        if left >= right or top >= bottom:
            raise ValueError(f"a box without area: {box}")
        yield left, top, right, bottom
