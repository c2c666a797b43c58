"""Adapts an HL7 message to its destination: sets fields of MSH and the character set.

The message is stored once, as UTF-8, for all destinations. The bytes that a destination
gets depend only on this message and on the settings of the destination. So each attempt
sends the same bytes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from config.destinations import CharacterSet, Hl7Destination
from dicom_node.text import REPLACEMENT

CHARACTER_SETS: Mapping[CharacterSet, tuple[str, str]] = MappingProxyType(
    {
        "utf-8": ("UNICODE UTF-8", "utf-8"),
        "ascii": ("ASCII", "ascii"),
        "iso-8859-1": ("8859/1", "iso8859_1"),
        "iso-8859-2": ("8859/2", "iso8859_2"),
        "iso-8859-3": ("8859/3", "iso8859_3"),
        "iso-8859-4": ("8859/4", "iso8859_4"),
        "iso-8859-5": ("8859/5", "iso8859_5"),
        "iso-8859-6": ("8859/6", "iso8859_6"),
        "iso-8859-7": ("8859/7", "iso8859_7"),
        "iso-8859-8": ("8859/8", "iso8859_8"),
        "iso-8859-9": ("8859/9", "iso8859_9"),
        "iso-8859-15": ("8859/15", "iso8859_15"),
        "iso-2022-jp": ("~ISO IR87", "iso2022_jp"),
    }
)
"""The value of MSH-18 (HL7 table 0211), and Python's codec, for each character set.

With ISO IR87, texts begin in ASCII, and escape sequences of ISO 2022 change the set.
Python's codec returns to ASCII before each delimiter, because delimiters are ASCII.
"""

_NOT_IN_IR_87 = frozenset("\N{YEN SIGN}\N{OVERLINE}")
"""Characters that Python's codec encodes in ISO IR14, which MSH-18 does not name."""

_MULTIPLE_SETS = "ISO 2022-1994"  # MSH-20, HL7 table 0356
_LAST_FIELD = 20


class UnwritableError(Exception):
    """A field of an HL7 message cannot be written. The error text names the field."""


def written_message(stored: str, destination: Hl7Destination) -> bytes:
    """Return the bytes of a message for a destination.

    Args:
        stored: The message as the node stores it.
        destination: The settings of the destination.

    Raises:
        UnwritableError: The character set of the settings does not have a character of
            the message, or a text of the image could not be decoded.
    """
    header, separator, body = stored.partition("\r")
    text = f"{_header(header, destination)}{separator}{body}"
    return _encoded(text, destination.character_set)


def control_id(stored: str) -> str:
    """Return the Message Control ID (MSH-10) of a message."""
    return stored.split("|", 10)[9]


def _header(header: str, destination: Hl7Destination) -> str:
    fields = header.split("|")
    fields += [""] * (_LAST_FIELD - len(fields))
    character_set, _ = CHARACTER_SETS[destination.character_set]
    is_enhanced = destination.acknowledgment == "enhanced"
    values = {
        3: destination.sending_application,
        4: destination.sending_facility,
        5: destination.receiving_application,
        6: destination.receiving_facility,
        12: destination.version,
        15: "AL" if is_enhanced else "",
        16: "NE" if is_enhanced else "",
        18: character_set,
        20: _MULTIPLE_SETS if character_set.startswith("~") else "",
    }
    for number, value in values.items():
        fields[number - 1] = value  # MSH-1 is the first separator
    return "|".join(fields).rstrip("|")


def _encoded(text: str, character_set: CharacterSet) -> bytes:
    name, codec = CHARACTER_SETS[character_set]
    if REPLACEMENT in text:
        raise UnwritableError(
            f"{_field_at(text, text.index(REPLACEMENT))} has a character that cannot "
            "be decoded from the image. Correct Specific Character Set (0008,0005) at "
            "the modality and send the image again"
        )
    unwritable = _NOT_IN_IR_87 if character_set == "iso-2022-jp" else frozenset[str]()
    position = next((i for i, each in enumerate(text) if each in unwritable), None)
    if position is None:
        try:
            return text.encode(codec)
        except UnicodeEncodeError as error:
            position = error.start
    raise UnwritableError(
        f"{_field_at(text, position)} has a character that {name.lstrip('~')} cannot "
        "express. Set another character_set, restart the node and retry the delivery"
    )


def _field_at(text: str, position: int) -> str:
    """Return the name of the field with the character at `position`, such as PID-5."""
    # In MSH, the number would be one too low. But all characters of MSH are ASCII.
    segment = text[:position].rpartition("\r")[2]
    return f"{segment[:3]}-{segment.count('|')}"
