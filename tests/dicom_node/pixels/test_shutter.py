"""The Display Shutter: the visible area, and its influence on the picture."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.pixels.identity import identity_digest
from dicom_node.pixels.rendering import view_file
from dicom_node.pixels.shutter import MOST_VERTICES, Shape, display_shutter
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.support.dataset_changes import change_attributes
from tests.support.mutations import NASTY

PHANTOM = draw_phantom(broken=True, rows=64, columns=48)
RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 11,
    "ShutterRightVerticalEdge": 40,
    "ShutterUpperHorizontalEdge": 5,
    "ShutterLowerHorizontalEdge": 54,
}
INSIDE = np.s_[4:54, 10:40]
"""The visible area of RECTANGLE."""
CIRCLE = {
    "ShutterShape": "CIRCULAR",
    "CenterOfCircularShutter": [32, 24],
    "RadiusOfCircularShutter": 20,
}
POLYGON = {
    "ShutterShape": "POLYGONAL",
    "VerticesOfThePolygonalShutter": [5, 11, 5, 40, 54, 40, 54, 11],
}


def attributes_of(**changes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def shown(dataset: Dataset, rows: int = 5, columns: int = 6) -> list[str]:
    """Return the rows of the visible area, with # for each visible pixel."""
    visible = display_shutter(dataset, rows, columns).visible
    assert visible is not None
    return ["".join(".#"[int(each)] for each in row) for row in visible]


def test_edges_of_a_rectangle_are_visible_and_counted_from_1() -> None:
    dataset = attributes_of(
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=2,
        ShutterRightVerticalEdge=4,
        ShutterUpperHorizontalEdge=3,
        ShutterLowerHorizontalEdge=4,
    )

    assert shown(dataset) == ["......", "......", ".###..", ".###..", "......"]


def test_center_of_a_circle_is_row_and_column() -> None:
    dataset = attributes_of(
        ShutterShape="CIRCULAR",
        CenterOfCircularShutter=[2, 4],
        RadiusOfCircularShutter=2,
    )

    assert shown(dataset) == ["..###.", ".#####", "..###.", "...#..", "......"]


def test_radius_is_a_number_of_columns_if_pixels_are_not_square() -> None:
    dataset = attributes_of(
        ShutterShape="CIRCULAR",
        CenterOfCircularShutter=[3, 4],
        RadiusOfCircularShutter=2,
        PixelSpacing=[0.2, 0.1],
    )

    assert shown(dataset) == ["......", "...#..", ".#####", "...#..", "......"]


def test_vertices_of_a_polygon_are_rows_and_columns_of_visible_pixels() -> None:
    dataset = attributes_of(
        ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[1, 2, 1, 6, 5, 6]
    )

    assert shown(dataset) == [".#####", "..####", "...###", "....##", ".....#"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_visible_area_is_the_intersection_of_the_shapes() -> None:
    dataset = attributes_of(**POLYGON | RECTANGLE | CIRCLE)
    dataset.ShutterShape = ["CIRCULAR", " polygonal", "RECTANGULAR"]
    dataset.VerticesOfThePolygonalShutter = [1, 1, 1, 30, 64, 30, 64, 1]
    circle = display_shutter(attributes_of(**CIRCLE), 64, 48).visible
    assert circle is not None
    expected = np.zeros((64, 48), bool)
    expected[INSIDE] = circle[INSIDE]
    expected[:, 30:] = False

    shutter = display_shutter(dataset, 64, 48)

    assert set(shutter.shapes) == set(Shape)
    assert shutter.visible is not None
    np.testing.assert_array_equal(shutter.visible, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"ShutterLeftVerticalEdge": -7, "ShutterUpperHorizontalEdge": 0},
        {"ShutterRightVerticalEdge": 49, "ShutterLowerHorizontalEdge": 2**31 - 1},
    ],
)
def test_edges_outside_the_image_are_clipped(changes: dict[str, int]) -> None:
    inside = {"ShutterLeftVerticalEdge": 1, "ShutterUpperHorizontalEdge": 1}
    inside |= {"ShutterRightVerticalEdge": 48, "ShutterLowerHorizontalEdge": 64}
    clipped = {each: inside[each] for each in changes}

    found = shown(attributes_of(**RECTANGLE | changes), 64, 48)

    assert found == shown(attributes_of(**RECTANGLE | clipped), 64, 48)


