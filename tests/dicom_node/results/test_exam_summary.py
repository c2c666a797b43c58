"""The pages of an examination summary as Secondary Captures."""

import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from dicom_node.errors import AnalysisError, NotMeantError
from dicom_node.pixels.decode import DecodeOptions
from dicom_node.results.encode import encode_examination
from dicom_node.results.encoding import ResultObject
from dicom_node.results.exam_summary import MOST_PAGES, describe
from dicom_node.results.examination import (
    Examination,
    ExaminationImage,
    Predecessor,
    conclude,
)
from dicom_node.results.examination_picture import examination_picture
from dicom_node.results.examination_source import read_examination
from dicom_node.results.result_kinds import ResultKind
from tests.dicom_node.results.test_secondary_capture import received
from tests.support.examinations import (
    DEFINITE,
    DOUBTFUL,
    EARLIER_MODEL,
    FAILED,
    MODEL,
    NEGATIVE,
    NOT_ANALYZED,
    OPTIONS,
    RECEIVED_AT,
    STUDY,
    Studies,
)
from tests.support.validators import Complaints, real_radiographs, renamed

SUMMARY = replace(OPTIONS, kinds=(ResultKind("exam_summary"),))
LOSSY = replace(OPTIONS, kinds=(ResultKind("exam_summary", lossy=True),))


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


def pages(*images: ExaminationImage, **changes: object) -> list[Dataset]:
    """Return the pages about images; `changes` are fields of Examination."""
    examination = replace(conclude(images), **changes)  # type: ignore[arg-type]
    return [*map(read, encode_examination(examination, MODEL, SUMMARY))]


def read(result: ResultObject) -> Dataset:
    return dcmread(BytesIO(result.content))


def rows(*images: ExaminationImage) -> list[tuple[str, str, str, str]]:
    """Return place, anatomy, answer and details of each row."""
    summary = describe(read_examination(conclude(images)), MODEL)
    return [(r.place, r.anatomy, r.answer, r.details) for r in summary.rows]


def test_page_has_one_row_for_each_outcome(studies: Studies) -> None:
    images = studies.every_outcome()

    assert rows(*reversed(images)) == [
        ("Image 1 (series 1, number 1)", *ANATOMY, "Definite fracture", P.format(94.3)),
        ("Image 2 (series 1, number 2)", *ANATOMY, "Doubtful fracture", P.format(30.0)),
        ("Image 3 (series 2, number 1)", *ANATOMY, "No fracture", P.format(2.0)),
        ("Image 4 (series 2, number 2)", *ANATOMY, *NOT_ANALYZED),
        ("Image 5 (series 3, number 1)", *ANATOMY, *FAILED),
        (
            *("Image 6 (series 3, number 2)", *ANATOMY),
            *("Same picture as image 3", "The picture is counted once."),
        ),
    ]


ANATOMY = ("LEG, AP, left",)
P = "Probability of a fracture {}%"


def test_summary_is_a_capture_in_its_own_series_of_the_study(studies: Studies) -> None:
    (page,) = pages(*studies.every_outcome())

    assert page.SOPClassUID == SecondaryCaptureImageStorage
    assert page.StudyInstanceUID == STUDY
    assert (page.Modality, page.SeriesNumber, page.InstanceNumber) == ("OT", 9001, 1)
    assert page.SeriesInstanceUID not in {f"{STUDY}.{number}" for number in (1, 2, 3)}
    assert page.ImageType[3] == "AI_EXAMINATION"
    assert page.PatientName == "PHANTOM^BROKEN"
    assert "BodyPartExamined" not in page
    assert "AnatomicRegionSequence" not in page
    assert "ImageLaterality" not in page
    assert page["Laterality"].is_empty
    assert page["PatientOrientation"].is_empty
    assert "PixelSpacing" not in page
    assert "ViewPosition" not in page
    assert page.ImageComments.startswith(
        "AI fracture: examination summary. Fracture suspected in 2 of 3 analyzed "
        "images (1 definite, 1 doubtful); 1 image was not analyzed; the analysis of 1 "
        "image failed. AI result, not for diagnostic use."
    )
    moment = RECEIVED_AT + timedelta(seconds=2)  # receipt of the last image
    assert page.ContentDate == f"{moment.astimezone():%Y%m%d}"
    assert page.ContentTime.startswith(f"{moment.astimezone():%H%M%S}")


