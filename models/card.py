"""The model card: all that the code must know of a network's weights.

A card is a TOML file beside the weights, of the same name. Nothing about a model
stands anywhere else in the code.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is written on the card.

    Attributes:
        name: Of the model, as results show it.
        version: Of the weights, as results show it.
        architecture: A torchvision ResNet: "resnet18", "resnet34" or "resnet50".
        classes: Names of the outputs in their order; exactly one is "Fracture".
        input_size: Side of the square input in pixels.
        resize: "letterbox" keeps the proportions and pads with black; "stretch" does
            not, as the original application did.
        mean: Per channel, subtracted from intensities in [0, 1].
        std: Per channel, divides what remains.
        temperature: Divides the logits before the softmax (Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017).
        doubtful: Probability from which a fracture is reported as doubtful.
        definite: Probability from which it is reported as definite; not below
            `doubtful`.
        body_parts: Body Part Examined values the model may answer for; empty means
            any. An image that names another is not analyzed.
        sha256: Of the weights file, hexadecimal.
        phantom_logits: What the weights gave for the whole and the broken phantom
            when the card was made, {"whole": (…), "broken": (…)}; the self-test at
            start compares.
    """

    name: str
    version: str
    architecture: Literal["resnet18", "resnet34", "resnet50"]
    classes: tuple[str, ...]
    input_size: int
    resize: Literal["letterbox", "stretch"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    temperature: float
    doubtful: float
    definite: float
    body_parts: tuple[str, ...]
    sha256: str
    phantom_logits: dict[str, tuple[float, ...]]
