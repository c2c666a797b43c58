"""The model card: everything that the code must know about the weights of a network.

A card is a TOML file in the folder of the weights, with the same name except for the
suffix.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from config.errors import explain_errors
from config.toml_file import TomlError, read_toml

FRACTURE = "Fracture"
"""Name of the class that the node reports."""

SCALES = (1,), (1, 2)
"""Allowed values of `ModelCard.scales`."""

Text = Annotated[str, Field(min_length=1, max_length=64)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ModelError(Exception):
    """The model cannot be used. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The content of a model card.

    Attributes:
        name: Name of the model, as results show it.
        version: Version of the model, as results show it.
        architecture: A torchvision ResNet ("resnet18", "resnet34" or "resnet50"), or a
            variant with a finer grid ("resnet18_fine" or "resnet16_fine", see the
            network module).
        classes: Names of the outputs in their order; exactly one is "Fracture".
        input_size: Long side of the network input in pixels, at scale 1.
        resize: "letterbox" keeps the proportions and pads with black. "stretch" changes
            the proportions, for weights that were trained with stretched images.
        mean: Mean of each channel; it is subtracted from intensities in [0, 1].
        std: Standard deviation of each channel; the difference is divided by it.
        temperature: The logits are divided by it before the softmax (Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017).
        doubtful: Minimum probability at which a fracture is reported as doubtful. Below
            it, no fracture is reported.
        definite: Minimum probability at which a fracture is reported as definite; not
            below `doubtful`.
        body_parts: Body Part Examined values that the model covers; empty means all.
            Images that name another body part are not analyzed.
        views: View Position (0018,5101) values that the model covers; empty means all.
            Images that name another view are not analyzed.
        min_age_years: Minimum age of the patient in years; 0 means no limit. Images of
            younger patients are not analyzed.
        finding_threshold: Minimum score of a location that gets an arrow (see
            `inference.finding.Location`). The key requires `pooling` "log_sum_exp".
            None means that only the highest peak of the heatmap gets an arrow. Its
            score is the probability of the image.
        sha256: SHA-256 of the weights file, hexadecimal; empty means that any file is
            accepted.
        phantom_logits: The recorded logits for the whole and the broken phantom,
            {"whole": (…), "broken": (…)}. The self-test at start compares the logits of
            the loaded network with them. Empty means that no comparison is made.
        pooling: How the scores of the grid cells are combined to a score of the image:
            "average", like torchvision's ResNets, or "log_sum_exp".
        scales: Sizes at which the network reads the image, as multiples of
            `input_size`. With (1, 2), it reads the whole image at `input_size` and
            again at twice this size, and averages the two maps.
        exposure: "as_shown" gives the network the gray levels that a reader sees.
            "percentiles" first stretches them, so that the 0.5th and 99.5th percentile
            of the exposed area become black and white.
        crop: "none" gives the network the whole radiograph. "exposed_area" removes
            uniform rows and columns at its edges first, such as a black border.
        quarter_turns: Whether the network reads the image in four orientations, a
            quarter turn apart, and averages the results. This takes four times the
            computing time, and makes the result nearly independent of the orientation
            of the image.
        unfamiliar: Maximum distance from the training images; images farther away are
            not analyzed. The key requires statistics in the weights file. None means
            that no distance is checked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: Text
    version: Text
    architecture: Literal[
        "resnet18", "resnet18_fine", "resnet16_fine", "resnet34", "resnet50"
    ]
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]
    input_size: Annotated[int, Field(ge=32, le=2048)]
    resize: Literal["letterbox", "stretch"]
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]
    temperature: Positive
    doubtful: Probability
    definite: Probability
    body_parts: tuple[Text, ...]
    sha256: Annotated[
        str,
        Field(
            pattern=r"^([0-9a-f]{64})?$",
            description="64 hexadecimal digits, a to f in lower case, or nothing",
        ),
    ]
    phantom_logits: dict[str, tuple[Number, ...]]
    pooling: Literal["average", "log_sum_exp"] = "average"
    scales: tuple[int, ...] = (1,)
    exposure: Literal["as_shown", "percentiles"] = "as_shown"
    crop: Literal["none", "exposed_area"] = "none"
    quarter_turns: bool = False
    unfamiliar: Positive | None = None
    views: tuple[Text, ...] = ()
    min_age_years: Annotated[float, Field(ge=0, le=150)] = 0
    finding_threshold: Probability | None = None


def read_card(path: Path) -> ModelCard:
    """Return the model card in a TOML file.

    Raises:
        ModelError: The file does not exist, cannot be read, is not TOML, or has wrong,
            unknown or missing keys. The message lists wrong keys.
    """
    try:
        table = read_toml(path)
    except FileNotFoundError:
        raise ModelError(
            f"The model card {path} does not exist. Weights need a card with the same "
            "name in the same folder; models/README.md describes its keys."
        ) from None
    except TomlError as error:
        raise ModelError(f"The model card {path} {error}") from None
    try:
        # Validate as JSON: strict JSON mode accepts arrays as tuples.
        card = TypeAdapter(ModelCard).validate_json(json.dumps(table, default=str))
        problems = list(_contradictions(card))
    except ValidationError as error:
        problems = list(map(str, explain_errors(error, ModelCard)))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ModelError(f"The model card {path} cannot be used:\n{lines}")
    return card


def card_text(card: ModelCard) -> str:
    """Return a card as TOML, with one key per line. Values of None are omitted."""
    known = {key: value for key, value in asdict(card).items() if value is not None}
    return "".join(f"{key} = {_toml(value)}\n" for key, value in known.items())


def _toml(value: object) -> str:
    """Return a value of a card in TOML syntax. Only tables differ from JSON."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return json.dumps(value, ensure_ascii=False)


def _contradictions(card: ModelCard) -> Iterator[str]:
    """Yield a line for each error that the types of the keys do not detect."""
    if card.classes.count(FRACTURE) != 1:
        yield f"classes: found {list(card.classes)}; exactly one must be {FRACTURE!r}"
    if card.scales not in SCALES:
        yield f"scales: found {list(card.scales)}; expected [1] or [1, 2]"
    if card.definite < card.doubtful:
        yield (
            f"definite: found {card.definite}; expected at least doubtful, "
            f"{card.doubtful}"
        )
    if card.finding_threshold is not None and card.pooling != "log_sum_exp":
        yield (
            f"finding_threshold: found with pooling {card.pooling!r}; expected pooling "
            '"log_sum_exp", which gives each location a score'
        )
    if card.phantom_logits.keys() not in (set(), {"whole", "broken"}):
        found = sorted(card.phantom_logits)
        yield f"phantom_logits: found {found}; expected broken and whole, or nothing"
    for phantom, logits in card.phantom_logits.items():
        if len(logits) != len(card.classes):
            yield (
                f"phantom_logits.{phantom}: found {len(logits)} numbers for "
                f"{len(card.classes)} classes"
            )