def test_page_references_all_images_and_series(studies: Studies) -> None:
    (page,) = pages(*studies.every_outcome())

    uids = {each.ReferencedSOPInstanceUID for each in page.SourceImageSequence}
    assert uids == {f"{STUDY}.{s}.{n}" for s in (1, 2, 3) for n in (1, 2)}
    series = {
        each.SeriesInstanceUID: len(each.ReferencedInstanceSequence)
        for each in page.ReferencedSeriesSequence
    }
    assert series == {f"{STUDY}.{number}": 2 for number in (1, 2, 3)}


def test_images_are_in_the_order_of_series_and_instance_numbers(
    studies: Studies,
) -> None:
    images = [
        studies.image(10, NEGATIVE, series=2),
        studies.image(9, NEGATIVE, series=2),
        studies.image(1, NEGATIVE, series=11),
        studies.image(7, NEGATIVE, series=1, InstanceNumber=None),
    ]

    assert [place for place, *_ in rows(*images)] == [
        "Image 1 (series 1)",
        "Image 2 (series 2, number 9)",
        "Image 3 (series 2, number 10)",
        "Image 4 (series 11, number 1)",
    ]


def test_same_images_in_any_order_give_the_same_bytes(studies: Studies) -> None:
    examination = conclude(studies.every_outcome())
    reversed_images = replace(examination, images=examination.images[::-1])

    made = encode_examination(examination, MODEL, OPTIONS)

    assert encode_examination(reversed_images, MODEL, OPTIONS) == made
    assert [each.kind for each in made] == ["exam_summary", "exam_report"]


def test_study_of_23_images_has_several_pages(studies: Studies) -> None:
    images = [studies.image(number, NEGATIVE) for number in range(1, 23)]
    images.append(studies.image(23, DEFINITE))

    made = pages(*images, revision=2)

    assert 3 < len(made) < 8
    assert len({page.SOPInstanceUID for page in made}) == len(made)
    assert len({page.SeriesInstanceUID for page in made}) == 1
    numbers = [page.InstanceNumber for page in made]
    assert numbers == [MOST_PAGES + n for n in range(1, len(made) + 1)]
    for number, page in enumerate(made, start=1):
        assert (page.Rows, page.Columns) == (1024, 1024)
        assert f"Page {number} of {len(made)}." in page.ImageComments
        assert "Fracture suspected in 1 of 23 analyzed images" in page.ImageComments


def test_header_names_the_images_with_a_fracture(studies: Studies) -> None:
    images = [studies.image(n, DOUBTFUL) for n in range(1, 23)]
    images.append(studies.image(23, DEFINITE))

    notes = describe(read_examination(conclude(images)), MODEL).notes

    listed = ", ".join(map(str, range(1, 21)))
    assert notes[0] == (
        f"Definite fracture: image 23. Doubtful fracture: images {listed} and 2 more."
    )


def test_examination_without_an_answer_says_so_first(studies: Studies) -> None:
    images = studies.image(1, NOT_ANALYZED), studies.image(2, FAILED)

    summary = describe(read_examination(conclude(images)), MODEL)

    assert summary.headline == "No image was analyzed (1 not analyzed, 1 failed)"
    assert summary.tone == "unanswered"
    assert "NOT looked" in summary.warnings[0]
    assert [row.details for row in summary.rows] == [NOT_ANALYZED[1], FAILED[1]]
    assert summary.footer[1] == "Model phantom-resnet18, version 0.1.0"


def test_pages_name_the_models_that_gave_the_answers(studies: Studies) -> None:
    earlier = studies.image(1, replace(NEGATIVE, model=EARLIER_MODEL))
    (old,) = pages(earlier)
    (both,) = pages(earlier, studies.image(2, NEGATIVE))

    assert old.DerivationDescription.endswith("Model phantom-resnet18, version 0.0.9")
    assert both.DerivationDescription.endswith(
        "Model phantom-resnet18, version 0.0.9. Model phantom-resnet18, version 0.1.0"
    )
    assert [each.partition(" ")[2] for each in both.SoftwareVersions[1::2]] == [
        EARLIER_MODEL.version,
        MODEL.version,
    ]
    assert old.SeriesInstanceUID != both.SeriesInstanceUID


@pytest.mark.parametrize(
    ("outcomes", "tone"),
    [
        ((NEGATIVE, NEGATIVE), "none"),
        ((NEGATIVE, NOT_ANALYZED), "unanswered"),
        ((DOUBTFUL, FAILED), "doubtful"),
    ],
)
def test_headline_is_negative_only_if_each_image_has_an_answer(
    outcomes: tuple[tuple[str, str], ...], tone: str, studies: Studies
) -> None:
    images = [studies.image(number, each) for number, each in enumerate(outcomes)]

    assert describe(read_examination(conclude(images)), MODEL).tone == tone


