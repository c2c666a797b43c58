"""Wrong settings in words: what was found, what is expected, the nearest known name."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]
Tables = list[type[BaseModel]]

# They may hold a password, or be one that was written into the wrong place.
UNQUOTED = frozenset(
    {"database", "url", "token_env", "username", "password_env", "tokens"}
)


def explained(error: ValidationError, tree: type[BaseModel]) -> Iterator[str]:
    """Explain every wrong key, a line each.

    Args:
        error: What pydantic found.
        tree: What it was looking for.
    """
    for problem in error.errors(include_url=False):
        path, known = _walk(tree, problem["loc"])
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{key}: no such key{hint}"
        elif problem["type"] == "missing":
            yield f"{key}: missing; it has no default"
        elif problem["type"] == "union_tag_not_found":
            yield f"{key}.type: missing; it has no default"
        elif problem["type"] == "union_tag_invalid":
            tag, tags = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
            yield f"{key}.type: found {tag!r}; Input should be one of {tags}"
        else:
            yield f"{key}: {_found(path, problem['input'])}{problem['msg']}"


def _found(path: list[str], value: object) -> str:
    """Quote a value, but neither a whole table nor what may hold a password."""
    values = value if isinstance(value, list) else [value]
    plain = all(isinstance(each, str | int | float) for each in values)
    return f"found {value!r}; " if plain and UNQUOTED.isdisjoint(path) else ""


def _walk(tree: type[BaseModel], location: Location) -> tuple[list[str], list[str]]:
    """Follow a location down to the key it means.

    Where tables of several types may stand, pydantic adds the type to the location;
    the file has no such level.

    Returns:
        The key with those above it, and the names that are known beside it.
    """
    path: list[str] = []
    known: list[str] = []
    tables: Tables = [tree]
    for part in location:
        if isinstance(part, str) and len(tables) > 1:
            tables = [each for each in tables if _type(each) == part]
            continue
        name = str(part)
        path.append(name if name.isprintable() else repr(name))  # a line is a line
        if isinstance(part, str):
            fields = tables[0].model_fields if tables else {}
            known = list(fields)
            tables = _tables(fields[part].annotation) if part in fields else []
    return path, known


def _type(table: type[BaseModel]) -> str:
    """Say which `type` tells a table from those that may stand in its place."""
    (name,) = get_args(table.model_fields["type"].annotation)
    return str(name)


def _tables(annotation: Any) -> Tables:  # noqa: ANN401 - any type at all
    """Find the tables that a key may hold, or hold many of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for inside in get_args(annotation) for table in _tables(inside)]
