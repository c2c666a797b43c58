"""Parsing of P-DATA-TF PDUs."""

import pytest

from dicom_node.receiver.pdata import Fragments, is_fragments


def value(context: int, control: int, fragment: bytes) -> bytes:
    """Return an encoded presentation data value (PS3.8 9.3.5.1, E.2)."""
    content = bytes([context, control]) + fragment
    return len(content).to_bytes(4, "big") + content


def test_each_value_has_its_context_and_control_header() -> None:
    content = value(1, 3, b"command") + value(255, 0, b"") + value(3, 2, b"pixels")

    values = Fragments(memoryview(content)).to_primitive().presentation_data_value_list

    assert [(context, bytes(rest)) for context, rest in values] == [
        (1, b"\x03command"),
        (255, b"\x00"),
        (3, b"\x02pixels"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00\x00",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x01\x01",
        b"\x00\x00\x00\x09\x01\x00",
        b"\xff\xff\xff\xff\x01\x00",
        value(1, 3, b"command") + b"\x00",
    ],
    ids=["no length", "empty", "no control", "short", "4 GB", "trailing byte"],
)
def test_values_with_a_wrong_length_are_rejected(content: bytes) -> None:
    with pytest.raises(ValueError, match="wrong length"):
        Fragments(memoryview(content))


def test_is_fragments_is_false_for_other_pdus() -> None:
    assert is_fragments(bytes([4, 0, 0, 0, 0, 9]))
    assert not is_fragments(bytes([5, 0, 0, 0, 0, 4]))
    assert not is_fragments(bytes([4, 0, 0]))
