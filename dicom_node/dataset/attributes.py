"""Reads attribute values from datasets that may violate the standard."""

import itertools
import math
import re
from collections.abc import Iterable

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

LONGEST_UID = 256
"""Maximum number of characters of an accepted UID. PS3.5 9.1 allows 64.

The maximum is larger than 64, because some equipment writes longer UIDs. There is a
maximum, because UIDs are in database indexes and in the URLs of pages. A UID that
exceeds the maximum counts as invalid. It is never cut.
"""

# PS3.5 9.1 allows digits and periods. No other text may be logged as an identifier. A
# value that breaks another rule of 9.1 still identifies an instance: see `uid_fault`.
UID_PATTERN = re.compile(rf"(?=\.*[0-9])[0-9.]{{1,{LONGEST_UID}}}")
STANDARD_UID_LENGTH = 64  # PS3.5 9.1
# PS3.5 table 6.2-1, CS.
CODE_PATTERN = re.compile(r"[A-Z0-9_ ]{1,16}")
# Maximum number of bytes, or of parsed values, that are read from a numeric attribute.
# A valid attribute has only a few numbers.
_LONGEST_NUMBERS = 65_536
# Only codes and UIDs may be quoted in a message. Other text may be patient data.
_QUOTABLE = re.compile(rf"{CODE_PATTERN.pattern}|{UID_PATTERN.pattern}")
# NumPy's name of the number type of each binary VR (PS3.5 6.2), without byte order.
_BINARY = {
    "US": "u2", "SS": "i2", "OW": "u2", "UL": "u4", "SL": "i4", "OL": "u4",
    "UV": "u8", "SV": "i8", "OV": "u8", "FL": "f4", "OF": "f4", "FD": "f8", "OD": "f8",
}  # fmt: skip
WORD_BYTES = {"AT": 2} | {vr: int(kind[1:]) for vr, kind in _BINARY.items()}
"""Bytes per word, by VR, for the VRs with words of more than one byte (PS3.5 7.3)."""

# An attribute with one of these VRs is read with the VR of the data dictionary, because
# the writer did not know the VR.
_UNTYPED = {"UN", "OB"}
# The number at the start of a text. A comma can only be a decimal comma: DICOM has no
# digit grouping, and separates values by backslashes.
_PLAIN = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", re.ASCII)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?)", re.ASCII)


def numbers(dataset: Dataset, keyword: str) -> tuple[float | None, ...]:
    """Return all values of a numeric attribute, which may be text or binary.

    The values are read with the VR that the sender wrote, even if that VR is wrong. If
    the sender wrote the VR UN or OB, or no VR, the VR of the data dictionary is used. A
    text is read as the number at its start, as DCMTK does: "2048 HU" is 2048. A decimal
    comma is read as a point.

    Returns:
        The values in their order, None for each value that is not a finite number.
        Empty if the attribute is absent or empty. At most 65,536 bytes are read, or
        65,536 values if pydicom has parsed them already.
    """
    return tuple(_finite(one) for one in _values(dataset, keyword))


