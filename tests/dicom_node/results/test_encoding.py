"""Result objects and their elements as bytes."""

import struct

import pytest

from dicom_node.results.encoding import ResultObject, encoded


@pytest.mark.parametrize(
    ("kind", "sop_class_uid", "sop_instance_uid"),
    [
        ("../secondary_capture", "1.2.840", "2.25.1"),
        ("", "1.2.840", "2.25.1"),
        ("secondary_capture", "1.2/840", "2.25.1"),
        ("secondary_capture", "1.2.840", "2.25.1/../../etc"),
        ("secondary_capture", "1.2.840", ""),
    ],
)
def test_a_result_whose_file_name_is_not_safe_cannot_be_made(
    kind: str, sop_class_uid: str, sop_instance_uid: str
) -> None:
    with pytest.raises(ValueError, match="kind and two UIDs"):
        ResultObject(kind, sop_class_uid, sop_instance_uid, b"")


@pytest.mark.parametrize(
    ("vr", "size", "head"),
    [
        ("UT", 70_000, b"UT\0\0" + struct.pack("<I", 70_000)),
        ("LO", 65_534, b"LO" + struct.pack("<H", 65_534)),
        # PS3.5 6.2.2, note 2: the length does not fit into 16 bits.
        ("LO", 65_536, b"UN\0\0" + struct.pack("<I", 65_536)),
    ],
)
def test_a_value_that_is_too_long_for_its_vr_is_un(
    vr: str, size: int, head: bytes
) -> None:
    element = encoded(0x00104000, vr, b"a" * size)

    assert element == struct.pack("<HH", 0x0010, 0x4000) + head + b"a" * size


@pytest.mark.parametrize(
    ("vr", "padded"), [("UI", b"1.2\0"), ("OB", b"1.2\0"), ("LO", b"1.2 ")]
)
def test_a_value_of_odd_length_is_padded(vr: str, padded: bytes) -> None:
    assert encoded(0x00104000, vr, b"1.2").endswith(padded)