def test_polygon_outside_the_image_is_clipped() -> None:
    vertices = [-9, -9, -9, 999_999_999, 9, 999_999_999, 9, -9]
    dataset = attributes_of(**POLYGON | {"VerticesOfThePolygonalShutter": vertices})

    assert shown(dataset, 64, 48) == ["#" * 48] * 9 + ["." * 48] * 55


def test_shutter_around_the_image_hides_nothing() -> None:
    dataset = attributes_of(
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=0,
        ShutterRightVerticalEdge=48,
        ShutterUpperHorizontalEdge=0,
        ShutterLowerHorizontalEdge=64,
    )

    shutter = display_shutter(dataset, 64, 48)

    assert shutter.visible is None
    assert set(shutter.shapes) == {Shape.RECTANGULAR}
    assert shutter.assumptions == ()


def changed(changes: dict[str, object], photometric: str = "MONOCHROME2") -> Dataset:
    dataset = phantom_dataset(PHANTOM, photometric_interpretation=photometric)
    change_attributes(dataset, changes)
    return dataset


def decoded(dataset: Dataset) -> Radiograph:
    return decode(dataset, DecodeOptions(window=1, max_megapixels=1))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("hidden", [{}, {"ShutterPresentationValue": 65535}], ids=str)
@pytest.mark.parametrize("shutter", [RECTANGLE, POLYGON], ids=["rectangle", "polygon"])
def test_picture_is_black_outside_the_shutter_and_unchanged_inside(
    photometric: str, hidden: dict[str, object], shutter: dict[str, object]
) -> None:
    expected = np.zeros((64, 48), np.uint8)
    expected[INSIDE] = PHANTOM.radiograph().pixels[INSIDE]

    radiograph = decoded(changed(shutter | hidden, photometric))

    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert radiograph.source_shape == (64, 48)
    assert radiograph.assumptions == ()


def test_color_image_is_black_outside_the_shutter() -> None:
    dataset = changed(RECTANGLE)
    gray = np.tile(np.arange(48, dtype=np.uint8), (64, 1)) + 99
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = np.repeat(gray, 3).tobytes()
    expected = np.zeros((64, 48), np.uint8)
    expected[INSIDE] = gray[INSIDE]

    np.testing.assert_array_equal(decoded(dataset).pixels, expected)


def with_hidden(dataset: Dataset, values: NDArray[np.uint16]) -> Dataset:
    """Replace the values of the pixels outside INSIDE; return the dataset."""
    pixels = values.copy()
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 48)
    pixels[INSIDE] = stored[INSIDE]
    dataset.PixelData = pixels.astype("<u2").tobytes()
    return dataset


def cropped(dataset: Dataset) -> Dataset:
    """Reduce an image to INSIDE, and remove its shutter; return the dataset."""
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 48)[INSIDE]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    del dataset.ShutterShape
    return dataset


NO_WINDOW = {"WindowCenter": None, "WindowWidth": None}
UNUSABLE = {"WindowCenter": 30000, "WindowWidth": 60000}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(NO_WINDOW, id="percentiles"),
        pytest.param(UNUSABLE, id="fault"),
        pytest.param(NO_WINDOW | {"PixelPaddingValue": 0}, id="padding"),
        pytest.param({}, id="window"),
        pytest.param({"PresentationIntentType": "FOR PROCESSING"}, id="processing"),
    ],
)
@pytest.mark.parametrize("shutter", [RECTANGLE, POLYGON], ids=["rectangle", "polygon"])
@pytest.mark.parametrize("hidden", ["black", "white", "noise"])
@pytest.mark.parametrize("has_bar", [False, True])
def test_hidden_pixels_do_not_influence_the_visible_ones(
    photometric: str,
    changes: dict[str, object],
    shutter: dict[str, object],
    hidden: str,
    has_bar: bool,  # noqa: FBT001
) -> None:
    """The visible pixels are displayed as if the image were cropped to them."""
    values = {
        "black": np.zeros((64, 48), np.uint16),
        "white": np.full((64, 48), 4095, np.uint16),
        "noise": np.random.default_rng(3).integers(0, 4096, (64, 48), np.uint16),
    }[hidden]
    dataset = changed(shutter | changes, photometric)
    if has_bar:  # uniform rows at the edge of the visible area
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 48).copy()
        stored[-20:] = 3000
        dataset.PixelData = stored.tobytes()
    with_hidden(dataset, values)

    radiograph = decoded(dataset)

    visible = decoded(cropped(dataset))
    np.testing.assert_array_equal(radiograph.pixels[INSIDE], visible.pixels)
    assert radiograph.pixels.sum() == visible.pixels.sum()
    assert radiograph.span == visible.span
    assert radiograph.assumptions == visible.assumptions


