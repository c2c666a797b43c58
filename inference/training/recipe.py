"""The recipe: all that was chosen about a training, in one small file."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from models.card import ModelError

SHIPPED = Path(__file__).parents[2] / "models" / "recipe.toml"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained; recipe.toml says why each number is what it is.

    Attributes:
        epochs: Passes; what one is, see `dataset.epoch`.
        batch: Radiographs to a step.
        rate: Highest learning rate of what was trained before.
        fresh_rate: The same of what starts at random.
        weight_decay: Of AdamW.
        repeats: How often each fractured radiograph is drawn in an epoch.
        whole_share: Share of the others drawn in an epoch, others each time.
        close_share: Share of the views that are crops, as at the second look.
        pointing: Weight of the loss that asks for the place.
        smoothing: Of the labels.
        averaging: Decay of the moving average of the weights, a step.
        phantoms: Share of drawn bones in an epoch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    epochs: int
    batch: int
    rate: float
    fresh_rate: float
    weight_decay: float
    repeats: int
    whole_share: float
    close_share: float
    pointing: float
    smoothing: float
    averaging: float
    phantoms: float


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ModelError: It is not there, or keys are wrong, unknown or missing.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        # JSON, because strict reading of Python asks for an instance.
        return TypeAdapter(Recipe).validate_json(json.dumps(table, default=str))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"The recipe {path} cannot be read: {error}") from None
    except ValidationError as error:
        lines = (
            f"  {'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False)
        )
        raise ModelError(f"The recipe {path} is wrong:\n" + "\n".join(lines)) from None
