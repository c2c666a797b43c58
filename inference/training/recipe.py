"""The recipe: all that was chosen about a training, in one small file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from config.explanation import explained
from config.toml_file import TomlError, read_toml
from models.card import ModelError

SHIPPED = Path(__file__).parents[2] / "models" / "recipe.toml"


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Even = Annotated[int, Field(ge=2, multiple_of=2)]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained; recipe.toml says why each number is what it is.

    Attributes:
        generations: How often all is learned afresh; from the second on, the answers
            of the generation before are learned, too.
        epochs: Passes of a generation over whole images; what one is, see
            `dataset.epoch`.
        fine_epochs: Passes after these, at both scales together.
        batch: Views to a step, two of each film; even.
        fine_batch: The same at both scales.
        rate: Highest learning rate of what was trained before.
        fresh_rate: The same of what starts at random.
        weight_decay: Of AdamW.
        repeats: How often each fractured radiograph is drawn in an epoch.
        whole_share: Share of the others drawn in an epoch, others each time.
        close_share: Share of the films of which both views are crops; in the part at
            both scales there are none.
        pointing: Weight of the loss that asks for the place.
        smoothing: Of the labels.
        taught: Weight of the answers of the generation before, beside the labels.
        averaging: Decay of the moving average of the weights, a step.
        phantoms: Share of drawn bones in an epoch.
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
        ModelError: It is not there, or keys are wrong, unknown or missing.
    """
    try:
        table = read_toml(path)
        # JSON, because strict reading of Python asks for an instance.
        return TypeAdapter(Recipe).validate_json(json.dumps(table, default=str))
    except FileNotFoundError:
        raise ModelError(
            f"The recipe {path} does not exist. Name an existing file with --recipe, "
            "or leave --recipe away to train with the shipped one."
        ) from None
    except TomlError as error:
        raise ModelError(f"The recipe {path} {error}") from None
    except ValidationError as error:
        lines = (f"  {each}" for each in explained(error, Recipe))
        raise ModelError(
            f"The recipe {path} cannot be used:\n" + "\n".join(lines)
        ) from None