def test_pixels_around_a_circle_have_no_influence() -> None:
    dataset = changed(CIRCLE | NO_WINDOW)
    visible = display_shutter(dataset, 64, 48).visible
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(64, 48)
    noise = np.random.default_rng(3).integers(0, 4096, (64, 48), np.uint16)
    spans = []
    for hidden in (stored, np.zeros_like(stored), noise):
        dataset.PixelData = np.where(visible, stored, hidden).tobytes()
        spans.append(decoded(dataset).span)

    low, high = np.percentile(stored[visible], (0.5, 99.5))
    assert spans == [pytest.approx((low, high), abs=1)] * 3


def test_window_that_shows_only_hidden_pixels_is_not_used() -> None:
    dataset = changed(RECTANGLE | {"ShutterLowerHorizontalEdge": 24})
    dataset.WindowCenter, dataset.WindowWidth = 3000, 100
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    values[4:24, 10:40] //= 2
    dataset.PixelData = values.tobytes()

    radiograph = decoded(dataset)

    assert np.ptp(radiograph.pixels[4:24, 10:40]) == 255
    (assumed,) = radiograph.assumptions
    assert "shows nothing through its own window" in assumed


def test_image_that_is_blank_inside_the_shutter_is_blank() -> None:
    dataset = changed(RECTANGLE)
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    values[INSIDE] = 2000
    dataset.PixelData = values.tobytes()

    with pytest.raises(NotAnalyzedError, match="inside the Display Shutter"):
        decoded(dataset)


def test_hidden_pixels_are_black_through_the_window_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    changed(RECTANGLE).save_as(path, enforce_file_format=True)

    view = view_file(path, (-5000.0, -4000.0), 1)

    expected = np.zeros((64, 48), np.uint8)
    expected[INSIDE] = 255
    np.testing.assert_array_equal(view.pixels, expected)


NO_AREA = "it would show 0.00% of the image, less than 0.50%"
NO_CENTER = "Center of Circular Shutter (0018,1610) is absent or invalid"
NO_VERTICES = "Vertices of the Polygonal Shutter (0018,1620) is absent or invalid"
NO_EDGE = "Shutter Lower Horizontal Edge (0018,1608) is absent or invalid"


@pytest.mark.parametrize(
    ("changes", "name", "fault"),
    [
        (RECTANGLE | {"ShutterLowerHorizontalEdge": None}, "RECTANGULAR ", NO_EDGE),
        (RECTANGLE | {"ShutterLowerHorizontalEdge": []}, "RECTANGULAR ", NO_EDGE),
        (RECTANGLE | {"ShutterLeftVerticalEdge": 41}, "RECTANGULAR ", NO_AREA),
        ({"ShutterShape": "CIRCULAR"}, "CIRCULAR ", NO_CENTER),
        (CIRCLE | {"CenterOfCircularShutter": [32]}, "CIRCULAR ", NO_CENTER),
        (CIRCLE | {"RadiusOfCircularShutter": -20}, "CIRCULAR ", NO_AREA),
        (
            CIRCLE | {"RadiusOfCircularShutter": 2},
            "CIRCULAR ",
            NO_AREA.replace("0.00%", "0.42%"),
        ),
        *(
            (POLYGON | {"VerticesOfThePolygonalShutter": each}, "POLYGONAL ", fault)
            for each, fault in (
                ([5, 11, 5, 40], NO_VERTICES),
                ([5, 11, 5, 40, 54], NO_VERTICES),
                ([1, 1] + [60, 40] * MOST_VERTICES, NO_VERTICES),
                ([99, 99, 99, 120, 120, 120], NO_AREA),
            )
        ),
        (
            RECTANGLE
            | {
                "ShutterShape": ["RECTANGULAR", "CIRCULAR"],
                "CenterOfCircularShutter": [64, 48],
                "RadiusOfCircularShutter": 9,
            },
            "",
            NO_AREA,
        ),
    ],
)
def test_unusable_shutter_is_ignored_and_recorded(
    changes: dict[str, object], name: str, fault: str
) -> None:
    dataset = phantom_dataset(PHANTOM)
    dataset.update(attributes_of(**changes))

    radiograph = decoded(dataset)

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    assert radiograph.assumptions == (
        f"The {name}Display Shutter is not used: {fault}.",
    )


