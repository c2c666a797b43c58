"""Messages in the character set, the version and the mode of a destination."""

from pathlib import Path
from typing import get_args

import pytest

from config.destinations import CharacterSet
from dicom_node.delivery.hl7_header import (
    CHARACTER_SETS,
    UnwritableError,
    control_id,
    written_message,
)
from tests.support.hl7_messages import made, ris, segments

pytestmark = pytest.mark.unit

MESSAGE = "MSH|^~\\&|||||20260304||ORU^R01^ORU_R01|ID1|P|2.5.1||||||UNICODE UTF-8\r"


def message(name: str) -> str:
    return f"{MESSAGE}PID|1||1||{name}\rOBR|1\r"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("utf-8", "قباني^لنزار"),
        ("utf-8", "山田^太郎"),
        ("iso-2022-jp", "山田^太郎"),
        ("iso-8859-1", "Müller^Zoë"),
        ("iso-8859-2", "Dvořák^Věra"),
        ("iso-8859-5", "Люкс"),
        ("iso-8859-6", "قباني^لنزار"),
        ("iso-8859-7", "Διονυσιος"),
        ("iso-8859-15", "Œuvre"),
        ("ascii", "Doe^Jane"),
    ],
)
def test_a_name_is_written_in_the_character_set(
    character_set: CharacterSet, name: str
) -> None:
    content = written_message(message(name), ris(character_set=character_set))

    in_header, codec = CHARACTER_SETS[character_set]
    read = content.decode(codec)
    (msh,), (pid,) = segments(read, "MSH"), segments(read, "PID")
    assert pid[5] == name
    assert msh[17] == in_header
    assert msh[19] == ("ISO 2022-1994" if character_set == "iso-2022-jp" else "")


def test_every_character_set_of_the_settings_is_known_to_python() -> None:
    assert set(CHARACTER_SETS) == set(get_args(CharacterSet))
    for character_set in CHARACTER_SETS:
        assert b"Doe" in written_message(
            message("Doe"), ris(character_set=character_set)
        )


def test_delimiters_of_japanese_text_are_ascii() -> None:
    """A receiver can split the bytes at ASCII delimiters before it decodes them."""
    content = written_message(message("山田^太郎"), ris(character_set="iso-2022-jp"))

    (pid,) = (each for each in content.split(b"\r") if each.startswith(b"PID"))
    assert b"\x1b(B^\x1b$B" in pid
    assert pid.endswith(b"\x1b(B")


@pytest.mark.parametrize(
    ("character_set", "name", "named"),
    [
        ("iso-8859-1", "山田", "8859/1"),
        ("iso-8859-6", "Müller", "8859/6"),
        ("ascii", "Müller", "ASCII"),
        ("iso-2022-jp", "Müller", "ISO IR87"),
        ("iso-2022-jp", "¥", "ISO IR87"),
        ("iso-2022-jp", "\N{OVERLINE}", "ISO IR87"),
    ],
)
def test_a_character_that_cannot_be_written_is_reported_without_the_value(
    character_set: CharacterSet, name: str, named: str
) -> None:
    with pytest.raises(UnwritableError) as reported:
        written_message(message(name), ris(character_set=character_set))

    text = str(reported.value)
    assert text.startswith(f"PID-5 has a character that {named} cannot express")
    assert name not in text
    assert text.isascii()


def test_a_character_that_could_not_be_decoded_is_reported(tmp_path: Path) -> None:
    values = {"PatientName": b"M\xfcller", "SpecificCharacterSet": "ISO_IR 192"}
    stored = made(tmp_path, values).content.decode()

    with pytest.raises(UnwritableError, match=r"^PID-5 has a character that cannot be"):
        written_message(stored, ris())


def test_the_header_has_the_settings_of_the_destination() -> None:
    destination = ris(
        version="2.3.1",
        acknowledgment="enhanced",
        sending_application="AI",
        sending_facility="RADIOLOGY",
        receiving_application="RIS",
        receiving_facility="HOSPITAL",
    )
    content = written_message(message("Doe"), destination).decode()

    header, _, body = content.partition("\r")
    assert header == (
        "MSH|^~\\&|AI|RADIOLOGY|RIS|HOSPITAL|20260304||ORU^R01^ORU_R01|ID1|P|2.3.1"
        "|||AL|NE||UNICODE UTF-8"
    )
    assert body == "PID|1||1||Doe\rOBR|1\r"


def test_the_usual_header_requests_no_enhanced_mode() -> None:
    (msh,) = segments(written_message(message("Doe"), ris()).decode(), "MSH")

    assert msh[2:6] == ["FRACTURE_NODE", "", "", ""]
    assert msh[14:16] == ["", ""]
    assert control_id(message("Doe")) == "ID1"