def test_revision_states_what_it_replaces(studies: Studies) -> None:
    earlier = Predecessor("1.2.3", "1.2.4", "1.2.5", revision=1, image_count=1)
    images = studies.image(1, NEGATIVE), studies.image(2, NEGATIVE)

    (first,) = pages(*images)
    (second,) = pages(*images, revision=2, predecessors=(earlier,))

    assert "It replaces revision 1 (1 image)." in second.ImageComments
    assert "replaces" not in first.ImageComments
    assert second.SeriesInstanceUID == first.SeriesInstanceUID
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert second.InstanceNumber == first.InstanceNumber + MOST_PAGES


def order(accession: str, procedure: str) -> Dataset:
    item = Dataset()
    item.AccessionNumber, item.RequestedProcedureID = accession, procedure
    return item


def test_common_accession_number_is_copied(studies: Studies) -> None:
    requests = [order("A1", "R1")]
    (page,) = pages(
        studies.image(
            1, NEGATIVE, AccessionNumber="A1", RequestAttributesSequence=requests
        ),
        studies.image(
            2, NEGATIVE, AccessionNumber="A1", RequestAttributesSequence=requests
        ),
    )

    assert page.AccessionNumber == "A1"
    (request,) = page.RequestAttributesSequence
    assert request.RequestedProcedureID == "R1"
    assert page.BurnedInAnnotation == "NO"


def test_several_accession_numbers_are_on_the_page(studies: Studies) -> None:
    images = (
        studies.image(
            1,
            NEGATIVE,
            AccessionNumber="A1",
            RequestAttributesSequence=[order("A1", "R1")],
        ),
        studies.image(
            2,
            NEGATIVE,
            AccessionNumber="A2",
            RequestAttributesSequence=[order("A2", "R2")],
        ),
    )

    (page,) = pages(*images)

    assert page["AccessionNumber"].is_empty
    requests = page.RequestAttributesSequence
    assert {each.RequestedProcedureID for each in requests} == {"R1", "R2"}
    summary = describe(read_examination(conclude(images)), MODEL)
    assert summary.notes[-1] == "Accession numbers: A1, A2."
    assert summary.rows[1].place.endswith("accession number A2")
    assert page.BurnedInAnnotation == "YES"  # the accession numbers


@pytest.mark.parametrize(
    ("values", "stated"),
    [
        (("NO", "NO"), "NO"),
        (("NO", "YES"), "YES"),
        (("NO", None), None),
        ((None, "YES"), "YES"),
    ],
)
def test_page_states_burned_in_annotation_of_its_pictures(
    studies: Studies, values: tuple[str | None, str | None], stated: str | None
) -> None:
    images = [
        studies.image(number, NEGATIVE, BurnedInAnnotation=value)
        for number, value in enumerate(values)
    ]
    # Only images with a picture count.
    images.append(studies.image(3, FAILED, BurnedInAnnotation="YES"))

    (page,) = pages(*images)

    assert page.get("BurnedInAnnotation") == stated


def test_page_with_a_lossy_picture_is_lossy(studies: Studies) -> None:
    lossless = studies.image(1, NEGATIVE, LossyImageCompression="00")
    lossy = studies.image(2, NEGATIVE, LossyImageCompression="01")

    (only_lossless,), (both,) = pages(lossless), pages(lossless, lossy)

    assert only_lossless.LossyImageCompression == "00"
    assert both.LossyImageCompression == "01"


def test_item_in_another_character_set_states_it(studies: Studies) -> None:
    def described(number: int, text: str, encoding: str) -> ExaminationImage:
        item = order("A1", f"R{number}")
        item.RequestedProcedureDescription = text
        return studies.image(
            number,
            NEGATIVE,
            SpecificCharacterSet=encoding,
            RequestAttributesSequence=[item],
        )

    (page,) = pages(
        described(1, "Knöchel", "ISO_IR 100"), described(2, "足関節", "ISO_IR 192")
    )

    first, second = page.RequestAttributesSequence
    assert first.RequestedProcedureDescription == "Knöchel"
    assert second.RequestedProcedureDescription == "足関節"


def test_image_with_an_unreadable_header_has_a_row(studies: Studies) -> None:
    broken = studies.image(1, FAILED, series=2)
    broken.instance.path.write_bytes(b"not DICOM")

    (page,) = pages(studies.image(1, NEGATIVE), broken)

    assert "the analysis of 1 image failed" in page.ImageComments
    assert len(page.SourceImageSequence) == 2
    with pytest.raises(AnalysisError, match="DICOM"):
        pages(broken)