@pytest.mark.parametrize(
    ("shape", "quoted"), [("BITMAP", "BITMAP"), ("Doe, John", "not a valid code")]
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_unknown_shape_is_ignored_and_recorded(shape: str, quoted: str) -> None:
    radiograph = decoded(changed({"ShutterShape": shape}))

    np.testing.assert_array_equal(radiograph.pixels, PHANTOM.radiograph().pixels)
    (assumed,) = radiograph.assumptions
    assert assumed == (
        f"Shutter Shape (0018,1600) is {quoted}, which is not a shape of an image; "
        "this shutter is not used."
    )


def test_usable_shape_is_used_beside_an_unusable_one() -> None:
    dataset = changed(RECTANGLE | {"ShutterShape": ["CIRCULAR", "RECTANGULAR"]})

    radiograph = decoded(dataset)

    assert not radiograph.pixels[:4].any()
    assert [each.split(":")[0] for each in radiograph.assumptions] == [
        "The CIRCULAR Display Shutter is not used"
    ]


def raw(keyword: str, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(
        Tag(keyword),
        vr,
        len(value),
        value,
        0,
        is_implicit_VR=False,
        is_little_endian=True,
    )


@pytest.mark.parametrize(
    "keyword",
    [
        *("ShutterShape", "ShutterLeftVerticalEdge", "CenterOfCircularShutter"),
        *("RadiusOfCircularShutter", "VerticesOfThePolygonalShutter"),
    ],
)
@pytest.mark.parametrize("vr", ["IS", "US", "UN"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_value_of_a_shutter_is_an_error(keyword: str, vr: str) -> None:
    for value in NASTY:
        dataset = changed(RECTANGLE | CIRCLE | POLYGON)
        dataset.ShutterShape = ["RECTANGULAR", "CIRCULAR", "POLYGONAL"]
        dataset[keyword] = raw(keyword, vr, value)

        assert decoded(dataset).pixels.shape == (64, 48)


@pytest.mark.parametrize(
    ("vr", "value"),
    [("IS", b"11"), ("IS", b" +11 "), ("US", b"\x0b\0"), ("UN", b"11")],
)
def test_edge_is_read_with_any_vr(vr: str, value: bytes) -> None:
    dataset = attributes_of(**RECTANGLE)
    dataset["ShutterLeftVerticalEdge"] = raw("ShutterLeftVerticalEdge", vr, value)

    assert shown(dataset, 64, 48) == shown(attributes_of(**RECTANGLE), 64, 48)


@pytest.mark.parametrize("value", [b"11\\x", b"x\\11", b"11\\12", b"x", b"nan"])
def test_edge_that_is_not_one_number_is_not_used(value: bytes) -> None:
    dataset = attributes_of(**RECTANGLE)
    dataset["ShutterLeftVerticalEdge"] = raw("ShutterLeftVerticalEdge", "IS", value)

    shutter = display_shutter(dataset, 64, 48)

    assert shutter.visible is None
    (assumed,) = shutter.assumptions
    assert "Left Vertical Edge (0018,1602) is absent or invalid" in assumed


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_shutter_does_not_depend_on_the_encoding(syntax: str, tmp_path: Path) -> None:
    dataset, path = changed(RECTANGLE), tmp_path / "image.dcm"
    expected = decoded(dataset).pixels
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)

    np.testing.assert_array_equal(decoded(dcmread(path)).pixels, expected)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ShutterShape", "CIRCULAR"),
        ("ShutterLeftVerticalEdge", 12),
        ("ShutterPresentationValue", 9),
    ],
)
def test_corrected_shutter_is_another_identity(keyword: str, value: object) -> None:
    dataset = changed(RECTANGLE)
    before = identity_digest(dataset)
    setattr(dataset, keyword, value)
    after = identity_digest(dataset)

    assert before[64:] != after[64:]
    assert before[:64] == after[:64]  # the part that earlier releases stored
