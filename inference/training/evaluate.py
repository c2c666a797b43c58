"""Compute performance figures of a classifier, overall and by subgroup."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.finding import OperatingPoint
from inference.training.froc import arrows_of_card, froc
from inference.training.judging import MARGIN, Judged
from inference.training.statistics import (
    RESAMPLED,
    auc,
    average_precision,
    brier,
    calibration_error,
    interval,
    reliability,
    share,
    specificity_at_sensitivity,
)

FEW = 200
"""Number of bootstrap resamples for a subgroup."""

SMALL, LARGE = 0.06, 0.12
"""Limits between the size groups of fractures. The size of a fracture is the width of
its box as a share of the image width, or its height as a share of the image height,
whichever is larger."""

Rows = NDArray[np.intp]

OnFigure = Callable[[], None]
"""A function that is called after each figure, to show the progress. The bootstrap of a
figure takes seconds."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Results as columns, with one row for each radiograph."""

    truth: NDArray[np.bool_]
    marked: NDArray[np.bool_]  # fractures with a box
    probability: NDArray[np.float64]
    doubtful: NDArray[np.bool_]  # or definite
    definite: NDArray[np.bool_]
    pointed: NDArray[np.bool_]  # the first arrow is in a box
    any_pointed: NDArray[np.bool_]  # one of the arrows is in a box
    heat_inside: NDArray[np.float64]
    accepted: NDArray[np.bool_]


def evaluation(
    judged: Sequence[Judged], on_figure: OnFigure = _nothing
) -> dict[str, Any]:
    """Return the figures of an evaluation, overall and by subgroup.

    Args:
        judged: The results for the radiographs.
        on_figure: Called after each figure, `figures_in(judged)` times in all.

    Returns:
        A JSON-compatible dictionary: `margin` is MARGIN, `overall` contains the figures
            of all radiographs (see `figures`), `subgroups` contains figures by trait
            and value, `froc` is the result of `froc.froc`, and `reliability` is the
            result of `statistics.reliability` for the radiographs that were not
            refused. A figure is [value, low, high], or None if it is undefined. `low`
            and `high` are the ends of the 95 % interval from a bootstrap that draws
            whole groups (`Sample.group`).
    """
    table = _table([each for each in judged if not each.refused])
    return {
        "margin": MARGIN,
        "overall": figures(judged, RESAMPLED, on_figure),
        "froc": froc(judged, RESAMPLED),
        "reliability": reliability(table.truth, table.probability),
        "subgroups": {
            trait: {
                value: figures(part, FEW, on_figure)
                for value, part in sorted(parts.items())
            }
            for trait, parts in subgroups(judged).items()
        },
    }


def figures_in(judged: Sequence[Judged]) -> int:
    """Return the number of figures that an evaluation computes."""
    groups = sum(len(parts) for parts in subgroups(judged).values())
    return FIGURES * (1 + groups)


def figures(
    judged: Sequence[Judged], resampled: int, on_figure: OnFigure = _nothing
) -> dict[str, Any]:
    """Return the performance figures of some radiographs.

    A radiograph that the classifier refuses counts as negative: a fracture is missed,
    and a radiograph without a fracture is no false alarm. Figures that are computed
    from probabilities exclude refused radiographs.

    Args:
        judged: The results for the radiographs.
        resampled: Number of bootstrap resamples. If it is 0, the ends of the intervals
            are NaN.
        on_figure: Called after each figure.

    Returns:
        The counts `radiographs` and `fractured`, and each figure by name as [value,
            low, high]. A figure is None if it is undefined.
    """
    return _counted([judged], resampled, on_figure)


def means(
    parts: Sequence[Sequence[Judged]], resampled: int, on_figure: OnFigure = _nothing
) -> dict[str, Any]:
    """Return the mean of each figure over several folds, with its interval.

    Args:
        parts: The results of each fold.
        resampled: Number of bootstrap resamples.
        on_figure: Called after each figure.

    Returns:
        A dictionary as from `figures`, with the counts of all folds together. A figure
            is None if it is undefined in at least one fold.
    """
    return _counted(parts, resampled, on_figure)


