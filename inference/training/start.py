"""Weights to start a training from: what some network learned from other pictures."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import resnet18

from models.card import ModelError

USED = "conv1.", "bn1.", "layer1.", "layer2.", "layer3."
"""Beginnings of the names of the layers that may come with weights."""


def read_start(path: Path) -> dict[str, Tensor]:
    """Read the weights that a training can use.

    Args:
        path: A .npz of a torchvision ResNet18's weights by their names, or of some.

    Raises:
        ModelError: It cannot be read, holds none that are used, or of another shape.
    """
    try:
        with np.load(path) as file:
            given = {name: file[name] for name in file.files if name.startswith(USED)}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"--start names {path}, which cannot be read as a .npz of arrays: {error}"
        ) from None
    with torch.device("meta"):
        known = resnet18().state_dict()
    wrong = [
        f"  {name}: shape {value.shape}, expected {tuple(known[name].shape)}"
        for name, value in given.items()
        if name in known and value.shape != tuple(known[name].shape)
    ]
    if wrong or not given.keys() & known.keys():
        lines = "\n".join(wrong) or f"  no name begins with any of {', '.join(USED)}"
        raise ModelError(f"{path} holds no weights of a torchvision ResNet18:\n{lines}")
    return {name: torch.from_numpy(value) for name, value in given.items()}
