"""Attribute values in several encodings."""

import struct

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.dataset.attributes import (
    code,
    is_plain,
    number,
    numbers,
    signed_16,
    text,
    uid,
)


def raw(
    keyword: str, vr: str | None, value: bytes, *, is_little_endian: bool = True
) -> Dataset:
    """Return a dataset with one attribute that pydicom has not parsed yet."""
    dataset = Dataset()
    dataset[keyword] = RawDataElement(
        Tag(keyword), vr, len(value), value, 0, vr is None, is_little_endian
    )
    return dataset


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2048", (2048,)),
        ("2048\\", (2048, None)),
        ("\\2048", (None, 2048)),
        ("2600\\NaN", (2600, None)),
        ("inf\\2600", (None, 2600)),
        ("1e999\\2600", (None, 2600)),  # larger than the largest float
        ("soft\\2600\\\\", (None, 2600, None, None)),
        (" 2048 \\ 1e3\0", (2048, 1000)),
        ("2048,5\\.5", (2048.5, 0.5)),
        ("2048 HU", (2048,)),  # as DCMTK reads it
        ("", ()),
        (" ", ()),
    ],
)
def test_numbers_keeps_the_position_of_each_value(
    written: str, read: tuple[float | None, ...]
) -> None:
    assert numbers(raw("WindowCenter", "DS", written.encode()), "WindowCenter") == read


@pytest.mark.parametrize(
    ("written", "expected"),
    [("2048", True), ("-1.5e3\\7 ", True), ("", True), ("7,5", False), ("7\\", False)],
)
def test_number_is_plain_if_its_text_conforms_to_the_standard(
    written: str,
    expected: bool,  # noqa: FBT001
) -> None:
    dataset = raw("WindowCenter", "DS", written.encode())

    assert is_plain(dataset, "WindowCenter") is expected


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("US", struct.pack("<H", 64512)),
        ("SS", struct.pack("<h", -1024)),
        ("OW", struct.pack("<H", 64512)),
        ("UN", struct.pack("<H", 64512)),
        (None, struct.pack("<H", 64512)),
        ("SL", struct.pack("<i", -1024)),
        ("UL", struct.pack("<I", 64512)),
        ("FD", struct.pack("<d", -1024)),
        ("IS", b"-1024 "),
        ("DS", b"64512 "),
    ],
)
def test_us_or_ss_value_is_the_same_for_any_vr(vr: str | None, value: bytes) -> None:
    written = number(raw("PixelPaddingValue", vr, value), "PixelPaddingValue", 0)

    assert signed_16(written, signed=True) == -1024
    assert signed_16(written, signed=False) == 64512


def test_binary_values_are_read_in_their_byte_order() -> None:
    value = struct.pack(">3h", 2065, -736, 16)
    dataset = raw("LUTDescriptor", "SS", value, is_little_endian=False)

    assert numbers(dataset, "LUTDescriptor") == (2065, -736, 16)


def test_incomplete_last_binary_value_is_ignored() -> None:
    assert numbers(raw("PixelPaddingValue", "US", b"\7\0\1"), "PixelPaddingValue") == (
        7,
    )


@pytest.mark.parametrize("written", ["LINEAR", " linear ", "Linear\\SIGMOID"])
def test_code_is_stripped_and_in_upper_case(written: str) -> None:
    dataset = raw("VOILUTFunction", "CS", written.encode())

    assert code(dataset, "VOILUTFunction") == "LINEAR"


def test_text_of_an_invalid_number_is_its_first_value() -> None:
    assert text(raw("WindowCenter", "DS", b"soft\\7"), "WindowCenter") == "soft"


@pytest.mark.parametrize("vr", ["UI", "OB"])
def test_a_uid_is_read_whatever_its_vr(vr: str) -> None:
    dataset = Dataset()
    dataset.add_new("StudyInstanceUID", vr, b"1.2.3\0" if vr != "UI" else "1.2.3")

    assert uid(dataset, "StudyInstanceUID") == "1.2.3"


def test_several_uids_are_one_text() -> None:
    assert uid(raw("StudyInstanceUID", "UI", b"1.2\\3.4\0"), "StudyInstanceUID") == (
        "1.2\\3.4"
    )


def test_numbers_are_read_from_the_bytes_of_an_unknown_vr() -> None:
    dataset = Dataset()
    dataset.add_new("Rows", "UN", struct.pack("<H", 300))

    assert numbers(dataset, "Rows") == (300,)