def test_image_without_a_series_is_not_referenced(studies: Studies) -> None:
    lost = studies.image(1, NOT_ANALYZED, series=2, SeriesInstanceUID=None)

    (page,) = pages(studies.image(1, NEGATIVE), lost)

    assert len(page.SourceImageSequence) == 1
    assert "1 image was not analyzed" in page.ImageComments


def test_jpeg_page_looks_like_the_native_page(studies: Studies) -> None:
    examination = conclude(studies.every_outcome())

    (native,) = map(read, encode_examination(examination, MODEL, SUMMARY))
    (result,) = encode_examination(examination, MODEL, LOSSY)

    jpeg = read(result)
    assert result.kind == "exam_summary-jpeg"
    assert jpeg.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    difference = jpeg.pixel_array.astype(float) - native.pixel_array
    assert np.abs(difference).mean() < 4
    assert jpeg.SeriesInstanceUID != native.SeriesInstanceUID


def test_page_that_comes_back_is_recognized(studies: Studies, tmp_path: Path) -> None:
    (result,) = encode_examination(
        conclude([studies.image(1, DEFINITE)]), MODEL, SUMMARY
    )
    path = tmp_path / "returned.dcm"
    path.write_bytes(result.content)

    with pytest.raises(NotMeantError, match="came back"):
        examination_picture(path, DecodeOptions(1, 100), None)

    page = dcmread(path)  # de-identified: only Image Type and the UIDs are left
    for keyword in (
        *("ManufacturerModelName", "SecondaryCaptureDeviceManufacturerModelName"),
        "ContributingEquipmentSequence",
    ):
        delattr(page, keyword)
    page.save_as(path)
    with pytest.raises(NotMeantError, match="came back"):
        examination_picture(path, DecodeOptions(1, 100), None)


@pytest.mark.parametrize("options", [SUMMARY, LOSSY], ids=["native", "jpeg"])
def test_dciodvfy_reports_no_error(
    studies: Studies, complaints: Complaints, tmp_path: Path, options: object
) -> None:
    earlier = Predecessor("1.2.3", "1.2.4", "1.2.5", revision=1, image_count=1)
    examination: Examination = replace(
        conclude(studies.every_outcome()), revision=2, predecessors=(earlier,)
    )
    path = tmp_path / "page.dcm"

    for result in encode_examination(examination, MODEL, options):  # type: ignore[arg-type]
        path.write_bytes(result.content)
        assert complaints(path) == set()


@pytest.mark.shared
def test_dciodvfy_reports_only_errors_of_real_radiographs(
    shared: Path, complaints: Complaints, tmp_path: Path
) -> None:
    new, seen = {}, 0
    for path in real_radiographs(shared):
        with warnings.catch_warnings(action="ignore"):
            instance = received(path, dcmread(path, stop_before_pixels=True))
        image = ExaminationImage(instance, DEFINITE)
        seen += 1
        for result in encode_examination(conclude([image]), MODEL, OPTIONS):
            written = tmp_path / "result.dcm"
            written.write_bytes(result.content)
            if errors := complaints(written) - renamed(complaints(path)):
                new[path.name, result.kind] = errors

    assert seen > 10
    assert new == {}


def test_dcentvfy_finds_one_study(
    studies: Studies, peer: Callable[[str], str], tmp_path: Path
) -> None:
    images = studies.every_outcome()
    results = encode_examination(conclude(images), MODEL, OPTIONS)
    paths = [tmp_path / f"result-{number}" for number in range(len(results))]
    for path, result in zip(paths, results, strict=True):
        path.write_bytes(result.content)
    sources = [each.instance.path for each in images]

    run = subprocess.run(
        [peer("dcentvfy"), *sources, *paths], capture_output=True, check=False
    )

    assert b"Error" not in run.stdout + run.stderr


@pytest.mark.dcmtk
def test_dcmtk_reads_the_page(
    studies: Studies, peer: Callable[[str], str], tmp_path: Path
) -> None:
    (result,) = encode_examination(conclude(studies.every_outcome()), MODEL, SUMMARY)
    path = tmp_path / "page.dcm"
    path.write_bytes(result.content)

    bitmap = subprocess.run(
        [peer("dcm2pnm"), path], check=True, capture_output=True
    ).stdout

    assert bitmap.endswith(read(result).pixel_array.tobytes())
