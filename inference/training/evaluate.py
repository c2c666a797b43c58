"""How well weights find the break in drawn bones that they have never seen."""

from collections.abc import Iterator
from dataclasses import dataclass

from inference.classifier import Classifier
from inference.finding import Arrow
from inference.training.dataset import random_phantom

LONG_SIDES = 250, 1400


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer for one phantom.

    Attributes:
        broken: Whether its bone is.
        probability: Of a fracture, as answered.
        answered: Whether a fracture was reported.
        pointed: Whether the arrow's tip lies in the bounding box of the break.
    """

    broken: bool
    probability: float
    answered: bool
    pointed: bool


def judge_phantoms(classifier: Classifier, seeds: range) -> Iterator[Judged]:
    """Answer for phantoms, every other one broken.

    Args:
        classifier: With the weights in question.
        seeds: One a phantom; training uses those from train.FIRST_SEED on.
    """
    for seed in seeds:
        broken = seed % 2 == 0
        radiograph, box = random_phantom(seed, broken=broken, long_sides=LONG_SIDES)
        finding = classifier.classify(radiograph)
        pointed = box is not None and _inside(finding.arrow, box)
        yield Judged(broken, finding.probability, finding.is_fracture, pointed)


def summary(judged: list[Judged]) -> dict[str, float]:
    """Count: shares in [0, 1], of broken or of whole phantoms."""
    broken = [each for each in judged if each.broken]
    whole = [each for each in judged if not each.broken]
    return {
        "phantoms": len(judged),
        "sensitivity": sum(each.answered for each in broken) / max(len(broken), 1),
        "specificity": sum(not each.answered for each in whole) / max(len(whole), 1),
        "arrow_in_box": sum(each.pointed for each in broken) / max(len(broken), 1),
    }


def _inside(arrow: Arrow | None, box: tuple[int, int, int, int]) -> bool:
    if arrow is None:
        return False
    (column, row), (left, top, right, bottom) = arrow.tip, box
    return left <= column <= right and top <= row <= bottom
