"""Wrong settings in words: what was found, what is expected, the nearest known name."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]


def explained(error: ValidationError, tree: type[BaseModel]) -> Iterator[str]:
    """Explain every wrong key, a line each.

    Args:
        error: What pydantic found.
        tree: What it was looking for.
    """
    for problem in error.errors(include_url=False):
        location: Location = problem["loc"]
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            known = _known(tree, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{key}: no such key{hint}"
        elif problem["type"] == "missing":
            yield f"{key}: missing; it has no default"
        else:
            yield f"{key}: {_found(key, problem['input'])}{problem['msg']}"


def _found(key: str, value: object) -> str:
    """Quote a value, but neither a whole table nor what may hold a password."""
    values = value if isinstance(value, list) else [value]
    plain = all(isinstance(each, str | int | float) for each in values)
    return f"found {value!r}; " if plain and key != "storage.database" else ""


def _known(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the keys that the table at a location may hold."""
    for part in location:
        if isinstance(part, str):
            inside = _table(model.model_fields[part].annotation)
            if inside is None:
                return []
            model = inside
    return list(model.model_fields)


def _table(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any type at all
    """Find the table that a key holds, or holds many of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (_table(each) for each in get_args(annotation))
    return next((each for each in inside if each is not None), None)
