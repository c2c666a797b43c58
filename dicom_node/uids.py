"""Derives the UID of an object from texts that identify the object.

With the same RECIPE, the same texts always give the same UID. So a repeated analysis
gives objects with the same UIDs if the results are the same. The UIDs are UUID-derived
(PS3.5 B.2): "2.25." and the UUID as a decimal number. The UUID has version 8 of RFC
9562: 122 bits of a SHA-256, and the bits of the version and the variant.
"""

import hashlib
from uuid import UUID

from pydicom.uid import UID

IMPLEMENTATION_CLASS_UID = UID("2.25.147690605699978986616040338110953462800")
"""The UID that identifies this software as the writer of a file (PS3.7 D.3.3.2).

It must never change.
"""

RECIPE = 1
"""The version of the results. Increase it if the results of the same input change.

RECIPE is a part of each derived UID. The UIDs of series, devices and tracking do not
depend on the content of a result. If RECIPE were not increased, the results of two
releases would be in one series. The SOP Instance UID of a result also depends on its
content: see `content_uid` in results/encoding.py.
"""

IMPLEMENTATION_VERSION_NAME = f"FRACTURE_NODE_{RECIPE}"
"""Implementation Version Name in files and associations (PS3.7 D.3.3.2.3).

It ends with the version of the results. The standard allows at most 16 characters.
"""


_ROOT = "2.25."
_VERSION_AND_VARIANT = 0xF << 76 | 3 << 62


def may_be_derived(uid: str) -> bool:
    """Return whether a UID has the form of the UIDs that `derived_uid` makes.

    The form is the same in every release, because it does not depend on RECIPE.
    """
    number = uid.removeprefix(_ROOT)
    if number == uid or not (number.isascii() and number.isdecimal()):
        return False
    return int(number) < 1 << 128 and (
        int(number) & _VERSION_AND_VARIANT == 8 << 76 | 2 << 62
    )


def derived_uid(*parts: str) -> UID:
    """Return a UID that depends only on the parts, their order and RECIPE.

    Args:
        parts: Texts that together identify the object; without NUL characters.
    """
    text = "\0".join((IMPLEMENTATION_VERSION_NAME, *parts))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    number = number & ~(0xF << 76) | 8 << 76  # version 8
    number = number & ~(0x3 << 62) | 2 << 62  # variant of RFC 9562
    return UID(f"2.25.{UUID(int=number).int}")
