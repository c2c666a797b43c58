"""A GPU gives the same findings as a CPU."""

import math

import pytest
import torch

from inference.classification.classifier import Classifier, self_test
from inference.phantom.long_bone import draw_phantom

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU here"
)


@pytest.fixture(scope="module")
def both() -> tuple[Classifier, Classifier]:
    return Classifier.load(None, "cpu"), Classifier.load(None, "cuda")


@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_finding_and_arrow_on_a_gpu_equal_those_on_a_cpu(
    both: tuple[Classifier, Classifier], seed: int, *, broken: bool
) -> None:
    drawn = draw_phantom(broken=broken, rows=600, columns=480, seed=seed)

    on_cpu, on_gpu = (each.classify(drawn.radiograph()) for each in both)

    assert on_gpu.probability == pytest.approx(on_cpu.probability, abs=1e-3)
    assert on_gpu.operating_point == on_cpu.operating_point
    assert (on_gpu.arrow is None) == (on_cpu.arrow is None)
    if on_gpu.arrow and on_cpu.arrow:
        assert math.dist(on_gpu.arrow.tip, on_cpu.arrow.tip) <= 2


def test_the_self_test_passes(both: tuple[Classifier, Classifier]) -> None:
    self_test(both[1])
