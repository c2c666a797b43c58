"""Describe the allowed values of a TOML key, based on its Python type."""

from dataclasses import dataclass, is_dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    str: "text in quotes",
    Path: "the path of a file or folder",
    IPv4Network: 'a network of addresses such as "10.1.0.0/16"',
    IPv6Network: 'a network of addresses such as "fd00::/8"',
}
NUMBERS = {int: "whole number", float: "number"}


@dataclass(frozen=True, slots=True)
class _Type:
    """The parts of a type annotation.

    Attributes:
        base: The type without `Annotated`.
        description: The text of `Field(description=…)`; empty if there is none.
        limits: The limits of the values: Ge, MaxLen and so on.
    """

    base: Any
    description: str
    limits: tuple[Any, ...]


def keys_of(table: Any) -> dict[str, Any]:  # noqa: ANN401 - a class
    """Return the keys of a table, with the types of their values.

    Args:
        table: A pydantic model or a dataclass. For any other type, the result is empty.
    """
    if isinstance(table, type) and issubclass(table, BaseModel):
        fields = table.model_fields.items()
        return {name: Annotated[each.annotation, each] for name, each in fields}
    if is_dataclass(table):
        hints = get_type_hints(table, include_extras=True)
        return {name: hints[name] for name in table.__dataclass_fields__}
    return {}


def alternatives(annotation: Any) -> list[Any]:  # noqa: ANN401 - any type at all
    """Return the types that an annotation allows, without their `Annotated` parts.

    For an optional value, NoneType is one of the types.
    """
    base = _unwrapped(annotation).base
    if get_origin(base) not in {Union, UnionType}:
        return [base]
    return [each for part in get_args(base) for each in alternatives(part)]


def item_of(annotation: Any, index: int) -> Any:  # noqa: ANN401 - any type at all
    """Return the type of one item of a tuple type; Any if there is no such item."""
    items = get_args(_unwrapped(annotation).base)
    if len(items) == 2 and items[1] is Ellipsis:  # noqa: PLR2004 - tuple[X, ...]
        return items[0]
    return items[index] if index < len(items) else Any


def expected(annotation: Any) -> str:  # noqa: ANN401 - any type at all
    """Return a description of the allowed values of a type.

    For example, the description of `Port` is "a whole number from 0 to 65535".
    """
    it = _unwrapped(annotation)
    origin = get_origin(it.base)
    if it.description:
        description = it.description
    elif it.base in NUMBERS:
        description = _number(it)
    elif origin is Literal:
        description = _one_of([written(each) for each in get_args(it.base)])
    elif origin is tuple:
        description = _list(it)
    elif origin in {Union, UnionType}:
        parts = (each for each in get_args(it.base) if each is not NoneType)
        description = _one_of(list(dict.fromkeys(map(expected, parts))))
    else:
        description = DESCRIPTIONS.get(it.base, "a table of keys") + _length(
            it, "character"
        )
    return description


def _unwrapped(annotation: Any) -> _Type:  # noqa: ANN401 - any type at all
    base, description, limits = annotation, "", []
    while get_origin(base) is Annotated:
        base, *extra = get_args(base)
        for each in extra:
            if isinstance(each, FieldInfo):
                description = description or each.description or ""
                limits += each.metadata
            else:
                limits.append(each)
    return _Type(base, description, tuple(limits))


def _number(it: _Type) -> str:
    limit = {type(each): each for each in it.limits}
    kind = NUMBERS[it.base]
    if Ge in limit and Le in limit:
        description = f"a {kind} from {limit[Ge].ge} to {limit[Le].le}"
    else:
        bounds = {
            Ge: "of at least {0.ge}",
            Gt: "above {0.gt}",
            Le: "of at most {0.le}",
            Lt: "below {0.lt}",
        }
        bounds_found = [
            text.format(limit[key]) for key, text in bounds.items() if key in limit
        ]
        description = " ".join([f"a {kind}", " and ".join(bounds_found)]).strip()
    if MultipleOf in limit:
        description += f", a multiple of {limit[MultipleOf].multiple_of}"
    return description


def _list(it: _Type) -> str:
    items = get_args(it.base)
    is_open = len(items) == 2 and items[1] is Ellipsis  # noqa: PLR2004
    count = "" if is_open else f" of {len(items)} items"
    return f"a list{count}{_length(it, 'item')}, each of them {expected(items[0])}"


def _length(it: _Type, unit: str) -> str:
    for each in it.limits:
        if isinstance(each, MinLen):
            plural = "" if each.min_length == 1 else "s"
            least = f" of at least {each.min_length} {unit}{plural}"
            most = [e.max_length for e in it.limits if isinstance(e, MaxLen)]
            return f"{least} and at most {most[0]}" if most else least
    return ""


def _one_of(options: list[str]) -> str:
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def written(value: object) -> str:
    """Return a TOML value as text for error messages. Strings are quoted."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
