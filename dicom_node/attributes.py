"""Values of attributes, from a dataset that may hold anything in their place."""

import math
import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.sequence import Sequence

# PS3.5 9.1 allows digits and periods. Nothing else may pass for an identifier that is
# written to logs.
UID_PATTERN = re.compile(r"[0-9.]{1,64}")
# PS3.5 table 6.2-1, CS.
CODE_PATTERN = re.compile(r"[A-Z0-9_ ]{1,16}")
# What may be repeated in a message.
_QUOTABLE = re.compile(rf"{CODE_PATTERN.pattern}|{UID_PATTERN.pattern}")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Read all values of an attribute that holds numbers, as text or binary.

    Returns:
        The values; none at all where the attribute is absent or empty, or where one of
        them is no number, is infinite or NaN. A display attribute that cannot be read
        is then as if it were absent.
    """
    try:
        value = dataset.get(keyword)
        many = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        found = tuple(float(one) for one in (value if many else (value,)))
    # pydicom reads the text of a number when it is asked for it.
    except (ValueError, TypeError, ArithmeticError):
        return ()
    return found if all(math.isfinite(one) for one in found) else ()


def number(dataset: Dataset, keyword: str, default: float) -> float:
    """Read the first value of an attribute; see `numbers`."""
    return (*numbers(dataset, keyword), default)[0]


def text(dataset: Dataset, keyword: str) -> str:
    """Read the first value of a text or UID attribute; empty where it is absent."""
    value = dataset.get(keyword)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        value = next(iter(value), None)
    return "" if value is None else str(value).strip(" \0")


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Read the items of a sequence; none where something else stands in its place."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def quoted(value: str) -> str:
    """Make a sender's text fit to stand in a message: a code or UID, or what it is."""
    if not value:
        return "absent"
    return value if _QUOTABLE.fullmatch(value) else "not a valid code"


def loggable(uid: str) -> str:
    """Return a SOP Instance UID for a log line, or that what stands there is none."""
    return uid if UID_PATTERN.fullmatch(uid) else "an instance without a valid UID"
