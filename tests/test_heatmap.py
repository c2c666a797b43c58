"""The heatmap: its pixels on the source's own, and what it says that they mean."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SegmentationStorage,
)

from dicom_node.decode import DecodeOptions, decode
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.instance import ReceivedInstance
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.results.encode import encode_file
from dicom_node.results.forms import Form
from inference.finding import Finding
from inference.localization import point_at_peak
from inference.phantom import draw_phantom
from inference.radiograph import Radiograph
from tests.test_presentation_state import CLASSES, POSITIVE
from tests.test_secondary_capture import OPTIONS, received
from tests.validators import Complaints, real_radiographs, renamed

PHANTOM = draw_phantom(broken=True, rows=400, columns=300)
HEATMAP = replace(OPTIONS, forms=(Form("heatmap"),))
NEGATIVE = replace(POSITIVE, probability=0.02, arrow=None)
NOWHERE = replace(POSITIVE, saliency=np.zeros((7, 7), np.float32), arrow=None)
LABEL = "Grad-CAM, relative, not a probability"

Source = Callable[[Dataset], ReceivedInstance]


@pytest.fixture
def dataset() -> Dataset:
    return phantom_dataset(PHANTOM)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    def written(dataset: Dataset) -> ReceivedInstance:
        path = tmp_path / "source.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return received(path, dataset)

    return written


def shown(dataset: Dataset) -> Radiograph:
    return decode(dataset, DecodeOptions(1, 50))


def content(
    instance: ReceivedInstance,
    finding: Finding = POSITIVE,
    radiograph: Radiograph | None = None,
) -> bytes:
    radiograph = radiograph or shown(dcmread(instance.path))
    (result,) = encode_file(instance, radiograph, finding, HEATMAP)
    assert (result,) == encode_file(instance, radiograph, finding, HEATMAP)
    return result.content


def heatmap_of(
    instance: ReceivedInstance,
    finding: Finding = POSITIVE,
    radiograph: Radiograph | None = None,
) -> Dataset:
    return dcmread(BytesIO(content(instance, finding, radiograph)))


def laid_over(
    saliency: NDArray[np.float32], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Interpolate a map at the centers of the pixels below it, straight beyond them."""

    def along(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        cells = len(values)
        center = (np.arange(count) + 0.5) * cells / count - 0.5
        return np.interp(center, np.arange(cells), values)

    rows, columns = shape
    wide = np.apply_along_axis(along, 1, saliency.astype(np.float64), columns)
    return 255 * np.apply_along_axis(along, 0, wide, rows)


def test_it_is_a_fractional_segmentation_in_a_series_of_its_own(
    source: Source, dataset: Dataset
) -> None:
    written = heatmap_of(source(dataset))

    assert written.SOPClassUID == SegmentationStorage
    assert written.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert written.Modality == "SEG"
    assert written.SegmentationType == "FRACTIONAL"
    assert written.SegmentationFractionalType == "OCCUPANCY"
    assert written.MaximumFractionalValue == 255
    assert written.NumberOfFrames == 1
    assert written.StudyInstanceUID == dataset.StudyInstanceUID
    assert written.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert written.PatientName == dataset.PatientName
    assert written.SpecificCharacterSet == dataset.SpecificCharacterSet
    assert written.StudyDate == dataset.StudyDate


def test_a_name_keeps_its_bytes(source: Source, dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 144"
    dataset.PatientName = "\u041b\u044e\u043a"

    written = content(source(dataset))

    assert b"\xbb\xee\xda" in written  # in ISO 8859-5
    assert dcmread(BytesIO(written)).PatientName == dataset.PatientName


def test_it_says_that_it_is_no_probability_and_what_it_is(
    source: Source, dataset: Dataset
) -> None:
    written = heatmap_of(source(dataset))

    (segment,) = written.SegmentSequence
    assert segment.SegmentLabel == written.ContentDescription == LABEL
    assert "Not the probability of a fracture" in segment.SegmentDescription
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("130403", "DCM")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert segment.SegmentAlgorithmName == algorithm.AlgorithmName == "phantom-resnet18"
    assert algorithm.AlgorithmVersion == "0.1.0"
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert written.ImageComments == (
        "Fracture: definite, probability of a fracture 94.3%. "
        "AI result, not for diagnostic use."
    )


def test_each_pixel_is_that_of_the_source_which_it_names(
    source: Source, dataset: Dataset
) -> None:
    dataset.FrameOfReferenceUID = "1.2.3"
    written = heatmap_of(source(dataset))

    assert (written.Rows, written.Columns) == (dataset.Rows, dataset.Columns)
    assert "FrameOfReferenceUID" not in written  # would ask for a plane
    (frame,) = written.PerFrameFunctionalGroupsSequence
    (derivation,) = frame.DerivationImageSequence
    assert derivation.DerivationCodeSequence[0].CodeValue == "113076"
    (image,) = derivation.SourceImageSequence
    assert image.ReferencedSOPClassUID == dataset.SOPClassUID
    assert image.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert image.SpatialLocationsPreserved == "YES"
    (series,) = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == dataset.SOPInstanceUID


def test_its_derivation_says_what_was_assumed_of_the_source(
    source: Source, dataset: Dataset
) -> None:
    del dataset.HighBit

    written = heatmap_of(source(dataset))

    (frame,) = written.PerFrameFunctionalGroupsSequence
    (derivation,) = frame.DerivationImageSequence
    assert derivation.DerivationDescription == (
        "Grad-CAM over the pixels as stored. Assumed of the source: High Bit "
        "(0028,0102) is absent; 11 is assumed."
    )


@pytest.mark.parametrize("ratio", [[1, 1], [3, 2], [1, 2]])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_its_values_are_the_map_over_the_pixels_as_stored(
    source: Source, ratio: list[int], photometric: str
) -> None:
    dataset = phantom_dataset(PHANTOM, photometric_interpretation=photometric)
    del dataset.ImagerPixelSpacing
    dataset.PixelAspectRatio = ratio
    radiograph = shown(dataset)
    height, width = ratio
    assert radiograph.pixels.shape == (
        400 * height // min(ratio),
        300 * width // min(ratio),
    )

    written = heatmap_of(source(dataset))

    expected = laid_over(POSITIVE.saliency, (400, 300))
    assert np.abs(written.pixel_array - expected).max() <= 0.51
    assert written.get("PixelAspectRatio") == (None if ratio == [1, 1] else ratio)


def test_a_map_as_fine_as_the_source_is_kept_level_by_level(
    source: Source, dataset: Dataset
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (400, 300)).astype(np.uint8)
    fine = replace(POSITIVE, saliency=(levels / 255).astype(np.float32))

    written = heatmap_of(source(dataset), fine)

    np.testing.assert_array_equal(written.pixel_array, levels)


def test_it_is_hottest_where_the_arrow_points(source: Source, dataset: Dataset) -> None:
    dataset.ImagerPixelSpacing = [0.2, 0.1]  # each row twice as high as a column wide
    arrow = point_at_peak(shown(dataset), POSITIVE.saliency)
    assert arrow is not None

    written = heatmap_of(source(dataset), replace(POSITIVE, arrow=arrow))

    hot = np.argwhere(written.pixel_array == written.pixel_array.max()) + 0.5
    column, row = arrow.tip
    np.testing.assert_allclose(hot.mean(axis=0), (row / 2, column), atol=0.51)


def test_an_odd_number_of_pixels_is_padded(source: Source, dataset: Dataset) -> None:
    odd = Radiograph(np.zeros((33, 21), np.uint8), None, (33, 21))

    written = heatmap_of(source(dataset), radiograph=odd)

    assert len(written.PixelData) == 33 * 21 + 1


@pytest.mark.parametrize("finding", [NEGATIVE, NOWHERE], ids=["negative", "nowhere"])
def test_nothing_is_made_where_nothing_is_pointed_at(
    source: Source, dataset: Dataset, finding: Finding
) -> None:
    kinds = ("heatmap", "secondary_capture")
    options = replace(HEATMAP, forms=tuple(map(Form, kinds)))

    made = encode_file(source(dataset), PHANTOM.radiograph(), finding, options)

    assert [each.form for each in made] == ["secondary_capture"]


@pytest.mark.parametrize("finding", [POSITIVE, NEGATIVE], ids=["positive", "negative"])
def test_a_source_without_a_series_is_refused_in_words(
    source: Source, dataset: Dataset, finding: Finding
) -> None:
    del dataset.SeriesInstanceUID

    with pytest.raises(AnalysisError, match="ask for `secondary_capture` alone"):
        content(source(dataset), finding)


def test_another_map_is_another_object(source: Source, dataset: Dataset) -> None:
    instance = source(dataset)
    other = replace(POSITIVE, saliency=POSITIVE.saliency.T.copy())

    first, second = heatmap_of(instance), heatmap_of(instance, other)

    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


@pytest.mark.parametrize("said", [None, "", "00", "01"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_what_was_lost_of_the_source_is_lost_of_it(
    source: Source, dataset: Dataset, said: str | None, syntax: UID
) -> None:
    del dataset.LossyImageCompression
    if said is not None:
        dataset.LossyImageCompression = said
        dataset.LossyImageCompressionRatio = 12
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
    instance = source(dataset)
    header = replace(instance.header, transfer_syntax_uid=syntax)

    written = heatmap_of(
        replace(instance, header=header), radiograph=PHANTOM.radiograph()
    )

    lost = said == "01" or syntax == JPEGBaseline8Bit
    assert written.LossyImageCompression == ("01" if lost else "00")
    assert written.get("LossyImageCompressionRatio") == (12 if said == "01" else None)


def test_a_source_in_color_has_its_heatmap_too(
    source: Source, dataset: Dataset
) -> None:
    dataset.PhotometricInterpretation = "RGB"

    written = heatmap_of(source(dataset), radiograph=PHANTOM.radiograph())

    assert written.PhotometricInterpretation == "MONOCHROME2"


def read_by_highdicom(path: Path, source: Dataset) -> NDArray[np.float64]:
    segmentation = highdicom.seg.segread(path)
    assert list(segmentation.segment_numbers) == [1]
    assert segmentation.get_segment_description(1).segment_label == LABEL
    ((_, series, instance),) = segmentation.get_source_image_uids()
    assert (series, instance) == (source.SeriesInstanceUID, source.SOPInstanceUID)
    read = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID])
    fractions: NDArray[np.float64] = np.asarray(read)[0, :, :, 0]
    return fractions


@pytest.mark.parametrize("kind", [*product(CLASSES, ["MONOCHROME1", "MONOCHROME2"])])
def test_validators_find_no_fault_and_highdicom_reads_it(
    source: Source,
    complaints: Complaints,
    tmp_path: Path,
    kind: tuple[UID, str],
) -> None:
    sop_class, photometric = kind
    dataset = phantom_dataset(
        PHANTOM, sop_class_uid=sop_class, photometric_interpretation=photometric
    )
    path = tmp_path / "heatmap.dcm"
    path.write_bytes(content(source(dataset)))

    assert complaints(path) == set()
    fractions = read_by_highdicom(path, dataset)
    expected = laid_over(POSITIVE.saliency, (400, 300))
    np.testing.assert_allclose(255 * fractions, expected, atol=0.51)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    ("said", "written"),
    [
        pytest.param({"ImageLaterality": "R", "Laterality": "L"}, "R", id="of-image"),
        pytest.param({"Laterality": "L"}, "L", id="of-series"),
        pytest.param({"Laterality": " l"}, "L", id="lower-case"),
        pytest.param({"Laterality": "LEFT"}, "", id="no-side"),
        pytest.param({}, "", id="nobody"),
        pytest.param({"BodyPartExamined": "PELVIS"}, None, id="unpaired"),
    ],
)
def test_its_side_is_said_of_the_image(
    source: Source,
    complaints: Complaints,
    tmp_path: Path,
    said: dict[str, str],
    written: str | None,
) -> None:
    dataset = phantom_dataset(PHANTOM, sop_class_uid=ComputedRadiographyImageStorage)
    del dataset.Laterality
    for keyword, value in said.items():
        setattr(dataset, keyword, value)

    path = tmp_path / "heatmap.dcm"
    path.write_bytes(content(source(dataset)))

    heatmap = dcmread(path)
    assert heatmap.get("ImageLaterality") == written
    assert "Laterality" not in heatmap
    assert complaints(path) == set()


@pytest.mark.shared
def test_validators_find_no_fault_that_a_real_source_does_not_have_already(
    shared: Path, complaints: Complaints, tmp_path: Path
) -> None:
    new, read = {}, 0
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            dataset = dcmread(path)
            instance = received(path, dataset)
            try:
                radiograph = shown(dataset)
            except DicomNodeError:  # is not analyzed, and has no results
                continue
        written = tmp_path / "heatmap.dcm"
        written.write_bytes(content(instance, radiograph=radiograph))
        if faults := complaints(written) - renamed(complaints(path)):
            new[path.name] = faults
        with warnings.catch_warnings(action="ignore"):
            fractions = read_by_highdicom(written, dataset)
        shape = int(dataset.Rows), int(dataset.Columns)
        expected = laid_over(POSITIVE.saliency, shape)
        np.testing.assert_allclose(255 * fractions, expected, atol=0.51)
        read += 1

    assert new == {}
    assert read > 20
