"""Reads the patient of an image from untrusted bytes, for the worklist and searches.

The journal stores patients only in one separate table. The worklist, the audit trail
and the search for other images of the same exposure read this table. If other machines
can reach the web pages, only authenticated users see the patients.
"""

import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.charset import (
    ESC,
    convert_encodings,
    decode_bytes,
    default_encoding,
    python_encoding,
)
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from dicom_node.text import REPLACEMENT, replace_unprintable

LONGEST = 1000
"""Maximum number of characters of a value; a name has three groups of 64 (PS3.5 6.2).

A longer value is cut and ends with CUT, so that it differs from every complete value.
"""

LONGEST_BYTES = 4 * LONGEST
CUT = "\N{HORIZONTAL ELLIPSIS}"

_IR_58 = "\x1b$)A"


@dataclass(frozen=True, slots=True)
class Patient:
    """The attributes by which users search for an image.

    Attributes:
        name: Patient's Name (0010,0010), decoded, with its delimiters "=" and "^".
        patient_id: Patient ID (0010,0020).
        accession_number: Accession Number (0008,0050).
    """

    name: str = ""
    patient_id: str = ""
    accession_number: str = ""

    def values(self) -> dict[str, str]:
        """Return the values for the journal's table of patients, by column name.

        The column `folded` contains the three values in the form that searches compare:
        see the function `folded`.
        """
        values = self.name, self.patient_id, self.accession_number
        return {
            "name": self.name,
            "patient_id": self.patient_id,
            "accession_number": self.accession_number,
            "folded": "\n".join(map(folded, values)),
        }


KEYWORDS = ("SpecificCharacterSet", "PatientName", "PatientID", "AccessionNumber")
"""Keywords of the attributes that `patient_of` reads."""


def patient_of(values: Mapping[str, bytes]) -> Patient:
    """Return the patient of a dataset.

    Undecodable and unprintable characters become U+FFFD.

    Args:
        values: The bytes of the attributes in KEYWORDS, by keyword. Any attribute may
            be absent.
    """
    terms = values.get("SpecificCharacterSet", b"")
    name = _printable(values.get("PatientName", b""), terms, is_name=True)
    patient_id, accession_number = (
        _printable(values.get(keyword, b""), terms)
        for keyword in ("PatientID", "AccessionNumber")
    )
    return Patient(name, patient_id, accession_number)


def decode_value(
    value: bytes,
    character_sets: bytes,
    *,
    is_name: bool = False,
    is_guessed: bool = False,
) -> str:
    """Return a value as text, decoded and without padding.

    Undecodable characters become U+FFFD, so no value raises an exception. A value of
    more than LONGEST characters or LONGEST_BYTES bytes is cut.

    Args:
        value: The value of the attribute.
        character_sets: The value of Specific Character Set (0008,0005).
        is_name: Whether the VR of the attribute is PN.
        is_guessed: If the character set is absent or unknown, the value is decoded as
            Latin 1 if `is_guessed`, else as ASCII.
    """
    value = value.strip(b" \0")
    is_cut, value = len(value) > LONGEST_BYTES, value[:LONGEST_BYTES]
    terms = character_sets.decode("ascii", "replace").split("\\")
    # pydicom warns about faults. This also suppresses its warnings in other threads.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encodings = _encodings([each.strip(" \0") for each in terms], is_guessed)
        if ESC not in value:
            text = value.decode(encodings[0], "replace")
        else:
            delimiters = PN_DELIMS if is_name else TEXT_VR_DELIMS
            text = decode_bytes(value, encodings, delimiters)
            # pydicom leaves the escape sequence of ISO 2022 IR 58 in the text. Any
            # other escape sequence is unknown, so its text was not decoded.
            text = text.replace(_IR_58, "").replace("\x1b", REPLACEMENT)
    is_cut |= len(text) > LONGEST
    return text[: LONGEST - len(CUT)] + CUT if is_cut else text


def folded(text: str) -> str:
    """Return a text in the form that searches compare: "muller eva" for Müller^Eva.

    Capitals become lower case, accents are removed, and the delimiters of a name become
    spaces.
    """
    plain = unicodedata.normalize("NFKD", text.replace("^", " ").replace("=", " "))
    bare = "".join(each for each in plain if not unicodedata.combining(each))
    return " ".join(bare.casefold().split())


def display_name(name: str) -> str:
    """Return a name as people write it: "Doe, Jane" for Doe^Jane.

    If the name also has an ideographic group, that group follows in parentheses. The
    phonetic group is omitted because it repeats the name.
    """
    groups = [_joined(group) for group in name.split("=")[:2]]
    first, *others = [each for each in groups if each] or [""]
    return f"{first} ({others[0]})" if others else first


def _joined(group: str) -> str:
    family, *rest = [each.strip() for each in group.split("^")]
    given = " ".join(each for each in rest if each)
    return ", ".join(each for each in (family, given) if each)


def _encodings(terms: list[str], is_guessed: bool) -> list[str]:  # noqa: FBT001 - private
    """Return Python's names of the encodings for `terms`.

    Args:
        terms: The values of Specific Character Set (0008,0005), without padding.
        is_guessed: See `decode_value`.
    """
    known = [term if term in python_encoding else "" for term in terms]
    fallback = "latin_1" if is_guessed else "ascii"
    # pydicom reads the default repertoire as `default_encoding`, which is Latin 1.
    return [
        fallback if each == default_encoding else each
        for each in convert_encodings(known)
    ]


def _printable(value: bytes, character_sets: bytes, *, is_name: bool = False) -> str:
    """Return a value as text, without spaces at both ends.

    Unprintable characters are replaced. If the character set is absent or unknown, the
    value is read as Latin 1. Otherwise see `decode_value`.
    """
    text = decode_value(value, character_sets, is_name=is_name, is_guessed=True)
    return replace_unprintable(text).strip()
