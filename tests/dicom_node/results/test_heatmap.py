"""The heatmap segmentation: its pixel values and its attributes."""

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

from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError, DicomNodeError
from dicom_node.instance import ReceivedInstance
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.results.encode import encode_file
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Finding
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.dicom_node.results.test_presentation_state import CLASSES, POSITIVE
from tests.dicom_node.results.test_secondary_capture import OPTIONS, received
from tests.support.locations import locations, point_at_peak
from tests.support.validators import Complaints, real_radiographs, renamed

PHANTOM = draw_phantom(broken=True, rows=400, columns=300)
HEATMAP = replace(OPTIONS, kinds=(ResultKind("heatmap"),))
NEGATIVE = replace(POSITIVE, probability=0.02, locations=())
EMPTY_MAP = replace(POSITIVE, saliency=np.zeros((7, 7), np.float32), locations=())
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


def interpolated(
    saliency: NDArray[np.float32], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return a saliency map, interpolated at the center of each pixel of an image.

    The interpolation is linear between the centers of the map's cells. Outside of the
    outermost centers, the values are constant.

    Args:
        saliency: The map, from 0 to 1.
        shape: (rows, columns) of the image.

    Returns:
        An array of this shape, from 0 to 255.
    """

    def weights(cells: int, count: int) -> NDArray[np.float64]:
        """Return the weight of each cell at each pixel, for one direction."""
        center = (np.arange(count) + 0.5) * cells / count - 0.5
        one_cell = np.eye(cells)
        return np.array(
            [np.interp(center, np.arange(cells), each) for each in one_cell]
        )

    of_rows, of_columns = map(weights, saliency.shape, shape)
    return 255 * (of_rows.T @ saliency.astype(np.float64) @ of_columns)


def test_heatmap_is_a_fractional_segmentation_in_its_own_series(
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


def test_patient_name_keeps_its_bytes(source: Source, dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 144"
    dataset.PatientName = "\u041b\u044e\u043a"

    written = content(source(dataset))

    assert b"\xbb\xee\xda" in written  # in ISO 8859-5
    assert dcmread(BytesIO(written)).PatientName == dataset.PatientName


def test_segment_describes_a_grad_cam_map_that_is_no_probability(
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


def test_heatmap_references_its_source_and_has_its_rows_and_columns(
    source: Source, dataset: Dataset
) -> None:
    dataset.FrameOfReferenceUID = "1.2.3"
    written = heatmap_of(source(dataset))

    assert (written.Rows, written.Columns) == (dataset.Rows, dataset.Columns)
    assert "FrameOfReferenceUID" not in written  # requires a plane position
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


def test_derivation_description_lists_assumptions_about_the_source(
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
def test_pixel_values_are_the_map_interpolated_at_the_stored_pixels(
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

    expected = interpolated(POSITIVE.saliency, (400, 300))
    assert np.abs(written.pixel_array - expected).max() <= 0.51
    assert written.get("PixelAspectRatio") == (None if ratio == [1, 1] else ratio)


def test_map_with_the_size_of_the_source_is_stored_exactly(
    source: Source, dataset: Dataset
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (400, 300)).astype(np.uint8)
    fine = replace(POSITIVE, saliency=(levels / 255).astype(np.float32))

    written = heatmap_of(source(dataset), fine)

    np.testing.assert_array_equal(written.pixel_array, levels)


def test_maximum_of_the_heatmap_is_at_the_tip_of_the_arrow(
    source: Source, dataset: Dataset
) -> None:
    dataset.ImagerPixelSpacing = [0.2, 0.1]  # pixels are twice as high as wide
    arrow = point_at_peak(shown(dataset), POSITIVE.saliency)

    written = heatmap_of(source(dataset), replace(POSITIVE, locations=locations(arrow)))

    maximum = np.argwhere(written.pixel_array == written.pixel_array.max()) + 0.5
    column, row = arrow.tip
    np.testing.assert_allclose(maximum.mean(axis=0), (row / 2, column), atol=0.51)


def test_an_odd_number_of_pixels_is_padded(source: Source, dataset: Dataset) -> None:
    radiograph = Radiograph(np.zeros((33, 21), np.uint8), None, (33, 21))

    written = heatmap_of(source(dataset), radiograph=radiograph)

    assert len(written.PixelData) == 33 * 21 + 1


@pytest.mark.parametrize(
    "finding", [NEGATIVE, EMPTY_MAP], ids=["negative", "empty map"]
)
def test_no_heatmap_is_created_for_a_negative_finding_or_an_empty_map(
    source: Source, dataset: Dataset, finding: Finding
) -> None:
    kinds = ("heatmap", "secondary_capture")
    options = replace(HEATMAP, kinds=tuple(map(ResultKind, kinds)))

    results = encode_file(source(dataset), PHANTOM.radiograph(), finding, options)

    assert [each.kind for each in results] == ["secondary_capture"]


def test_fracture_without_a_location_has_a_heatmap(
    source: Source, dataset: Dataset
) -> None:
    """No peak has a sufficient score for a location."""
    written = heatmap_of(source(dataset), replace(POSITIVE, locations=()))

    assert written.pixel_array.max() > 240


@pytest.mark.parametrize("finding", [POSITIVE, NEGATIVE], ids=["positive", "negative"])
def test_source_without_series_instance_uid_is_an_error(
    source: Source, dataset: Dataset, finding: Finding
) -> None:
    del dataset.SeriesInstanceUID

    with pytest.raises(
        AnalysisError, match="set `results` to `secondary_capture` alone"
    ):
        content(source(dataset), finding)


def test_different_maps_get_different_sop_instance_uids(
    source: Source, dataset: Dataset
) -> None:
    instance = source(dataset)
    other = replace(POSITIVE, saliency=POSITIVE.saliency.T.copy())

    first, second = heatmap_of(instance), heatmap_of(instance, other)

    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


@pytest.mark.parametrize("declared", [None, "", "00", "01"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_lossy_compression_of_the_source_is_recorded(
    source: Source, dataset: Dataset, declared: str | None, syntax: UID
) -> None:
    del dataset.LossyImageCompression
    if declared is not None:
        dataset.LossyImageCompression = declared
        dataset.LossyImageCompressionRatio = 12
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
    instance = source(dataset)
    header = replace(instance.header, transfer_syntax_uid=syntax)

    written = heatmap_of(
        replace(instance, header=header), radiograph=PHANTOM.radiograph()
    )

    is_lossy = declared == "01" or syntax == JPEGBaseline8Bit
    assert written.LossyImageCompression == ("01" if is_lossy else "00")
    assert written.get("LossyImageCompressionRatio") == (
        12 if declared == "01" else None
    )


def test_color_source_has_a_heatmap(source: Source, dataset: Dataset) -> None:
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


@pytest.mark.integration
@pytest.mark.parametrize("kind", [*product(CLASSES, ["MONOCHROME1", "MONOCHROME2"])])
def test_validators_report_no_error_and_highdicom_reads_the_heatmap(
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
    expected = interpolated(POSITIVE.saliency, (400, 300))
    np.testing.assert_allclose(255 * fractions, expected, atol=0.51)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    ("attributes", "written"),
    [
        pytest.param({"ImageLaterality": "R", "Laterality": "L"}, "R", id="of-image"),
        pytest.param({"Laterality": "L"}, "L", id="of-series"),
        pytest.param({"Laterality": " l"}, "L", id="lower-case"),
        pytest.param({"Laterality": "LEFT"}, "", id="invalid"),
        pytest.param({}, "", id="absent"),
        pytest.param({"BodyPartExamined": "PELVIS"}, None, id="unpaired"),
    ],
)
def test_image_laterality_is_taken_from_the_source(
    source: Source,
    complaints: Complaints,
    tmp_path: Path,
    attributes: dict[str, str],
    written: str | None,
) -> None:
    dataset = phantom_dataset(PHANTOM, sop_class_uid=ComputedRadiographyImageStorage)
    del dataset.Laterality
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)

    path = tmp_path / "heatmap.dcm"
    path.write_bytes(content(source(dataset)))

    heatmap = dcmread(path)
    assert heatmap.get("ImageLaterality") == written
    assert "Laterality" not in heatmap
    assert complaints(path) == set()


@pytest.mark.integration
@pytest.mark.shared
def test_validators_report_only_errors_that_the_real_source_already_has(
    shared: Path, complaints: Complaints, tmp_path: Path
) -> None:
    new_errors, read = {}, 0
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            dataset = dcmread(path)
            instance = received(path, dataset)
            try:
                radiograph = shown(dataset)
            except DicomNodeError:  # the file is not analyzed and has no results
                continue
        written = tmp_path / "heatmap.dcm"
        written.write_bytes(content(instance, radiograph=radiograph))
        if errors := complaints(written) - renamed(complaints(path)):
            new_errors[path.name] = errors
        with warnings.catch_warnings(action="ignore"):
            fractions = read_by_highdicom(written, dataset)
        shape = int(dataset.Rows), int(dataset.Columns)
        expected = interpolated(POSITIVE.saliency, shape)
        assert fractions.shape == shape, path.name
        # numpy.testing would take three times as long for these large images.
        assert np.abs(255 * fractions - expected).max() <= 0.51, path.name
        read += 1

    assert new_errors == {}
    assert read > 20