def _counted(
    parts: Sequence[Sequence[Judged]], resampled: int, on_figure: OnFigure
) -> dict[str, Any]:
    judged = [*chain(*parts)]
    table = _table(judged)
    fold = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    groups = [each.sample.group for each in judged]

    def mean(figure: Figure, rows: Rows) -> float:
        each = (rows[fold[rows] == number] for number in range(len(parts)))
        return float(np.mean([figure(table, in_fold) for in_fold in each]))

    counted: dict[str, Any] = {
        "radiographs": len(judged),
        "fractured": int(table.truth.sum()),
    }
    for name, figure in _FIGURES.items():
        counted[name] = _triple(partial(mean, figure), groups, resampled)
        on_figure()
    return counted


def _triple(
    figure: Callable[[Rows], float], groups: Sequence[str], resampled: int
) -> list[float] | None:
    """Return a figure of all rows with its interval; None if it is undefined.

    Args:
        figure: Computes the figure from the indices of rows.
        groups: The group of each row.
        resampled: Number of bootstrap resamples.
    """
    value = figure(np.arange(len(groups)))
    low, high = interval(figure, groups, resampled)
    return None if np.isnan(value) else [round(x, 4) for x in (value, low, high)]


def comparison(
    judged: Sequence[Judged], others: Sequence[Judged], on_figure: OnFigure = _nothing
) -> dict[str, Any]:
    """Return the comparison of two models on the same radiographs.

    Args:
        judged: The results of one model.
        others: The results of another model for the same radiographs, in the same
            order.
        on_figure: Called after each figure, 2 * FIGURES times in all.

    Returns:
        A JSON-compatible dictionary. `overall` contains the figures of `others`, as
            `figures` returns them. `difference` contains each figure of `judged` minus
            that of `others`, as [difference, low, high]; None if it is undefined. `low`
            and `high` are the ends of the 95 % interval from a bootstrap that draws the
            same groups for both models.
    """
    table, other = _table(judged), _table(others)
    groups = [each.sample.group for each in judged]

    def difference(figure: Figure, rows: Rows) -> float:
        return figure(table, rows) - figure(other, rows)

    differences: dict[str, Any] = {}
    for name, figure in _FIGURES.items():
        differences[name] = _triple(partial(difference, figure), groups, RESAMPLED)
        on_figure()
    overall = figures(others, RESAMPLED, on_figure)
    return {"overall": overall, "difference": differences}


def subgroups(judged: Sequence[Judged]) -> Mapping[str, Mapping[str, list[Judged]]]:
    """Return the results by trait and value.

    The traits are those of the manifest, the size of the largest fracture, and the body
    part of radiographs without hardware. If the manifest has a column `age`, with the
    age in years, the values of this trait are bands of ages. Each group of fractures by
    size also contains all radiographs without a fracture. Traits with only one value
    are omitted. Traits with more than MOST_VALUES values are omitted, except those in
    ALWAYS.
    """
    found: dict[str, dict[str, list[Judged]]] = {}
    for each in judged:
        for trait, value in _traits(each):
            found.setdefault(trait, {}).setdefault(value, []).append(each)
    # Fractures of each size are compared with all radiographs without a fracture.
    intact = [each for each in judged if not each.sample.is_fractured]
    for size in found.get(SIZE, {}).values():
        size.extend(intact)
    # Omit traits with a single value, and those with many, such as the width.
    return {
        trait: parts
        for trait, parts in found.items()
        if len(parts) > 1 and (trait in ALWAYS or len(parts) <= MOST_VALUES)
    }


MOST_VALUES = 12
ALWAYS = {"body_part", "views"}
AGE = "age"
UNKNOWN = "unknown"
AGES = 18, 40, 65
"""Lower limits of the bands of ages, in years. The youngest band has no lower limit."""

SIZE = "largest fracture"


