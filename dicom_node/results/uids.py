"""UIDs that follow from what they name, so that a second analysis is the same object.

They are UUID-derived (PS3.5 B.2: "2.25." and the UUID as a decimal number). The UUID is
RFC 9562's version 8: 122 bits of a SHA-256 between the version and variant bits.
"""

import hashlib
from uuid import UUID

from pydicom.uid import UID

IMPLEMENTATION_CLASS_UID = UID("2.25.147690605699978986616040338110953462800")
"""Who wrote a file (PS3.7 D.3.3.2). Fixed for as long as this software exists."""

RECIPE = 1
"""Raise it when results of the same input change: their UIDs must change with them."""

IMPLEMENTATION_VERSION_NAME = f"FRACTURE_NODE_{RECIPE}"
"""At most 16 characters (PS3.7 D.3.3.2.3)."""


_ROOT = "2.25."
_VERSION_AND_VARIANT = 0xF << 76 | 3 << 62


def may_be_derived(uid: str) -> bool:
    """Tell whether a UID has the form of a derived one, of this recipe or another."""
    number = uid.removeprefix(_ROOT)
    if number == uid or not (number.isascii() and number.isdecimal()):
        return False
    return int(number) < 1 << 128 and (
        int(number) & _VERSION_AND_VARIANT == 8 << 76 | 2 << 62
    )


def derived_uid(*parts: str) -> UID:
    """Make the UID that belongs to these parts, in this order, and to this recipe.

    Args:
        parts: All that tells the named thing from its like; without NUL characters.
    """
    text = "\0".join((IMPLEMENTATION_VERSION_NAME, *parts))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    number = number & ~(0xF << 76) | 8 << 76  # version 8
    number = number & ~(0x3 << 62) | 2 << 62  # variant of RFC 9562
    return UID(f"2.25.{UUID(int=number).int}")
