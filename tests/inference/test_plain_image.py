"""PNG, JPEG, BMP, TIFF and WebP files: displayed values, and errors."""

import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from inference.phantom.long_bone import draw_phantom
from inference.plain_image import (
    FORMATS,
    BrokenImageError,
    NotAnImageError,
    PlainImageError,
    TooLargeImageError,
    read_plain_image,
)

DRAWN = draw_phantom(broken=True, rows=64, columns=48)
PHANTOM = DRAWN.radiograph().pixels
DEEP = DRAWN.pixels  # 12 bits in 16
EXIF_ORIENTATION = 0x0112
ORIENTATIONS = range(1, 9)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff_of(
    samples: NDArray[np.uint16],
    *,
    order: str = "<",
    fields: dict[int, int] | None = None,
) -> bytes:
    """Return a TIFF with 16 bits per sample in one strip.

    Pillow cannot write color with 16 bits per sample.

    Args:
        samples: (rows, columns) or (rows, columns, channels).
        order: "<" for little, ">" for big endian.
        fields: Values of TIFF 6.0 fields by tag number, each of type SHORT. They are
            added, or replace the values that the function chooses.
    """
    rows, columns, channels = np.atleast_3d(samples).shape
    data = samples.astype(f"{order}u2").tobytes()
    values: dict[int, Any] = {256: columns, 257: rows, 258: (16,) * channels, 259: 1}
    values |= {262: 2 if channels > 1 else 1, 277: channels, 278: rows}
    values |= {273: 0, 279: len(data)} | (fields or {})
    prefix = b"II*\0" if order == "<" else b"MM\0*"
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix + bytes(4))
    for tag, value in values.items():
        directory.tagtype[tag] = 4 if tag in {273, 279} else 3  # LONG, SHORT
        directory[tag] = value
    # Pillow adds the end of the directory to the offset of the strip, which is 0.
    return prefix + struct.pack(f"{order}I", 8) + directory.tobytes(8) + data


def colored(gray: NDArray[np.uint16], alpha: int | None = None) -> NDArray[np.uint16]:
    """Return an image with `gray` as red, green and blue: (rows, columns, 3 or 4).

    If `alpha` is not None, the fourth channel has this value in each pixel.
    """
    rgb = np.repeat(gray[..., np.newaxis], 3, axis=2)
    if alpha is None:
        return rgb
    return np.dstack([rgb, np.full_like(gray, alpha)])


def png_of(samples: NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", samples)[1].tobytes()


def assert_nearly_equal(pixels: Any, expected: Any) -> None:  # noqa: ANN401
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=1)


def pixels_of(content: bytes) -> Any:  # noqa: ANN401
    return read_plain_image(content, max_megapixels=1).pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_8_bit_gray_is_shown_unchanged(kind: str) -> None:
    radiograph = read_plain_image(
        file_of(Image.fromarray(PHANTOM), kind), max_megapixels=1
    )

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM)
    assert radiograph.source_shape == (64, 48)
    assert radiograph.pixel_spacing is None


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})]
)
def test_lossy_formats_are_shown_nearly_unchanged(
    kind: str, options: dict[str, int]
) -> None:
    pixels = pixels_of(file_of(Image.fromarray(PHANTOM), kind, **options))

    assert np.abs(pixels.astype(int) - PHANTOM).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_windowed_by_percentiles(kind: str) -> None:
    # The percentiles 0.5 and 99.5 of 0 to 1000 are 5 and 995. (500 - 5) / 990 = 1/2.
    values = np.arange(1001, dtype=np.uint16)[np.newaxis]

    gray = pixels_of(file_of(Image.fromarray(values), kind))[0]

    assert (gray[5], gray[500], gray[995]) == (0, 128, 255)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_of(colored(DEEP)), id="PNG RGB"),
        pytest.param(png_of(colored(DEEP, 65535)), id="PNG RGBA"),
        # Half transparent over black is half as bright; the window compensates for it.
        pytest.param(png_of(colored(DEEP * 2, 32768)), id="PNG half transparent"),
        pytest.param(tiff_of(colored(DEEP)), id="TIFF little"),
        pytest.param(tiff_of(colored(DEEP), order=">"), id="TIFF big"),
        pytest.param(
            cv2.imencode(".tiff", colored(DEEP), [cv2.IMWRITE_TIFF_COMPRESSION, 5])[
                1
            ].tobytes(),
            id="TIFF LZW",
        ),
    ],
)
def test_16_bit_color_is_shown_like_16_bit_gray(content: bytes) -> None:
    gray = pixels_of(png_of(DEEP))

    assert gray.std() > 20
    assert_nearly_equal(pixels_of(content), gray)


@pytest.mark.parametrize(
    ("extra", "is_applied"),
    [
        pytest.param(0, False, id="no alpha"),
        pytest.param(1, False, id="associated: already applied"),
        pytest.param(2, True, id="unassociated"),
    ],
)
def test_fourth_16_bit_channel_is_used_as_the_file_declares(
    extra: int, *, is_applied: bool
) -> None:
    samples = colored(DEEP, 65535)
    samples[:32, :, 3] = 0

    pixels = pixels_of(tiff_of(samples, fields={338: extra}))

    assert bool(pixels[:32].any()) is not is_applied