def _traits(judged: Judged) -> Iterator[tuple[str, str]]:
    sample = judged.sample
    for trait, value in sample.traits.items():
        yield trait, _age_band(value) if trait == AGE else value
    if sample.traits.get("hardware") == "0":
        yield "without hardware, by body part", sample.traits.get("body_part", "")
    if sample.boxes:
        yield SIZE, _size(max(_long_side(box) for box in sample.boxes))


def _age_band(written: str) -> str:
    """Return the band of an age in years; "unknown" if it is negative or no number."""
    try:
        age = float(written)
    except ValueError:
        return UNKNOWN
    if not age >= 0:  # or not a number
        return UNKNOWN
    lower = [limit for limit in AGES if age >= limit]
    upper = [limit for limit in AGES if age < limit]
    if not lower:
        return f"under {AGES[0]}"
    return f"{lower[-1]} to {upper[0] - 1}" if upper else f"{AGES[-1]} and over"


def _long_side(box: tuple[float, float, float, float]) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _size(long_side: float) -> str:
    if long_side < SMALL:
        return f"under {SMALL:.0%} of the side"
    return f"over {LARGE:.0%}" if long_side > LARGE else f"{SMALL:.0%} to {LARGE:.0%}"


def _table(judged: Sequence[Judged]) -> _Table:
    points = [each.operating_point for each in judged]
    return _Table(
        np.array([each.sample.is_fractured for each in judged], bool),
        np.array([bool(each.sample.boxes) for each in judged], bool),
        np.array([each.probability for each in judged], np.float64),
        np.array([point is not OperatingPoint.NONE for point in points], bool),
        np.array([point is OperatingPoint.DEFINITE for point in points], bool),
        np.array([each.pointed for each in judged], bool),
        np.array(
            [any(arrow.boxes for arrow in arrows_of_card(each)) for each in judged],
            bool,
        ),
        np.array([each.heat_inside for each in judged], np.float64),
        np.array([not each.refused for each in judged], bool),
    )


def _sensitivity(column: str, table: _Table, rows: Rows) -> float:
    return share(getattr(table, column)[rows][table.truth[rows]])


def _specificity(column: str, table: _Table, rows: Rows) -> float:
    return share(~getattr(table, column)[rows][~table.truth[rows]])


def _heat(table: _Table, rows: Rows) -> float:
    heat = table.heat_inside[rows][table.marked[rows]]
    defined = heat[~np.isnan(heat)]
    return float(defined.mean()) if defined.size else float("nan")


Figure = Callable[[_Table, Rows], float]


def _of_accepted(
    figure: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
) -> Figure:
    """Return a function that computes `figure` without refused radiographs.

    The function returns NaN if all radiographs were refused.
    """

    def of(table: _Table, rows: Rows) -> float:
        kept = rows[table.accepted[rows]]
        if not kept.size:
            return float("nan")
        return figure(table.truth[kept], table.probability[kept])

    return of


_FIGURES: dict[str, Figure] = {
    "answered": lambda t, rows: share(t.accepted[rows]),
    "auc": _of_accepted(auc),
    "average_precision": _of_accepted(average_precision),
    "specificity_at_sensitivity_90": _of_accepted(specificity_at_sensitivity),
    "sensitivity_doubtful": partial(_sensitivity, "doubtful"),
    "specificity_doubtful": partial(_specificity, "doubtful"),
    "sensitivity_definite": partial(_sensitivity, "definite"),
    "specificity_definite": partial(_specificity, "definite"),
    "calibration_error": _of_accepted(calibration_error),
    "brier": _of_accepted(brier),
    # A fracture without an arrow counts as missed; one without a box is excluded.
    "arrow_in_box": lambda t, rows: share(t.pointed[rows][t.marked[rows]]),
    "any_arrow_in_box": lambda t, rows: share(t.any_pointed[rows][t.marked[rows]]),
    "heat_in_boxes": _heat,
}

FIGURES = len(_FIGURES)
"""Number of figures that `figures` and `means` compute."""
