"""Grad-CAM: the parts of an image that raised the score of one class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2.

The head is one linear layer and a pooling over the grid. The gradient of a logit with
respect to an activation, averaged over the grid, is therefore the weight of the layer
divided by the number of cells. With average pooling, the gradient is the same in every
cell. With log-sum-exp, the gradients of the cells are weighted by a softmax, and these
weights add up to one. The computation needs no backward pass and stores nothing in the
network, so threads may share the network.
"""

import torch
from torch import Tensor

from models.network import Network


def grad_cam(
    network: Network, tensor: Tensor, label: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the logits of an image and the Grad-CAM map of one class.

    Logits and map are computed in one forward pass.

    Args:
        network: The network, in eval mode.
        tensor: float32, (1, 3, H, W), on the device of the network.
        label: Index of the class for which the map is computed.

    Returns:
        (logits, map, activation). The logits have the shape (classes,). The map has the
            shape (h, w), and is non-negative and not normalized; it is all zeros if no
            part of the image raised the score. The activation is the output of the
            convolutions, (1, K, h, w), from which logits and map are computed.

    Raises:
        ValueError: The tensor does not contain exactly one image.
    """
    if tensor.ndim != 4 or tensor.shape[0] != 1:  # noqa: PLR2004 - (N, C, H, W)
        raise ValueError(
            "grad_cam explains one image at a time: expected a tensor of shape "
            f"(1, 3, S, S), found {tuple(tensor.shape)}; call it for each image."
        )
    with torch.inference_mode():
        activation: Tensor = network.features(tensor)  # (1, K, h, w)
        logits: Tensor = network.head(activation)  # (1, classes)
        cells = activation.shape[2] * activation.shape[3]
        weight = network.linear.weight[label] / cells  # (K,), equation 1
        heatmap = torch.tensordot(weight, activation[0], dims=1)  # (h, w), equation 2
        return logits[0], heatmap.relu(), activation