@pytest.mark.parametrize(
    ("color", "luma"),
    [(0, 0.299), (1, 0.587), (2, 0.114)],
    ids=["red", "green", "blue"],
)
def test_luma_of_16_bit_color_is_that_of_8_bit_color(color: int, luma: float) -> None:
    # The percentiles 0.5 and 99.5 are 0 and 60000: half of the pixels have each value.
    samples = np.zeros((1, 400, 3), np.uint16)
    samples[0, ::2] = 60000
    samples[0, 1, color] = 60000

    pixels = pixels_of(tiff_of(samples))

    assert pixels[0, 1] == pytest.approx(luma * 255, abs=1)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_16_bit_color_is_rotated_by_its_exif_orientation(orientation: int) -> None:
    upright = file_of(
        Image.fromarray(PHANTOM), "PNG", exif=exif_orientation(orientation)
    )
    expected = np.asarray(pixels_of(upright), np.uint16) * 16
    deep = np.asarray(PHANTOM, np.uint16) * 16
    plain, head = png_of(colored(deep)), 33  # signature and IHDR
    exif = exif_orientation(orientation).tobytes().removeprefix(b"Exif\0\0")
    check = struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + check

    as_png = pixels_of(plain[:head] + chunk + plain[head:])
    as_tiff = pixels_of(tiff_of(colored(deep), fields={EXIF_ORIENTATION: orientation}))

    assert_nearly_equal(as_png, pixels_of(png_of(expected)))
    assert_nearly_equal(as_tiff, pixels_of(png_of(expected)))


def exif_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("channels", "fields"),
    [pytest.param(3, {284: 2}, id="planes"), pytest.param(4, {262: 5}, id="CMYK")],
)
def test_16_bit_color_in_an_unsupported_layout_is_refused(
    channels: int, fields: dict[int, int]
) -> None:
    content = tiff_of(colored(DEEP, 0)[..., :channels], fields=fields)

    with pytest.raises(
        BrokenImageError, match="16-bit colors in an unsupported layout"
    ):
        pixels_of(content)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("inverted", [0, 1], ids=["white is zero", "black is zero"])
def test_16_bit_gray_is_shown_the_same_for_both_polarities(
    order: str, inverted: int
) -> None:
    stored = DEEP if inverted else 4095 - DEEP

    pixels = pixels_of(tiff_of(stored, order=order, fields={262: inverted}))

    assert_nearly_equal(pixels, pixels_of(png_of(DEEP)))


def test_bars_at_the_edges_are_excluded_from_the_percentiles() -> None:
    inside = np.arange(1000, 2000, dtype=np.uint16).reshape(40, 25)
    framed = np.pad(inside, 30, constant_values=65535)

    gray = pixels_of(file_of(Image.fromarray(framed), "PNG"))

    # The window covers the values inside the bars, so their median is middle gray.
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


def with_transparent(content: bytes, *values: int) -> bytes:
    """Add a tRNS chunk with one 16-bit value for each channel to a PNG file."""
    data = b"tRNS" + np.array(values, ">u2").tobytes()
    chunk = (
        struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )
    position = content.index(b"IDAT") - 4
    return content[:position] + chunk + content[position:]


def test_transparent_value_of_a_16_bit_png_is_black_and_has_16_bits() -> None:
    values = DEEP * 8
    values[:8], values[8:16] = 32767, 32766  # equal in 8 bits
    opaque = np.where(values == 32767, 0, 65535).astype(np.uint16)
    expected = pixels_of(png_of(np.dstack([colored(values), opaque])))

    gray = pixels_of(with_transparent(png_of(values), 32767))
    color = pixels_of(with_transparent(png_of(colored(values)), *[32767] * 3))

    assert not gray[:8].any()
    assert (gray[8:16] == 255).all()
    np.testing.assert_array_equal(gray, expected)
    np.testing.assert_array_equal(color, expected)


def test_image_is_rotated_by_its_exif_orientation() -> None:
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
def test_file_that_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(NotAnImageError, match="format: PNG, JPEG, BMP, TIFF, WEBP"):
        pixels_of(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_truncated_image_is_refused(kind: str) -> None:
    content = file_of(Image.fromarray(PHANTOM), kind)

    with pytest.raises(
        PlainImageError, match=r"ends early|no image in a supported format"
    ):
        pixels_of(content[: len(content) // 2])


def test_blank_image_is_refused() -> None:
    with pytest.raises(BrokenImageError, match="blank"):
        pixels_of(file_of(Image.new("L", (9, 9), 7), "PNG"))


def png_header(columns: int, rows: int) -> bytes:
    """Return a PNG without pixel data. Its header declares the given size."""
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
        pixels_of(png_header(*size))


WHOLE = [
    *(file_of(Image.fromarray(PHANTOM), kind) for kind in FORMATS),
    png_of(colored(DEEP)),
    tiff_of(colored(DEEP)),
    tiff_of(DEEP, order=">", fields={262: 0}),
]


@settings(max_examples=200, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    length=st.floats(0, 1),
)
def test_damaged_files_raise_only_plain_image_errors(
    whole: bytes, damage: list[tuple[float, int]], length: float
) -> None:
    content = bytearray(whole)
    for position, value in damage:
        content[int(position * (len(content) - 1))] = value

    try:
        pixels = pixels_of(bytes(content[: int(length * len(content)) + 1]))
    except PlainImageError:
        return
    assert pixels.dtype == np.uint8
