"""PNG, JPEG, BMP, TIFF and WebP: shown as a reader sees them, refused in words."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference.phantom import draw_phantom
from inference.plain_image import (
    BrokenImageError,
    NotAnImageError,
    PlainImageError,
    TooLargeImageError,
    read_plain_image,
)

PHANTOM = draw_phantom(broken=True, rows=64, columns=48).radiograph().pixels
EXIF_ORIENTATION = 0x0112


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(content: bytes) -> Any:  # noqa: ANN401
    return read_plain_image(content, max_megapixels=1).pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_gray_of_8_bits_is_shown_as_it_is(kind: str) -> None:
    radiograph = read_plain_image(
        file_of(Image.fromarray(PHANTOM), kind), max_megapixels=1
    )

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM)
    assert radiograph.source_shape == (64, 48)
    assert radiograph.pixel_spacing is None


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})]
)
def test_lossy_formats_are_shown_nearly_as_they_were(
    kind: str, options: dict[str, int]
) -> None:
    pixels = pixels_of(file_of(Image.fromarray(PHANTOM), kind, **options))

    assert np.abs(pixels.astype(int) - PHANTOM).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_shown_through_percentiles(kind: str) -> None:
    # 0.5 and 99.5 % of 0 .. 1000 are 5 and 995; (500 - 5) / 990 is a half.
    values = np.arange(1001, dtype=np.uint16)[np.newaxis]

    gray = pixels_of(file_of(Image.fromarray(values), kind))[0]

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


def test_bars_at_the_edges_do_not_count_for_the_percentiles() -> None:
    inside = np.arange(1000, 2000, dtype=np.uint16).reshape(40, 25)
    framed = np.pad(inside, 30, constant_values=65535)

    gray = pixels_of(file_of(Image.fromarray(framed), "PNG"))

    # Of the inside alone: its middle is the middle.
    assert gray[50, 30] == pytest.approx(128, abs=1)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        # ITU-R BT.601: 0.299, 0.587 and 0.114 of 255
        ("RGB", (255, 0, 0), 76),
        ("RGB", (0, 255, 0), 150),
        ("RGB", (0, 0, 255), 29),
        ("RGBA", (255, 255, 255, 255), 255),
        # Half transparent over black is half as bright.
        ("RGBA", (255, 255, 255, 128), 128),
        ("LA", (200, 0), 0),
        ("CMYK", (0, 0, 0, 0), 255),
        ("1", 1, 255),
    ],
)
def test_color_becomes_luma_and_transparency_black(
    mode: str,
    color: Any,  # noqa: ANN401
    expected: int,
) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((0, 0), color)
    if mode in {"LA", "RGBA"}:
        image.putpixel((1, 0), (9,) * (len(mode) - 1) + (255,))
    else:
        image.putpixel((1, 0), (0, 0, 0, 200)[: len(mode)] if mode != "1" else 0)

    assert pixels_of(file_of(image, "TIFF"))[0, 0] == expected


def test_palette_with_a_transparent_color_is_shown() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 10, 10, 250, 250, 250])
    image.putpixel((1, 0), 1)

    assert pixels_of(file_of(image, "PNG", transparency=0)).tolist() == [[0, 250]]


def test_image_is_turned_upright_as_exif_says() -> None:
    # Orientation 6: the first row of the file is the right side of the picture.
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6

    radiograph = read_plain_image(
        file_of(Image.fromarray(PHANTOM), "PNG", exif=exif), max_megapixels=1
    )

    np.testing.assert_array_equal(radiograph.pixels, np.rot90(PHANTOM, -1))
    assert radiograph.source_shape == (48, 64)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a" + bytes(20), b"text", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(NotAnImageError, match="PNG, JPEG, BMP, TIFF, WEBP can"):
        pixels_of(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_truncated_image_is_refused(kind: str) -> None:
    content = file_of(Image.fromarray(PHANTOM), kind)

    with pytest.raises(PlainImageError, match=r"ends early|no image that can be read"):
        pixels_of(content[: len(content) // 2])


def test_blank_image_is_refused() -> None:
    with pytest.raises(BrokenImageError, match="blank"):
        pixels_of(file_of(Image.new("L", (9, 9), 7), "PNG"))


def claiming(columns: int, rows: int) -> bytes:
    """A PNG whose header claims a size; nothing comes after."""
    header = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    check = zlib.crc32(b"IHDR" + header)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", check) + data


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        pytest.param((1001, 1000), "1000 x 1001 pixels, more than 1 mega", id="large"),
        pytest.param((60_000, 60_000), "more pixels than any", id="bomb"),
    ],
)
def test_too_large_image_is_refused_by_its_header(
    size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(TooLargeImageError, match=reason):
        pixels_of(claiming(*size))


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    length=st.floats(0, 1),
)
def test_damaged_files_end_in_our_errors_only(
    kind: str, damage: list[tuple[float, int]], length: float
) -> None:
    content = bytearray(file_of(Image.fromarray(PHANTOM), kind))
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value

    try:
        pixels = pixels_of(bytes(content[: int(length * len(content)) + 1]))
    except PlainImageError:
        return
    assert pixels.dtype == np.uint8
