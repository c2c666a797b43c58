"""A GPU gives the answers of a CPU."""

import math

import pytest
import torch

from inference.classifier import Classifier, self_test
from inference.phantom import draw_phantom

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU here"
)


@pytest.fixture(scope="module")
def both() -> tuple[Classifier, Classifier]:
    return Classifier.load(None, "cpu"), Classifier.load(None, "cuda")


@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_answer_and_arrow_are_those_of_a_cpu(
    both: tuple[Classifier, Classifier], seed: int, *, broken: bool
) -> None:
    drawn = draw_phantom(broken=broken, rows=600, columns=480, seed=seed)

    there, here = (each.classify(drawn.radiograph()) for each in both)

    assert here.probability == pytest.approx(there.probability, abs=1e-3)
    assert here.operating_point == there.operating_point
    assert (here.arrow is None) == (there.arrow is None)
    if here.arrow and there.arrow:
        assert math.dist(here.arrow.tip, there.arrow.tip) <= 2


def test_the_self_test_passes(both: tuple[Classifier, Classifier]) -> None:
    self_test(both[1])