def usable(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the result of `numbers` without the None values."""
    return tuple(one for one in numbers(dataset, keyword) if one is not None)


def number(dataset: Dataset, keyword: str, default: float) -> float:
    """Return the first number of an attribute; `default` if it has no number."""
    return (*usable(dataset, keyword), default)[0]


def is_plain(dataset: Dataset, keyword: str) -> bool:
    """Return whether all values of an attribute are numbers in the standard's format.

    True if the attribute is absent or empty. Binary values only need to be finite.
    """
    return all(
        _PLAIN.fullmatch(one) if isinstance(one, str) else _finite(one) is not None
        for one in _values(dataset, keyword)
    )


def signed_16(value: float, *, signed: bool) -> int:
    """Return the low 16 bits of a value, read as a signed or an unsigned number.

    The VR of some attributes is US (unsigned) or SS (signed), depending on Pixel
    Representation (0028,0103). If a sender wrote the wrong VR of the two, only the 16
    bits of the value are right.
    """
    bits = int(value) % 2**16
    return bits - 2**16 if signed and bits >= 2**15 else bits


def _values(dataset: Dataset, keyword: str) -> Iterable[object]:
    tag = Tag(keyword)
    element = dataset.get_item(tag) if tag in dataset else None
    if element is None or element.value is None:
        return ()
    value = element.value
    if isinstance(element, RawDataElement):
        return _read_raw(element)
    if isinstance(value, bytes):
        return _read_bytes(value, dictionary_VR(tag), "<")
    is_many = isinstance(value, Iterable) and not isinstance(value, str)
    return itertools.islice(value, _LONGEST_NUMBERS) if is_many else (value,)


def _read_raw(element: RawDataElement) -> Iterable[object]:
    vr = element.VR
    if vr is None or vr in _UNTYPED:
        vr = dictionary_VR(element.tag)
    return _read_bytes(element.value or b"", vr, "<>"[not element.is_little_endian])


def _read_bytes(value: bytes, vr: str, order: str) -> Iterable[object]:
    value = value[:_LONGEST_NUMBERS]
    # The VR of some attributes in the dictionary is "US or SS".
    if kind := _BINARY.get(vr[:2]):
        dtype = np.dtype(order + kind)
        whole = len(value) // dtype.itemsize * dtype.itemsize
        return np.frombuffer(value[:whole], dtype).tolist()  # type: ignore[no-any-return]
    text = value.decode("ascii", "replace").strip(" \0")
    return text.split("\\") if text else ()


def _finite(value: object) -> float | None:
    if isinstance(value, str):
        found = _NUMBER.match(value)
        value = found[1].replace(",", ".") if found else None
    try:
        read = float(value)  # type: ignore[arg-type]  # the value may have any type
    except (ValueError, TypeError, ArithmeticError):
        return None
    return read if math.isfinite(read) else None


def text(dataset: Dataset, keyword: str) -> str:
    """Return the first value of a text or UID attribute, without padding.

    The result is empty if the attribute is absent or empty.
    """
    return texts(dataset, keyword)[0]


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return all values of a text or UID attribute, without padding.

    The result is `("",)` if the attribute is absent or empty.
    """
    try:
        value = dataset.get(keyword)
    # pydicom parses a number when the value is first accessed, and raises these errors
    # if the text is not a number, or if a binary number has too few bytes.
    except (ValueError, TypeError, ArithmeticError, BytesLengthException):
        value = dataset.get_item(Tag(keyword)).value
    if isinstance(value, bytes):  # an invalid number, or a VR with binary values
        value = value.decode("ascii", "replace").split("\\")
    # A PersonName is an iterable of characters.
    is_one = isinstance(value, str | PersonName) or not isinstance(value, Iterable)
    values = (value,) if is_one else (*value,) or (None,)
    return tuple("" if one is None else str(one).strip(" \0") for one in values)


def uid_text(value: bytes) -> str:
    """Return the whole value of a UID as text, without padding (PS3.5 9.1).

    The padding of a UID is NUL. Spaces are removed, too, because some senders pad with
    them. If a sender wrote several UIDs, the result contains all of them, separated by
    backslashes, and is not a valid UID.
    """
    return value.decode("ascii", "replace").strip(" \0")


def uid(dataset: Dataset, keyword: str) -> str:
    """Return the whole value of a UID attribute, without padding.

    Several UIDs are separated by backslashes. The result is empty if the attribute is
    absent.
    """
    value = dataset.get(keyword)
    if isinstance(value, bytes):  # the sender wrote it with another VR
        return uid_text(value)
    many = isinstance(value, Iterable) and not isinstance(value, str)
    values = value if many else (value,)
    return "\\".join("" if one is None else str(one) for one in values).strip(" \0")


def uid_fault(uid: str) -> str:
    """Return a phrase that says how a UID breaks the rules of PS3.5 9.1.

    Args:
        uid: A value that matches UID_PATTERN.

    Returns:
        A phrase that continues "The UID has", such as "an empty component". Empty if
        the UID breaks no rule.
    """
    components = uid.split(".")
    if len(uid) > STANDARD_UID_LENGTH:
        return f"{len(uid)} characters, more than {STANDARD_UID_LENGTH}"
    if "" in components:
        return "an empty component"
    if any(each.startswith("0") and each != "0" for each in components):
        return "a component with a leading zero"
    return ""


def code(dataset: Dataset, keyword: str) -> str:
    """Return the first value of a code string, in upper case and without padding.

    PS3.5 6.2 allows only upper case in a CS, but equipment writes lower case, too.
    Leading and trailing spaces are not significant.
    """
    return text(dataset, keyword).strip().upper()


def put(dataset: Dataset, keyword: str, value: object) -> None:
    """Set an attribute, with the VR of the data dictionary; do not check the value."""
    tag = Tag(keyword)
    vr = dictionary_VR(tag)
    dataset[tag] = DataElement(tag, vr, value, validation_mode=IGNORE)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; empty if it is absent or not a sequence."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def quoted(value: str) -> str:
    """Return a value for a message: unchanged if it is a code string or a UID.

    Any other value may be patient data, so the result is "not a valid code". If the
    value is empty, the result is "absent".
    """
    if not value:
        return "absent"
    return value if _QUOTABLE.fullmatch(value) else "not a valid code"


def loggable(uid: str) -> str:
    """Return a UID for a log line, or a phrase if `uid` does not match UID_PATTERN."""
    return uid if UID_PATTERN.fullmatch(uid) else "an instance without a valid UID"
