"""The encoding of HL7 v2 segments, fields and components (HL7 v2.5.1 2.5 and 2.7).

The node encodes messages itself, because both libraries for HL7 have a fault. `hl7`
0.4.5 writes characters that are not ASCII as code points in hexadecimal escape
sequences, which peers read as bytes. `hl7apy` 1.3.5 does not escape a backslash if the
value itself looks like an escape sequence, so a peer would read another value. Tests
read the messages with both libraries.
"""

from collections.abc import Mapping

from pydicom.sr.coding import Code

SEPARATOR, ENCODING_CHARACTERS = "|", "^~\\&"

_NULL = '""'
"""The null value of HL7: it tells the receiver to delete its own value (2.5.3)."""

_ESCAPED = {"\\": "E", "|": "F", "^": "S", "~": "R", "&": "T"}


def without_null(text: str) -> str:
    """Return a text unchanged, or empty if it is the null value of HL7 (`""`)."""
    return "" if text.strip(" ") == _NULL else text


def escaped(text: str) -> str:
    r"""Return a text with escape sequences for delimiters and control characters.

    A control character becomes \Xdd\, with its code in hexadecimal (2.7.5). The null
    value of HL7 becomes empty, because a receiver would delete its own value.
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
    """Return values as escaped components of a field, without empty ones at the end."""
    return "^".join(map(escaped, values)).rstrip("^")


def subcomponents(*values: str) -> str:
    """Return values as escaped subcomponents, without empty ones at the end."""
    return "&".join(map(escaped, values)).rstrip("&")


def segment(name: str, fields: Mapping[int, str]) -> str:
    """Return a segment with its terminator.

    Args:
        name: The three letters of the segment.
        fields: The encoded fields by sequence number, from 1. A field that is not in
            the mapping is empty.
    """
    last = max((number for number, field in fields.items() if field), default=0)
    parts = (fields.get(number, "") for number in range(1, last + 1))
    return SEPARATOR.join((name, *parts)) + "\r"


def coded(code: Code) -> str:
    """Return a code as the data type CE."""
    return components(code.value, code.meaning, code.scheme_designator)
