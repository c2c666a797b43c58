"""Describe wrong keys of a TOML file, with the values found and expected."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from config.expectation import alternatives, expected, item_of, keys_of, written

Location = tuple[str | int, ...]

# Error texts do not quote the values of these keys. The values may be secret, or
# contain a password that was entered by mistake.
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
    """An error in settings or in a model card.

    It is an unknown or missing key, a wrong value, or keys that contradict each other.

    Attributes:
        keys: The path to the error: the names of tables and the indexes of lists, then
            the key. If the error concerns a whole table, the path ends with the name
            of the table.
        description: A description of the error, in one line.
    """

    keys: Location
    description: str

    def __str__(self) -> str:
        """Return one line: the keys, joined by dots, and the description."""
        return f"{'.'.join(map(_printable, self.keys))}: {self.description}"


def explain_errors(error: ValidationError, tree: Any) -> Iterator[Problem]:  # noqa: ANN401
    """Yield a description of every wrong key of a table.

    Args:
        error: The error that pydantic raised for the table.
        tree: The class of the table: a pydantic model or a dataclass.

    Yields:
        The problems, without duplicates.
    """
    found = (
        _explain_error(dict(each), tree) for each in error.errors(include_url=False)
    )
    # pydantic reports a wrong value of a union once for each type.
    yield from dict.fromkeys(found)


def _explain_error(problem: dict[str, Any], tree: Any) -> Problem:  # noqa: ANN401
    keys, known_keys, expected_type = _resolve(tree, problem["loc"])
    kind, value = problem["type"], problem["input"]
    if kind in UNKNOWN:
        near = difflib.get_close_matches(str(keys[-1]), known_keys, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return Problem(keys, f"no such key{hint}")
    if kind in NO_TYPE and isinstance(value, dict):
        keys, value = (*keys, "type"), value.get("type")
        expected_type = Literal[
            tuple(_type(each) for each in alternatives(expected_type))
        ]
    if kind in MISSING or (kind in NO_TYPE and value is None):
        return Problem(keys, "missing; it has no default")
    if kind != "value_error":
        return Problem(
            keys,
            f"found {_describe_found(keys, value)}; expected {expected(expected_type)}",
        )
    message = str(problem["ctx"]["error"])  # the error of a validator of this package
    is_quotable = isinstance(value, str) and UNQUOTED.isdisjoint(keys)
    return Problem(
        keys,
        f"found {_describe_found(keys, value)}; {message}" if is_quotable else message,
    )


def _resolve(tree: Any, location: Location) -> tuple[Location, list[str], Any]:  # noqa: ANN401
    """Return the keys in the file that an error of pydantic is about.

    The error has a location. If a value may have several types, pydantic adds the name
    of one type to the location. The keys do not contain this name.

    Args:
        tree: The class of the table: a pydantic model or a dataclass.
        location: The location, from the root of the table.

    Returns:
        A tuple of the keys, the names that are allowed in the table of the last key,
            and the type that the value of the last key should have.
    """
    keys: list[str | int] = []
    known_keys: list[str] = []
    expected_type = tree
    for part in location:
        options = alternatives(expected_type)
        tables = [each for each in options if keys_of(each)]
        if isinstance(part, int):
            lists = [each for each in options if get_origin(each) is tuple]
            expected_type = item_of(lists[0], part)
        elif len(tables) > 1:
            (expected_type,) = (each for each in tables if _type(each) == part)
            continue
        elif tables:
            known_keys = list(keys_of(tables[0]))
            expected_type = keys_of(tables[0]).get(part, Any)
        elif get_origin(options[0]) is dict:
            expected_type = get_args(options[0])[1]
        else:
            break  # a type name added by pydantic
        keys.append(part)
    return tuple(keys), known_keys, expected_type


def _type(table: Any) -> str:  # noqa: ANN401 - a class
    """Return the value of the key `type` that selects the class `table`."""
    (name,) = get_args(table.model_fields["type"].annotation)
    return str(name)


def _describe_found(keys: Location, value: object) -> str:
    """Return a text about a value in the file, for an error message.

    Strings, numbers, booleans and lists of these are quoted, up to LONGEST_QUOTE
    characters. A value that may be secret is not quoted. For any other value, the text
    is its kind, such as "a table".
    """
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) for each in values):
        return next(
            (text for kind, text in KINDS if isinstance(value, kind)), "nothing"
        )
    if not UNQUOTED.isdisjoint(keys):
        return "a value that is not shown, as it may be secret"
    quoted = written(value)
    cut = len(quoted) > LONGEST_QUOTE
    return f"{quoted[:LONGEST_QUOTE]}{' …' if cut else ''}"


def _printable(key: str | int) -> str:
    name = str(key)
    return name if name.isprintable() else repr(name)  # keep it on one line
