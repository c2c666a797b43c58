"""The training recipe: all parameters of a training in one small file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from config.errors import explain_errors
from config.toml_file import TomlError, read_toml
from models.card import ModelError

SHIPPED = Path(__file__).parents[2] / "models" / "recipe.toml"


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Even = Annotated[int, Field(ge=2, multiple_of=2)]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parameters of a training. recipe.toml gives the reason for each value.

    Attributes:
        generations: Number of trainings from the initial weights. From the second on,
            the network also learns from the outputs of the previous generation.
        epochs: Epochs of a generation with whole images; see `dataset.epoch`.
        fine_epochs: Further epochs, with both scales together.
        batch: Views in a step, two of each film; even.
        fine_batch: Views in a step at both scales; even.
        rate: Highest learning rate of layers with initial weights.
        fresh_rate: Highest learning rate of layers that start at random.
        weight_decay: Weight decay of AdamW.
        repeats: How often each fractured radiograph is drawn in an epoch.
        whole_share: Share of the other radiographs drawn in an epoch; different ones
            each time.
        close_share: Share of films with two close-up views. There are none in the part
            at both scales.
        pointing: Weight of the loss for the location.
        smoothing: Label smoothing.
        taught: Weight of the outputs of the previous generation relative to the labels.
        averaging: Decay of the moving average of the weights per step.
        phantoms: Number of phantoms in an epoch, as a share of the radiographs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    generations: Count
    epochs: Count
    fine_epochs: Annotated[int, Field(ge=0)]
    batch: Even
    fine_batch: Even
    rate: Positive
    fresh_rate: Positive
    weight_decay: Share
    repeats: Count
    whole_share: Share
    close_share: Share
    pointing: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    smoothing: Share
    taught: Share
    averaging: Share
    phantoms: Share


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ModelError: The file does not exist, or keys are wrong, unknown or missing.
    """
    try:
        table = read_toml(path)
        # Validate as JSON: strict Python mode requires an instance.
        return TypeAdapter(Recipe).validate_json(json.dumps(table, default=str))
    except FileNotFoundError:
        raise ModelError(
            f"The recipe {path} does not exist. Name an existing file with --recipe, "
            "or omit --recipe to train with the shipped one."
        ) from None
    except TomlError as error:
        raise ModelError(f"The recipe {path} {error}") from None
    except ValidationError as error:
        lines = (f"  {each}" for each in explain_errors(error, Recipe))
        raise ModelError(
            f"The recipe {path} cannot be used:\n" + "\n".join(lines)
        ) from None
