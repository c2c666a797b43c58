"""Read the training recipe: a file with the parameters of a training."""

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
    """Parameters of a training.

    models/recipe.toml has the values with which the shipped weights were trained.

    Attributes:
        generations: Number of trainings from the initial weights. From the second on,
            the network also learns from the outputs of the previous generation.
        epochs: Number of epochs of a generation at one scale.
        fine_epochs: Number of further epochs of a generation, at both scales together.
        batch: Number of views in a step at one scale, two of each radiograph; even.
        fine_batch: Number of views in a step at both scales; even.
        rate: Maximum learning rate of layer1 to layer3. Their initial weights may come
            from a file.
        fresh_rate: Maximum learning rate of layer4 and the last layer.
        weight_decay: Weight decay of AdamW.
        repeats: Number of times that an epoch uses each radiograph with a fracture.
        whole_share: Share of the radiographs without a fracture that an epoch uses.
        close_share: Probability that a radiograph in an epoch gives two close-ups. In
            epochs at both scales, there are no close-ups.
        pointing: Weight of the loss for the location, relative to the loss for the
            label.
        smoothing: Label smoothing: the labels 0 and 1 become `smoothing` / 2 and
            1 - `smoothing` / 2.
        taught: Weight of the outputs of the previous generation in the target. The
            weight of the labels is 1 - `taught`.
        self_taught: Weight of the outputs of the network's own moving average in the
            target of epochs at both scales. The weight of the labels is
            1 - `self_taught`. If it is 0, `taught` applies to these epochs, too.
        averaging: Decay of the moving average of the weights per step.
        phantoms: Number of pairs of phantoms in an epoch, as a share of the number of
            radiographs in it.
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
    self_taught: Share
    averaging: Share
    phantoms: Share


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        ModelError: The file does not exist, cannot be read or is not TOML, or has
            wrong, unknown or missing keys.
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
