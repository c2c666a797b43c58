"""The encoding of HL7 v2 segments, fields and components (HL7 v2.5.1 2.5 and 2.7).

The node encodes messages itself. The library `hl7` 0.4.5 writes characters
that are not ASCII as code points in hexadecimal escape sequences, which peers read as
bytes. `hl7apy` 1.3.5 does not escape a backslash if the value itself looks like an
escape sequence, so a peer would read another value. Tests read the messages with
both libraries.
"""

from collections.abc import Mapping

from pydicom.sr.coding import Code

SEPARATOR, ENCODING_CHARACTERS = "|", "^~\\&"

_NULL = '""'
"""A field with this value tells the receiver to delete its own value (2.5.3)."""

_ESCAPED = {"\\": "E", "|": "F", "^": "S", "~": "R", "&": "T"}


def without_null(text: str) -> str:
    """Return a text; empty if it consists of two quotation marks."""
    return "" if text.strip(" ") == _NULL else text


def escaped(text: str) -> str:
    r"""Return a text with escape sequences for delimiters and control characters.

    A control character becomes \Xdd\, with its code in hexadecimal (2.7.5). A text of
    two quotation marks becomes empty, because a receiver would delete a value.
    """
    return "".join(
        f"\\{_ESCAPED[each]}\\"
        if each in _ESCAPED
        else f"\\X{ord(each):02X}\\"
        if ord(each) < ord(" ")
        else each
        for each in without_null(text)
    )


def components(*values: str) -> str:
    """Return values as the components of a field. Empty ones at the end are omitted."""
    return "^".join(map(escaped, values)).rstrip("^")


def subcomponents(*values: str) -> str:
    """Return values as subcomponents. Empty ones at the end are omitted."""
    return "&".join(map(escaped, values)).rstrip("&")


def segment(name: str, fields: Mapping[int, str]) -> str:
    """Return a segment with its terminator.

    Args:
        name: The three letters of the segment.
        fields: The encoded fields by sequence number, from 1. Other fields are empty.
    """
    last = max((number for number, field in fields.items() if field), default=0)
    parts = (fields.get(number, "") for number in range(1, last + 1))
    return SEPARATOR.join((name, *parts)) + "\r"


def coded(code: Code) -> str:
    """Return a code as the data type CE."""
    return components(code.value, code.meaning, code.scheme_designator)
