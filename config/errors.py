"""Explain wrong keys of a TOML file: the value found and the value expected."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from config.expectation import alternatives, expected, item_of, keys_of, written

Location = tuple[str | int, ...]

# Their values may be secret, or contain a password that was entered by mistake.
UNQUOTED = frozenset(
    {"database", "url", "token_env", "username", "password_env", "tokens"}
)
LONGEST_QUOTE = 60

KINDS = (
    (dict, "a table"),
    (list, "a list"),
    ((date, time), "a date or time"),  # datetime is a subclass of date
    (Path, "a path"),
)
UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
MISSING = {"missing", "missing_argument"}
NO_TYPE = {"union_tag_not_found", "union_tag_invalid"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A wrong key.

    Attributes:
        keys: The key, preceded by those of the tables and lists that contain it.
        words: A description of the error, in one line.
    """

    keys: Location
    words: str

    def __str__(self) -> str:
        """Return the key and the text as one line."""
        return f"{'.'.join(map(_printable, self.keys))}: {self.words}"


def explained(error: ValidationError, tree: Any) -> Iterator[Problem]:  # noqa: ANN401
    """Explain every wrong key.

    Args:
        error: The error of pydantic.
        tree: The expected table: a pydantic model or a dataclass.
    """
    found = (_explained(dict(each), tree) for each in error.errors(include_url=False))
    # pydantic reports a wrong value of a union once for each type.
    yield from dict.fromkeys(found)


def _explained(problem: dict[str, Any], tree: Any) -> Problem:  # noqa: ANN401
    keys, known, wanted = _walk(tree, problem["loc"])
    kind, value = problem["type"], problem["input"]
    if kind in UNKNOWN:
        near = difflib.get_close_matches(str(keys[-1]), known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return Problem(keys, f"no such key{hint}")
    if kind in NO_TYPE and isinstance(value, dict):
        keys, value = (*keys, "type"), value.get("type")
        wanted = Literal[tuple(_type(each) for each in alternatives(wanted))]
    if kind in MISSING or (kind in NO_TYPE and value is None):
        return Problem(keys, "missing; it has no default")
    if kind != "value_error":
        return Problem(
            keys, f"found {_found(keys, value)}; expected {expected(wanted)}"
        )
    own = str(problem["ctx"]["error"])  # the error of a validator of this package
    is_shown = isinstance(value, str) and UNQUOTED.isdisjoint(keys)
    return Problem(keys, f"found {_found(keys, value)}; {own}" if is_shown else own)


def _walk(tree: Any, location: Location) -> tuple[Location, list[str], Any]:  # noqa: ANN401
    """Convert a location of pydantic to the keys of the file.

    If a value may be of several types, pydantic adds the name of one of them to the
    location. The file has no such level.

    Returns:
        The keys, the known names beside the last key, and its type.
    """
    keys: list[str | int] = []
    known: list[str] = []
    wanted = tree
    for part in location:
        options = alternatives(wanted)
        tables = [each for each in options if keys_of(each)]
        if isinstance(part, int):
            lists = [each for each in options if get_origin(each) is tuple]
            wanted = item_of(lists[0], part)
        elif len(tables) > 1:
            (wanted,) = (each for each in tables if _type(each) == part)
            continue
        elif tables:
            known = list(keys_of(tables[0]))
            wanted = keys_of(tables[0]).get(part, Any)
        elif get_origin(options[0]) is dict:
            wanted = get_args(options[0])[1]
        else:
            break  # a type name added by pydantic
        keys.append(part)
    return tuple(keys), known, wanted


def _type(table: Any) -> str:  # noqa: ANN401 - a class
    """Return the `type` that distinguishes a table from its alternatives."""
    (name,) = get_args(table.model_fields["type"].annotation)
    return str(name)


def _found(keys: Location, value: object) -> str:
    """Describe the value found, without quoting tables and possible secrets."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) for each in values):
        return next(
            (word for kind, word in KINDS if isinstance(value, kind)), "nothing"
        )
    if not UNQUOTED.isdisjoint(keys):
        return "a value that is not shown, as it may be secret"
    quoted = written(value)
    cut = len(quoted) > LONGEST_QUOTE
    return f"{quoted[:LONGEST_QUOTE]}{' …' if cut else ''}"


def _printable(key: str | int) -> str:
    name = str(key)
    return name if name.isprintable() else repr(name)  # keep it on one line
