"""Values of attributes, from a dataset that may hold anything in their place."""

import math
import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.sequence import Sequence

LONGEST_UID = 256
"""Characters of a UID that is accepted, though PS3.5 9.1 allows 64.

Equipment writes longer ones. A UID is never cut, so there must be a limit: it keeps
what a database indexes and a page addresses short.
"""

# PS3.5 9.1 allows digits and periods. Nothing else may pass for an identifier that is
# written to logs. A value that breaks another rule of 9.1 still identifies: see
# `uid_fault`.
UID_PATTERN = re.compile(rf"(?=\.*[0-9])[0-9.]{{1,{LONGEST_UID}}}")
_STANDARD_LENGTH = 64
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


def uid_text(value: bytes) -> str:
    """Read the whole value of a UID as it was sent, without its padding (PS3.5 9.1).

    Spaces are removed, too: senders pad with them. Values of several UIDs, where the
    standard allows one, stay together, and no UID is written like that.
    """
    return value.decode("ascii", "replace").strip(" \0")


def uid(dataset: Dataset, keyword: str) -> str:
    """Read the whole value of a UID attribute; empty if it is absent."""
    value = dataset.get(keyword)
    if isinstance(value, bytes):  # by the VR that it was written with
        return uid_text(value)
    many = isinstance(value, Iterable) and not isinstance(value, str)
    values = value if many else (value,)
    return "\\".join("" if one is None else str(one) for one in values).strip(" \0")


def uid_fault(uid: str) -> str:
    """Name the rule of PS3.5 9.1 that a UID breaks.

    Args:
        uid: A value that matches UID_PATTERN.

    Returns:
        What is wrong with it, to follow "it has"; empty if nothing is.
    """
    components = uid.split(".")
    if len(uid) > _STANDARD_LENGTH:
        return f"{len(uid)} characters, more than {_STANDARD_LENGTH}"
    if "" in components:
        return "an empty component"
    if any(each.startswith("0") and each != "0" for each in components):
        return "a component with a leading zero"
    return ""


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
