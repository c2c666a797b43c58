"""Preprocessing for the network, and mapping of heatmaps back to the radiograph."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from inference.classification.preprocess import normalized, prepare
from inference.radiograph import Radiograph
from inference.training.draft import DRAFT

PLAIN = replace(DRAFT, scales=(1,), exposure="as_shown", crop="none")
LETTERBOX = replace(PLAIN, resize="letterbox", mean=(0, 0, 0), std=(1, 1, 1))
STRETCH = replace(LETTERBOX, resize="stretch")
SHAPES = [(700, 1400), (1400, 700), (900, 1200), (333, 1000), (100, 100), (57, 31)]


def radiograph(pixels: NDArray[np.uint8]) -> Radiograph:
    return Radiograph(pixels, None, (pixels.shape[0], pixels.shape[1]))


def noise(rows: int, columns: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(rows * columns)
    return random.integers(0, 256, (rows, columns), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_stretching_equals_resizing_by_torchvision(
    shape: tuple[int, int],
) -> None:
    pixels = noise(*shape)
    pipeline = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.ToTensor()]
    )

    found = prepare(radiograph(pixels), STRETCH)

    expected = pipeline(Image.fromarray(pixels).convert("RGB"))[None]
    tensor = normalized(found.gray, STRETCH)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert (found.left, found.top, found.width, found.height) == (0, 0, 224, 224)


@pytest.mark.parametrize(
    ("shape", "covered"),
    [
        pytest.param((700, 1400), (0, 56, 224, 112), id="landscape"),
        pytest.param((1400, 700), (56, 0, 112, 224), id="portrait"),
        pytest.param((100, 100), (0, 0, 224, 224), id="square-enlarged"),
        pytest.param((1, 1000), (0, 111, 224, 1), id="a-line"),
    ],
)
def test_a_letterbox_centers_the_radiograph_in_black(
    shape: tuple[int, int], covered: tuple[int, int, int, int]
) -> None:
    white = np.full(shape, 255, np.uint8)

    found = prepare(radiograph(white), LETTERBOX)

    left, top, width, height = covered
    assert (found.left, found.top, found.width, found.height) == covered
    expected = torch.zeros(224, 224, dtype=torch.uint8)
    expected[top : top + height, left : left + width] = 255
    torch.testing.assert_close(found.gray[0], expected)


def test_intensities_are_normalized_per_channel_including_padding() -> None:
    card = replace(LETTERBOX, mean=(0.5, 0.4, 0.0), std=(0.5, 0.2, 1.0))
    gray = np.full((100, 200), 51, np.uint8)  # 51 / 255 = 0.2

    tensor = normalized(prepare(radiograph(gray), card).gray, card)

    torch.testing.assert_close(tensor[0, :, 112, 112], torch.tensor([-0.6, -1.0, 0.2]))
    torch.testing.assert_close(tensor[0, :, 0, 0], torch.tensor([-1.0, -2.0, 0.0]))


def test_reduction_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((2240, 2240), np.uint8)
    stripes[:, ::2] = 255  # every other column: mean intensity one half

    found = prepare(radiograph(stripes), STRETCH).gray

    assert (found / 255 - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("card", [LETTERBOX, STRETCH])
@pytest.mark.parametrize("shape", SHAPES)
def test_saliency_is_mapped_back_to_its_position_in_the_radiograph(
    shape: tuple[int, int], card: object
) -> None:
    """The map of a bright patch has the same center as the patch."""
    assert card in (LETTERBOX, STRETCH)
    rows, columns = shape
    patch = np.zeros(shape, np.uint8)
    top, left = round(rows * 0.55), round(columns * 0.3)
    bottom, right = top + max(rows // 7, 1), left + max(columns // 7, 1)
    patch[top:bottom, left:right] = 255
    found = prepare(radiograph(patch), card)  # type: ignore[arg-type]

    saliency = found.saliency((found.gray[0] / 255).numpy())

    assert saliency.shape == (found.height, found.width)
    height, width = saliency.shape
    down, right_of = np.indices(saliency.shape) + 0.5
    center = (
        float((right_of * saliency).sum() / saliency.sum()) * columns / width,
        float((down * saliency).sum() / saliency.sum()) * rows / height,
    )
    # Within half a pixel of the coarser grid.
    assert center[0] == pytest.approx((left + right) / 2, abs=max(0.5, columns / 448))
    assert center[1] == pytest.approx((top + bottom) / 2, abs=max(0.5, rows / 448))


@pytest.mark.parametrize(
    ("shape", "canvas", "covered"),
    [
        # 448 x 3/4 = 336. The next multiple of 32 is 352.
        pytest.param((1200, 900), (448, 352), (8, 0, 336, 448), id="portrait"),
        pytest.param((500, 1000), (224, 448), (0, 0, 448, 224), id="landscape"),
        pytest.param((300, 300), (448, 448), (0, 0, 448, 448), id="square"),
        # 448 / 9 = 50, rounded. The next multiple of 32 is 64.
        pytest.param((900, 100), (448, 64), (7, 0, 50, 448), id="narrow"),
    ],
)
def test_a_canvas_for_two_scales_has_no_padding_beyond_its_grid(
    shape: tuple[int, int],
    canvas: tuple[int, int],
    covered: tuple[int, int, int, int],
) -> None:
    white = np.full(shape, 255, np.uint8)

    found = prepare(radiograph(white), replace(LETTERBOX, scales=(1, 2)))

    assert found.gray.shape == (1, *canvas)
    assert (found.left, found.top, found.width, found.height) == covered
    assert int(found.gray.sum()) == 255 * found.width * found.height
    # The last cell of the radiograph, in a grid of 16 pixels per cell.
    heatmap = np.zeros((canvas[0] // 16, canvas[1] // 16), np.float32)
    right = (found.left + found.width - 1) // 16
    heatmap[-1, right] = 1
    saliency = found.saliency(heatmap)
    assert saliency.shape == (found.height, found.width)
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert (found.left + column) // 16 == right
    assert row >= found.height - 16


@pytest.mark.parametrize(("low", "high"), [(0, 255), (10, 60), (100, 250)])
def test_exposure_by_percentiles_gives_the_same_picture_for_any_window(
    low: int, high: int
) -> None:
    levels = np.linspace(low, high, 51).round().astype(np.uint8)
    shown = np.zeros((60, 80), np.uint8)
    shown[5:55, 10:70] = np.resize(levels, (50, 60))  # in a black border

    found = prepare(radiograph(shown), replace(STRETCH, exposure="percentiles"))

    small = np.zeros((60, 80), np.uint8)
    small[5:55, 10:70] = np.resize(np.linspace(0, 255, 51), (50, 60))
    expected = prepare(radiograph(small), STRETCH)
    # Rounding of the gray levels and of the percentiles causes small differences.
    difference = found.gray.int() - expected.gray.int()
    assert difference.abs().max() <= 4


def test_image_with_one_gray_level_stays_uniform() -> None:
    flat = np.full((40, 30), 77, np.uint8)

    found = prepare(radiograph(flat), replace(STRETCH, exposure="percentiles"))

    assert found.gray.unique().numel() == 1


@pytest.mark.parametrize("inner_edge", [None, 255, 90])
@pytest.mark.parametrize("level", [0, 255])
def test_uniform_edges_are_cropped(level: int, inner_edge: int | None) -> None:
    """A border around a border is cropped, too. What is inside stays as it was."""
    card = replace(LETTERBOX, crop="exposed_area", exposure="percentiles")
    pixels = noise(90, 60)
    bordered = pixels
    if inner_edge is not None:
        bordered = np.pad(bordered, ((0, 7), (0, 0)), constant_values=inner_edge)
    bordered = np.pad(bordered, ((11, 4), (31, 0)), constant_values=level)

    found = prepare(radiograph(bordered), card)

    torch.testing.assert_close(found.gray, prepare(radiograph(pixels), card).gray)
    without = prepare(radiograph(bordered), replace(card, crop="none"))
    assert not torch.equal(found.gray, without.gray)


def test_saliency_of_a_cropped_radiograph_covers_all_of_it() -> None:
    """The map is zero in the border. A peak is where it is in the radiograph."""
    card = replace(LETTERBOX, crop="exposed_area")
    bordered = np.pad(noise(300, 150), ((100, 0), (50, 200)))  # 400 x 400
    found = prepare(radiograph(bordered), card)
    # 224 canvas pixels for 300 rows. The columns begin at (224 - 112) / 2.
    heatmap = np.full((14, 14), 0.6, np.float32)
    heatmap[0, 7] = 1.0

    saliency = found.saliency(heatmap)

    assert saliency.shape == pytest.approx((224 / 300 * 400,) * 2, abs=1)
    rows, columns = np.nonzero(saliency)
    assert (rows.min(), rows.max()) == (75, 298)
    assert (columns.min(), columns.max()) == (37, 37 + 112 - 1)
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert row <= 75 + 16
    assert 37 + 56 <= column <= 37 + 56 + 16


@pytest.mark.parametrize("crop", ["none", "exposed_area"])
def test_uniform_image_is_not_cropped(crop: Literal["none", "exposed_area"]) -> None:
    flat = np.full((40, 30), 77, np.uint8)

    found = prepare(radiograph(flat), replace(LETTERBOX, crop=crop))

    assert (found.left, found.top, found.width, found.height) == (28, 0, 168, 224)
    assert int(found.gray.max()) == 77


def test_saliency_excludes_the_padding() -> None:
    found = prepare(radiograph(noise(400, 800)), LETTERBOX)
    heatmap = np.zeros((7, 7), np.float32)
    heatmap[0, 3] = 3.0  # rows 0 to 32 of the canvas: padding, which ends at 56
    heatmap[4, 5] = 2.0  # rows 128 to 160, columns 160 to 192

    saliency = found.saliency(heatmap)

    assert saliency.shape == (112, 224)
    assert saliency.max() == 1
    assert saliency.min() == 0
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert (row + 0.5, column + 0.5) == pytest.approx((144 - 56, 176), abs=0.5)


@pytest.mark.parametrize(
    ("covered", "is_shown"), [(0.0, False), (0.8, False), (1.6, True)]
)
def test_heat_in_the_padding_is_not_moved_to_the_edge(
    covered: float, *, is_shown: bool
) -> None:
    found = prepare(radiograph(noise(400, 800)), LETTERBOX)
    heatmap = np.zeros((7, 7), np.float32)
    heatmap[0, 3] = 2.0  # rows 0 to 32 of the canvas: padding, which ends at 56
    heatmap[4, 5] = covered

    saliency = found.saliency(heatmap)

    assert saliency.max() == is_shown


@pytest.mark.parametrize(
    "heatmap",
    [
        pytest.param(np.zeros((7, 7), np.float32), id="empty"),
        pytest.param(np.full((7, 7), 3, np.float32), id="flat"),
        pytest.param(
            1 + 3e-8 * np.arange(49, dtype=np.float32).reshape(7, 7), id="float-noise"
        ),
        pytest.param(np.full((7, 7), np.nan, np.float32), id="nan"),
        pytest.param(np.diag(np.full(7, np.inf, np.float32)), id="infinite"),
    ],
)
def test_map_without_a_peak_becomes_zeros(
    heatmap: NDArray[np.float32],
) -> None:
    saliency = prepare(radiograph(noise(90, 60)), LETTERBOX).saliency(heatmap)

    assert saliency.shape == (224, 149)
    assert not saliency.any()
