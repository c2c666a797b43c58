"""The presentation state: its references, graphics, and display of the image."""

import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.instance import ReceivedInstance
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.pixels.pixel_spacing import SPACINGS
from dicom_node.results.encode import encode_file
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow, Finding, OperatingPoint
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.dicom_node.pixels.test_grayscale import as_text
from tests.dicom_node.results.test_secondary_capture import FINDING, OPTIONS, received
from tests.support.locations import locations
from tests.support.validators import Complaints, real_radiographs, renamed

PHANTOM = draw_phantom(broken=True, rows=400, columns=300)
STATE = replace(OPTIONS, kinds=(ResultKind("presentation_state"),))
CLASSES = [
    DigitalXRayImageStorageForPresentation,
    ComputedRadiographyImageStorage,
    SecondaryCaptureImageStorage,
]


def saliency() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return a map of 7 x 7 cells: a region of 2 x 3 cells, and a single cell.

    The arrow of FINDING points to the peak in the region.
    """
    cells = np.zeros((7, 7), np.float32)
    cells[2:4, 2:5] = 0.8
    cells[3, 3] = 1
    cells[6, 6] = 0.7  # not connected to the peak
    return cells


POSITIVE = replace(FINDING, saliency=saliency())


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


@pytest.fixture
def source(tmp_path: Path) -> Callable[[Dataset], ReceivedInstance]:
    def written(dataset: Dataset) -> ReceivedInstance:
        path = tmp_path / "source.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return received(path, dataset)

    return written


def decoded_radiograph(dataset: Dataset) -> Radiograph:
    return decode(dataset, DecodeOptions(1, 50))


def state_of(
    instance: ReceivedInstance,
    finding: Finding = POSITIVE,
    radiograph: Radiograph | None = None,
) -> Dataset:
    radiograph = radiograph or decoded_radiograph(dcmread(instance.path))
    (result,) = encode_file(instance, radiograph, finding, STATE)
    assert (result,) == encode_file(instance, radiograph, finding, STATE)
    return dcmread(BytesIO(result.content))


Source = Callable[[Dataset], ReceivedInstance]


def test_state_references_its_source_and_has_its_own_series_in_the_study(
    source: Source, dataset: Dataset
) -> None:
    state = state_of(source(dataset))

    assert state.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage
    assert state.Modality == "PR"
    assert state.StudyInstanceUID == dataset.StudyInstanceUID
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    assert state.SeriesInstanceUID != dataset.SeriesInstanceUID
    (image,) = series.ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert image.ReferencedSOPClassUID == dataset.SOPClassUID
    assert state.PatientName == dataset.PatientName


@pytest.mark.parametrize(("given", "written"), [("7", 7), ("", 1), ("99999999999", 1)])
def test_instance_number_is_copied_from_the_source_if_it_is_valid(
    source: Source, dataset: Dataset, given: str, written: int
) -> None:
    dataset["InstanceNumber"] = as_text("InstanceNumber", given)._replace(VR="IS")

    assert state_of(source(dataset)).InstanceNumber == written


def graphics_of(state: Dataset, layer: str) -> Dataset | None:
    layers = {each.GraphicLayer: each for each in state.GraphicAnnotationSequence}
    assert set(layers) == {each.GraphicLayer for each in state.GraphicLayerSequence}
    return layers.get(layer)


def test_arrow_and_outline_are_in_another_layer_than_the_caption(
    source: Source, dataset: Dataset
) -> None:
    state = state_of(source(dataset))

    finding, caption = (
        graphics_of(state, "AI_FINDING"),
        graphics_of(state, "AI_CAPTION"),
    )
    assert finding is not None
    assert caption is not None
    arrow, around = (
        np.reshape(each.GraphicData, (-1, 2)) for each in finding.GraphicObjectSequence
    )
    np.testing.assert_allclose(arrow[:2], [(50, 100), (150, 200)])  # tail, tip
    np.testing.assert_allclose(arrow[3], (150, 200))
    # The cells are 300 / 7 wide and 400 / 7 high. The line runs through the centers
    # of half cells.
    np.testing.assert_allclose(around.min(axis=0), (2.25 * 300 / 7, 2.25 * 400 / 7))
    np.testing.assert_allclose(around.max(axis=0), (4.75 * 300 / 7, 3.75 * 400 / 7))
    np.testing.assert_allclose(around[0], around[-1])
    (text,) = caption.TextObjectSequence
    assert text.UnformattedTextValue.split("\r\n") == [
        "Fracture: definite, probability of a fracture 94.3%",
        "Model phantom-resnet18, version 0.1.0",
        "AI result, not for diagnostic use",
    ]


SEVERAL = replace(
    POSITIVE,
    locations=locations(
        Arrow((150.0, 200.0), (50.0, 100.0)),
        Arrow((200.0, 130.0), (280.0, 130.0)),
        Arrow((290.0, 390.0), (230.0, 398.0)),
    ),
)


def test_each_of_several_arrows_has_its_number_at_the_tail(
    source: Source, dataset: Dataset
) -> None:
    dataset.ImagerPixelSpacing = [0.2, 0.1]  # pixels are twice as high as wide
    radiograph = decoded_radiograph(dataset)
    assert radiograph.pixels.shape == (800, 300)

    state = state_of(source(dataset), SEVERAL, radiograph)

    layer = graphics_of(state, "AI_FINDING")
    assert layer is not None
    arrows = [
        np.reshape(each.GraphicData, (-1, 2))
        for each in layer.GraphicObjectSequence[:3]
    ]
    texts = layer.TextObjectSequence
    assert [each.UnformattedTextValue for each in texts] == ["1", "2", "3"]
    for text, arrow, location in zip(texts, arrows, SEVERAL.locations, strict=True):
        tip, tail = np.array((location.arrow.tip, location.arrow.tail)) / (1, 2)
        np.testing.assert_allclose(arrow[:2], (tail, tip))
        np.testing.assert_allclose(text.AnchorPoint, tail)
        corner = np.array(text.BoundingBoxTopLeftHandCorner)
        opposite = np.array(text.BoundingBoxBottomRightHandCorner)
        np.testing.assert_allclose(opposite - corner, (27.2, 13.6), rtol=1e-5)  # 0.034
        assert (corner >= -1e-9).all()
        assert (opposite <= (300 + 1e-9, 400 + 1e-9)).all()
        beside = np.clip(tail, corner, opposite) - tail
        assert np.abs(beside * (1, 2)).max() < 0.05 * 800


def test_each_location_is_outlined(source: Source, dataset: Dataset) -> None:
    """The first location is not at the highest peak."""
    first, _, third = SEVERAL.locations
    finding = replace(SEVERAL, locations=(third, first))

    layer = graphics_of(state_of(source(dataset), finding), "AI_FINDING")

    assert layer is not None
    outlines = [
        np.reshape(each.GraphicData, (-1, 2)) * 7 / (300, 400)
        for each in layer.GraphicObjectSequence[2:]
    ]
    corners = [[each.min(axis=0), each.max(axis=0)] for each in outlines]
    np.testing.assert_allclose(
        corners,
        [[(6.25, 6.25), (6.75, 6.75)], [(2.25, 2.25), (4.75, 3.75)]],
        rtol=1e-5,
    )


def test_number_of_a_doubtful_location_says_so(
    source: Source, dataset: Dataset
) -> None:
    first, second, _ = SEVERAL.locations
    doubtful = replace(second, operating_point=OperatingPoint.DOUBTFUL)
    finding = replace(SEVERAL, locations=(first, doubtful))

    layer = graphics_of(state_of(source(dataset), finding), "AI_FINDING")

    assert layer is not None
    texts = [each.UnformattedTextValue for each in layer.TextObjectSequence]
    assert texts == ["1", "2 doubtful"]


def test_only_arrow_has_a_number_if_its_location_is_less_certain_than_the_image(
    source: Source, dataset: Dataset
) -> None:
    (location,) = POSITIVE.locations
    doubtful = replace(location, score=0.6, operating_point=OperatingPoint.DOUBTFUL)
    finding = replace(POSITIVE, locations=(doubtful,))

    layer = graphics_of(state_of(source(dataset), finding), "AI_FINDING")

    assert layer is not None
    (text,) = layer.TextObjectSequence
    assert text.UnformattedTextValue == "1 doubtful"
    width, height = np.subtract(
        text.BoundingBoxBottomRightHandCorner, text.BoundingBoxTopLeftHandCorner
    )
    assert width / height == pytest.approx(6)  # 10 characters


def test_each_line_of_the_caption_has_the_same_height(
    source: Source, dataset: Dataset
) -> None:
    instance, heights = source(dataset), []
    for finding in (POSITIVE, SEVERAL):
        caption = graphics_of(state_of(instance, finding), "AI_CAPTION")
        assert caption is not None
        (text,) = caption.TextObjectSequence
        top = text.BoundingBoxTopLeftHandCorner[1]
        height = text.BoundingBoxBottomRightHandCorner[1] - top
        heights.append(height / len(text.UnformattedTextValue.split("\r\n")))

    assert heights == pytest.approx([0.03, 0.03])


def test_caption_says_how_many_locations_are_suspected(
    source: Source, dataset: Dataset
) -> None:
    caption = graphics_of(state_of(source(dataset), SEVERAL), "AI_CAPTION")

    assert caption is not None
    (text,) = caption.TextObjectSequence
    assert text.UnformattedTextValue.split("\r\n")[1] == "3 suspected locations"


def test_single_arrow_has_no_number(source: Source, dataset: Dataset) -> None:
    layer = graphics_of(state_of(source(dataset)), "AI_FINDING")

    assert layer is not None
    assert "TextObjectSequence" not in layer


@pytest.mark.parametrize("probability", [0.02, 0.943], ids=["negative", "no location"])
def test_result_without_locations_has_only_a_caption(
    source: Source, dataset: Dataset, probability: float
) -> None:
    finding = replace(FINDING, probability=probability, locations=())

    state = state_of(source(dataset), finding)

    assert graphics_of(state, "AI_FINDING") is None
    assert graphics_of(state, "AI_CAPTION") is not None


def test_coordinates_are_in_stored_pixels_if_pixels_are_not_square(
    source: Source, dataset: Dataset
) -> None:
    dataset.ImagerPixelSpacing = [0.2, 0.1]  # pixels are twice as high as wide
    instance = source(dataset)
    radiograph = decoded_radiograph(dataset)
    assert radiograph.pixels.shape == (800, 300)

    state = state_of(instance, radiograph=radiograph)

    finding = graphics_of(state, "AI_FINDING")
    assert finding is not None
    arrow = np.reshape(finding.GraphicObjectSequence[0].GraphicData, (-1, 2))
    np.testing.assert_allclose(arrow[:2], [(50, 50), (150, 100)])
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaBottomRightHandCorner == [300, 400]
    assert area.PresentationPixelSpacing == [0.2, 0.1]


def test_state_has_the_pixel_aspect_ratio_if_the_spacing_is_unknown(
    source: Source, dataset: Dataset
) -> None:
    del dataset.ImagerPixelSpacing
    dataset.PixelAspectRatio = [3, 2]

    (area,) = state_of(source(dataset)).DisplayedAreaSelectionSequence

    assert "PresentationPixelSpacing" not in area
    assert area.PresentationPixelAspectRatio == [3, 2]


def test_state_has_the_window_that_was_used(source: Source, dataset: Dataset) -> None:
    dataset.WindowCenter, dataset.WindowWidth = [1000, 2000, 3000], [0, 500, 600]
    dataset.VOILUTFunction = "SIGMOID"

    (voi,) = state_of(source(dataset)).SoftcopyVOILUTSequence

    assert (voi.WindowCenter, voi.WindowWidth) == (2000, 500)  # the first valid window
    assert voi.VOILUTFunction == "SIGMOID"


def lut(first: int, entries: list[int], explanation: str) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, 16])
    item.LUTExplanation = explanation
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


@pytest.mark.parametrize("implicit", [False, True])
def test_luts_are_copied_unchanged(
    source: Source,
    dataset: Dataset,
    implicit: bool,  # noqa: FBT001
) -> None:
    dataset.VOILUTSequence = [lut(0, [0, 9, 65535], "bone"), lut(0, [1, 2], "soft")]
    del dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType
    dataset.ModalityLUTSequence = [lut(0, [5, 6], "")]
    dataset.ModalityLUTSequence[0].ModalityLUTType = "US"
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    state = state_of(source(dataset), radiograph=PHANTOM.radiograph())

    (voi,) = state.SoftcopyVOILUTSequence
    (table,) = voi.VOILUTSequence
    assert table.LUTDescriptor == [3, 0, 16]
    assert table.LUTData == np.array([0, 9, 65535], "<u2").tobytes()
    assert table.LUTExplanation == "bone"
    assert state.ModalityLUTSequence[0].LUTDescriptor == [2, 0, 16]
    assert "RescaleSlope" not in state


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"RescaleSlope": "1,0", "RescaleIntercept": "7"}, (1, 7, 2048, 4096, None)),
        ({"RescaleSlope": "0"}, (1, 0, 2048, 4096, None)),
        ({"WindowWidth": "0.5"}, (1, 0, 2048, 0.5, "LINEAR_EXACT")),
    ],
)
def test_state_has_the_values_that_the_decoder_used(
    source: Source,
    dataset: Dataset,
    attributes: dict[str, str],
    expected: tuple[float | str | None, ...],
) -> None:
    for keyword, value in attributes.items():
        dataset[keyword] = as_text(keyword, value)

    state = state_of(source(dataset), radiograph=PHANTOM.radiograph())

    (voi,) = state.SoftcopyVOILUTSequence
    rescale = state.RescaleSlope, state.RescaleIntercept
    window = voi.WindowCenter, voi.WindowWidth, voi.get("VOILUTFunction")
    assert (*rescale, *window) == expected


def test_broken_voi_lut_is_skipped_as_by_the_decoder(
    source: Source, dataset: Dataset
) -> None:
    broken = lut(0, [1, 2], "broken")
    del broken.LUTData
    dataset.VOILUTSequence = [broken, lut(0, [0, 9], "bone")]

    state = state_of(source(dataset), radiograph=PHANTOM.radiograph())

    (table,) = state.SoftcopyVOILUTSequence[0].VOILUTSequence
    assert table.LUTExplanation == "bone"


def test_arrow_at_the_edge_stays_inside_the_image(
    source: Source, dataset: Dataset
) -> None:
    at_edge = replace(POSITIVE, locations=locations(Arrow((1.0, 200.0), (9.0, 260.0))))

    finding = graphics_of(state_of(source(dataset), at_edge), "AI_FINDING")

    assert finding is not None
    assert min(finding.GraphicObjectSequence[0].GraphicData) >= 0


@pytest.mark.parametrize("change", ["color", "series"])
def test_presentation_state_is_refused_for_color_or_a_missing_series(
    source: Source, dataset: Dataset, change: str
) -> None:
    if change == "color":
        dataset.PhotometricInterpretation = "RGB"
    else:
        del dataset.SeriesInstanceUID

    with pytest.raises(AnalysisError, match="`secondary_capture` alone"):
        state_of(source(dataset), radiograph=PHANTOM.radiograph())


def write_state(
    source: ReceivedInstance, path: Path, finding: Finding = POSITIVE
) -> None:
    radiograph = decoded_radiograph(dcmread(source.path))
    (result,) = encode_file(source, radiograph, finding, STATE)
    path.write_bytes(result.content)


@pytest.mark.parametrize("finding", [POSITIVE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize(
    "kind", [*product(CLASSES, ["MONOCHROME1", "MONOCHROME2"])], ids=str
)
def test_state_is_valid_and_does_not_change_the_display_of_the_image(
    source: Source,
    complaints: Complaints,
    peer: Callable[[str], str],
    kind: tuple[UID, str],
    finding: Finding,
) -> None:
    sop_class, photometric = kind
    instance = source(
        phantom_dataset(
            PHANTOM, sop_class_uid=sop_class, photometric_interpretation=photometric
        )
    )
    folder = instance.path.parent
    state, plain, through = (folder / name for name in ("state", "plain", "through"))
    write_state(instance, state, finding)

    assert complaints(state) == set()
    check = subprocess.run(
        [peer("dcmpschk"), state], capture_output=True, check=False, text=True
    )
    assert "Test passed" in check.stdout + check.stderr
    render = peer("dcmp2pgm")
    subprocess.run([render, instance.path, plain], check=True)
    subprocess.run([render, "-p", state, instance.path, through], check=True)
    assert plain.read_bytes() == through.read_bytes()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_state_displays_an_image_without_a_window_as_the_node_does(
    source: Source, peer: Callable[[str], str], tmp_path: Path, photometric: str
) -> None:
    dataset = phantom_dataset(PHANTOM, photometric_interpretation=photometric)
    del dataset.WindowCenter, dataset.WindowWidth
    instance = source(dataset)
    state, picture = tmp_path / "state", tmp_path / "picture.pgm"
    write_state(instance, state)

    render = [peer("dcmp2pgm"), "-p", state, instance.path, picture]
    subprocess.run(render, check=True)

    displayed = np.frombuffer(picture.read_bytes()[-400 * 300 :], np.uint8)
    expected = decoded_radiograph(dataset).pixels.ravel()
    assert np.abs(displayed.astype(int) - expected).max() <= 1


def curve(first: int, bits: int, vr: str = "US") -> Dataset:
    """Return a sigmoid VOI LUT of 12 bits for 2,049 values from `first` on.

    `bits` is the number of bits that LUT Descriptor states, and `vr` is its VR.
    """
    share = np.linspace(-3, 3, 2049)
    entries = np.rint(4095 / (1 + np.exp(-share)) - 194).clip(0, 4095).astype("<u2")
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [2049, first, bits])
    item.add_new("LUTData", "OW", entries.tobytes())
    return item


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"VOILUTSequence": [curve(1000, 16)]}, id="storage-stated"),
        pytest.param({"VOILUTSequence": [curve(1000, 8)]}, id="too-few-stated"),
        pytest.param({"VOILUTSequence": [curve(736, 16, "SS")]}, id="SS"),
        pytest.param(
            {"RescaleIntercept": -2000, "VOILUTSequence": [curve(-1000, 16, "SS")]},
            id="negative",
        ),
        pytest.param({"WindowCenter": 32768, "WindowWidth": 65536}, id="too-wide"),
        pytest.param({"PhotometricInterpretation": " monochrome2"}, id="code"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_state_displays_an_image_with_unusual_attributes_as_the_node_does(
    source: Source,
    complaints: Complaints,
    peer: Callable[[str], str],
    changes: dict[str, object],
) -> None:
    dataset = phantom_dataset(PHANTOM)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    instance = source(dataset)
    folder = instance.path.parent
    state, picture = folder / "state", folder / "picture.pgm"
    write_state(instance, state)

    render = [peer("dcmp2pgm"), "-p", state, instance.path, picture]
    subprocess.run(render, check=True)

    displayed = np.frombuffer(picture.read_bytes()[-400 * 300 :], np.uint8)
    expected = decoded_radiograph(dcmread(instance.path)).pixels.ravel()
    assert np.ptp(expected) > 200
    assert np.abs(displayed.astype(int) - expected).max() <= 1
    assert complaints(state) == set()


SHUTTER = {
    "ShutterShape": ["RECTANGULAR", "CIRCULAR", "POLYGONAL"],
    "ShutterLeftVerticalEdge": 20,
    "ShutterRightVerticalEdge": 290,
    "ShutterUpperHorizontalEdge": 0,
    "ShutterLowerHorizontalEdge": 380,
    "CenterOfCircularShutter": [200, 150],
    "RadiusOfCircularShutter": 180,
    "VerticesOfThePolygonalShutter": [1, 1, 1, 300, 400, 300, 380, 1],
}


def shutter_of(dataset: Dataset) -> dict[str, object]:
    keywords = [*SHUTTER, "ShutterPresentationValue"]
    return {each: dataset[each].value for each in keywords if each in dataset}


def shuttered(dataset: Dataset, **changes: object) -> Dataset:
    for keyword, value in (SHUTTER | changes).items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize("shapes", [*SHUTTER["ShutterShape"], SHUTTER["ShutterShape"]])
def test_state_has_the_display_shutter_of_the_image(
    source: Source,
    dataset: Dataset,
    complaints: Complaints,
    peer: Callable[[str], str],
    shapes: str | list[str],
) -> None:
    instance = source(shuttered(dataset, ShutterShape=shapes))
    folder = instance.path.parent
    state, theirs, picture = (folder / name for name in ("state", "theirs", "picture"))

    write_state(instance, state)

    # DCMTK copies the shutter of the image, too.
    render = [peer("dcmp2pgm"), "--save-pstate", theirs, instance.path, picture]
    subprocess.run(render, check=True)
    assert shutter_of(dcmread(state)) == shutter_of(dcmread(theirs))
    assert complaints(state) == set()
    check = subprocess.run(
        [peer("dcmpschk"), state], capture_output=True, check=False, text=True
    )
    assert "Test passed" in check.stdout + check.stderr


@pytest.mark.parametrize(
    ("vr", "given", "written"),
    [
        *(("US", each, each) for each in (0, 0x8000, 0xFFFF)),
        *(("US", [], 0), ("SL", -1, 0), ("SL", 0x10000, 0), ("LO", "soft", 0)),
    ],
)
def test_state_has_a_black_shutter_if_its_presentation_value_is_invalid(
    source: Source, dataset: Dataset, vr: str, given: object, written: int
) -> None:
    shuttered(dataset).add_new("ShutterPresentationValue", vr, given)

    assert state_of(source(dataset)).ShutterPresentationValue == written


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        pytest.param({"RadiusOfCircularShutter": 9}, ["RECTANGULAR", "POLYGONAL"]),
        pytest.param(
            {"CenterOfCircularShutter": [1, 999]}, ["RECTANGULAR", "POLYGONAL"]
        ),
        pytest.param({"ShutterShape": "BITMAP"}, None),
        pytest.param({"ShutterShape": []}, None),
    ],
    ids=str,
)
def test_state_has_only_the_shapes_that_the_node_uses(
    source: Source,
    dataset: Dataset,
    changes: dict[str, object],
    used: list[str] | None,
) -> None:
    shutter = shutter_of(state_of(source(shuttered(dataset, **changes))))

    assert shutter.get("ShutterShape") == used
    assert "RadiusOfCircularShutter" not in shutter
    assert bool(shutter) == bool(used)


@pytest.mark.parametrize("keyword", [*SPACINGS, "PixelAspectRatio"])
def test_state_has_a_circle_that_shows_enough_because_pixels_are_not_square(
    source: Source, dataset: Dataset, keyword: str
) -> None:
    for each in SPACINGS:
        dataset.pop(each, None)
    setattr(dataset, keyword, [1, 4])
    circle = {"ShutterShape": "CIRCULAR", "RadiusOfCircularShutter": 9}
    instance = source(shuttered(dataset, **circle))
    picture = decoded_radiograph(dcmread(instance.path)).pixels

    shown = np.count_nonzero(picture) / picture.size
    assert 0.5 < 100 * shown < 1
    assert shutter_of(state_of(instance))["ShutterShape"] == "CIRCULAR"


def test_coordinates_of_a_shuttered_image_are_those_of_the_whole_image(
    source: Source, dataset: Dataset
) -> None:
    before = state_of(source(dataset))

    after = state_of(source(shuttered(dataset)))

    assert after.GraphicAnnotationSequence == before.GraphicAnnotationSequence
    assert after.DisplayedAreaSelectionSequence == before.DisplayedAreaSelectionSequence


@pytest.mark.shared
def test_state_of_a_real_source_has_only_the_errors_of_the_source(
    shared: Path,
    complaints: Complaints,
    tmp_path: Path,
) -> None:
    new = {}
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            dataset = dcmread(path)
            instance = received(path, dataset)
        if not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
            continue
        written = tmp_path / "state.dcm"
        radiograph = PHANTOM.radiograph()
        if "WindowWidth" not in dataset and "VOILUTSequence" not in dataset:
            radiograph = replace(radiograph, span=(0.0, 1000.0))
        (result,) = encode_file(instance, radiograph, POSITIVE, STATE)
        written.write_bytes(result.content)
        if faults := complaints(written) - renamed(complaints(path)):
            new[path.name] = faults

    assert new == {}


def test_error_names_a_header_that_is_nested_too_deeply(
    dataset: Dataset, source: Callable[[Dataset], ReceivedInstance]
) -> None:
    instance = source(dataset)
    content = instance.path.read_bytes()
    opening = b"\x28\x00\x00\x30SQ\x00\x00" + b"\xff" * 4
    opening += b"\xfe\xff\x00\xe0" + b"\xff" * 4
    closing = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    position = content.rindex(b"\xe0\x7f\x10\x00")
    deep = opening * 100 + closing * 100
    instance.path.write_bytes(content[:position] + deep + content[position:])

    with pytest.raises(AnalysisError, match="header cannot be read"):
        encode_file(instance, PHANTOM.radiograph(), POSITIVE, STATE)
