"""Read initial weights from a network that was trained on other images."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torchvision.models import resnet18

from models.card import ModelError
from models.network import COUNTER

FROZEN = "conv1.", "bn1."
"""Name prefixes of the layers that are never trained. A file of initial weights must
contain these layers."""

USED = *FROZEN, "layer1.", "layer2.", "layer3."
"""Name prefixes of the layers that are read from a file of initial weights."""


def read_start(path: Path) -> dict[str, Tensor]:
    """Return those weights of a file that a training can use.

    Args:
        path: A .npz file with weights of a torchvision ResNet18 by name. It must
            contain all layers in FROZEN.

    Returns:
        The weights of layers in USED, by name.

    Raises:
        ModelError: The file cannot be read, or weights are missing or have a wrong
            shape.
    """
    try:
        with np.load(path) as file:
            tensors = {name: file[name] for name in file.files if name.startswith(USED)}
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        BadZipFile,
    ) as error:
        raise ModelError(
            f"--start is {path}, which cannot be read as a .npz of arrays: {error}"
        ) from None
    with torch.device("meta"):
        expected = resnet18().state_dict()
    problems = [
        f"  {name}: shape {value.shape}, expected {tuple(expected[name].shape)}"
        for name, value in tensors.items()
        if name in expected and value.shape != tuple(expected[name].shape)
    ]
    problems += [
        f"  {name}: missing; this layer is not trained"
        for name in expected
        if name.startswith(FROZEN)
        and not name.endswith(COUNTER)
        and name not in tensors
    ]
    if problems:
        listed = "\n".join(problems[:8])
        raise ModelError(f"{path} cannot be used as a start for a ResNet18:\n{listed}")
    return {name: torch.from_numpy(value) for name, value in tensors.items()}
