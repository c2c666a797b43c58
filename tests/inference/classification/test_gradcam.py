"""Grad-CAM on networks with known maps, and compared with the package grad-cam."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from inference.classification.gradcam import grad_cam
from inference.training.draft import DRAFT
from models.network import Head, Network, build_network, split_network

BRIGHT, DARK = 0, 1


def brightness_network() -> Network:
    """Return a network that scores mean brightness m: m for BRIGHT, 5 - m for DARK."""
    linear = nn.Linear(1, 2)
    linear.weight = nn.Parameter(torch.tensor([[1.0], [-1.0]]))
    linear.bias = nn.Parameter(torch.tensor([0.0, 5.0]))
    same = nn.Sequential(OrderedDict(same=nn.Identity()))
    return Network(same, Head(linear, "average"))


@pytest.fixture
def bright_corner() -> torch.Tensor:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 3] = 2.0
    return image


def test_map_is_weight_times_activation_per_cell(
    bright_corner: torch.Tensor,
) -> None:
    logits, heatmap, _ = grad_cam(brightness_network(), bright_corner, BRIGHT)

    # The score is the mean of 16 cells, so each adds 1/16 of its brightness.
    torch.testing.assert_close(heatmap, bright_corner[0, 0] / 16)
    torch.testing.assert_close(logits, torch.tensor([2 / 16, 5 - 2 / 16]))


def test_map_is_zero_if_no_cell_raises_the_score(
    bright_corner: torch.Tensor,
) -> None:
    _, heatmap, _ = grad_cam(brightness_network(), bright_corner, DARK)

    assert not heatmap.any()


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (0, 1, 4, 4), (1, 4, 4), (4, 4)])
def test_input_that_is_not_one_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(1, 3, S, S\)"):
        grad_cam(brightness_network(), torch.zeros(shape), BRIGHT)


PeerMap = Callable[[nn.Module, nn.Module, torch.Tensor, int], NDArray[np.float64]]


@pytest.fixture(scope="module")
def peer_map() -> PeerMap:
    """A function that computes the Grad-CAM map of a label with the package grad-cam.

    The map has a value for each cell of the layer's output. Negative values are
    replaced by 0. The arguments of the function are the network, the layer, the image
    and the label.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The import takes a second. Most test processes do not run these tests.
        from pytorch_grad_cam import GradCAM  # noqa: PLC0415
        from pytorch_grad_cam.utils.model_targets import (  # noqa: PLC0415
            ClassifierOutputTarget,
        )

    class RawGradCAM(GradCAM):  # type: ignore[misc]
        """GradCAM with an attribute `raw`: the last map, before it was enlarged."""

        raw: NDArray[np.float64]

        def get_cam_image(self, *arguments: object) -> NDArray[np.float64]:
            self.raw = super().get_cam_image(*arguments)
            return self.raw

    def found(
        network: nn.Module, layer: nn.Module, image: torch.Tensor, label: int
    ) -> NDArray[np.float64]:
        with RawGradCAM(network, [layer]) as peer:
            peer(image, [ClassifierOutputTarget(label)], eigen_smooth=False)
            return np.maximum(peer.raw[0], 0)

    return found


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("label", [0, 1])
def test_map_equals_that_of_the_package_grad_cam(
    architecture: str, label: int, peer_map: PeerMap
) -> None:
    card = replace(DRAFT, architecture=architecture)
    with torch.random.fork_rng():
        torch.manual_seed(17)  # with this seed, every map has a peak
        # Double precision makes rounding errors of the sums negligible.
        whole = build_network(card).double().eval()
        image = torch.randn(1, 3, 160, 96, dtype=torch.double)
    network = split_network(whole, replace(DRAFT, pooling="average", scales=(1,)))
    expected = peer_map(whole, whole.layer4, image, label)

    logits, heatmap, _ = grad_cam(network, image, label)

    found = heatmap.numpy()
    assert found.shape == (5, 3)
    assert expected.max() > 0
    np.testing.assert_allclose(
        found / found.max(), expected / expected.max(), rtol=1e-5, atol=1e-9
    )
    torch.testing.assert_close(logits, whole(image)[0].detach())


@pytest.mark.parametrize("scales", [(1,), (1, 2)])
@pytest.mark.parametrize("label", [0, 1])
def test_map_of_pooled_scores_equals_that_of_the_package_grad_cam(
    label: int, scales: tuple[int, ...], peer_map: PeerMap
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(19)  # with this seed, every map has a peak
        whole = build_network(DRAFT).double().eval()
        image = torch.randn(1, 3, 160, 96, dtype=torch.double)
    network = split_network(whole, replace(DRAFT, scales=scales))
    chain = nn.Sequential(network.features, network.head)
    expected = peer_map(chain, network.features, image, label)

    logits, heatmap, _ = grad_cam(network, image, label)

    found = heatmap.numpy()
    assert found.shape == (10, 6)
    assert expected.max() > 0
    np.testing.assert_allclose(
        found / found.max(), expected / expected.max(), rtol=1e-5, atol=1e-9
    )
    # The logits are the logarithm of the mean of exp of the cell scores.
    cells = network.head.scores(network.features(image)).flatten(2)
    torch.testing.assert_close(logits, cells.exp().mean(dim=2).log()[0])
