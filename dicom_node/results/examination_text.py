"""The sentences of the pages, the report and the HL7 message of an examination."""

from collections.abc import Mapping

from dicom_node.results.examination import Counts, Examination, ExaminationImage
from dicom_node.results.notice import LONGEST_REASON
from dicom_node.results.provenance import plain
from inference.drawing.caption import percent
from inference.finding import Finding, OperatingPoint

ANSWERS = {
    OperatingPoint.DEFINITE: "Definite fracture",
    OperatingPoint.DOUBTFUL: "Doubtful fracture",
    OperatingPoint.NONE: "No fracture",
}


def examination_headline(counts: Counts) -> str:
    """Return the answer and the numbers of images as one sentence.

    For example, "Fracture suspected in 2 of 4 analyzed images (1 definite, 1 doubtful);
    1 image was not analyzed".
    """
    return "; ".join((answer_text(counts), *unanswered_texts(counts)))


def answer_text(counts: Counts) -> str:
    """Return the part of the headline about the analyzed images.

    If no image was analyzed, the text says so, and contains the numbers of images that
    were not analyzed or failed.
    """
    if not counts.analyzed:
        kinds = (counts.not_analyzed, "not analyzed"), (counts.failed, "failed")
        numbers = ", ".join(f"{number} {kind}" for number, kind in kinds if number)
        return f"No image was analyzed ({numbers})"
    images = _images(counts.analyzed, "analyzed ")
    if not counts.fractures:
        return f"No fracture suspected in {images}"
    kinds = (counts.definite, "definite"), (counts.doubtful, "doubtful")
    numbers = ", ".join(f"{number} {kind}" for number, kind in kinds if number)
    return f"Fracture suspected in {counts.fractures} of {images} ({numbers})"


def unanswered_texts(counts: Counts) -> list[str]:
    """Return the parts of the headline about the images without an answer.

    The list is empty if no image was analyzed, because `answer_text` then contains
    these numbers.
    """
    if not counts.analyzed:
        return []
    texts = []
    if number := counts.not_analyzed:
        texts.append(f"{_images(number)} {_were(number)} not analyzed")
    if number := counts.failed:
        texts.append(f"the analysis of {_images(number)} failed")
    return texts


def outcome(image: ExaminationImage, numbers: Mapping[str, int]) -> tuple[str, str]:
    """Return (answer, details) of an image as texts.

    The details are the probability, or the reason why there is no answer. If the image
    has the same picture as another one, the texts say so.

    Args:
        image: The image.
        numbers: The number of each image of the examination, by the id of its instance.
    """
    if image.same_picture_as:
        number = numbers.get(image.same_picture_as)
        other = f"image {number}" if number else "another image"
        return f"Same picture as {other}", "The picture is counted once."
    if image.finding:
        return ANSWERS[image.finding.operating_point], _probability(image.finding)
    state, reason = image.state_and_reason or ("", "")
    return plain(state), plain(reason, LONGEST_REASON)


def _probability(finding: Finding) -> str:
    return f"Probability of a fracture {percent(finding.probability)}"


def _images(number: int, kind: str = "") -> str:
    return f"{number} {kind}image{'' if number == 1 else 's'}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def revision_text(examination: Examination) -> str:
    """Return two sentences with the revision and the earlier revision that it replaces.

    The text is empty if the revision replaces none.
    """
    if not examination.predecessors:
        return ""
    last = max(examination.predecessors, key=lambda each: each.revision)
    return (
        f"Revision {examination.revision} of the examination summary. It replaces "
        f"revision {last.revision} ({_images(last.image_count)})."
    )


def unlisted_text(examination: Examination) -> str:
    """Return the numbers of unlisted images as a sentence; empty if there are none."""
    counts = examination.unlisted
    if not counts.total:
        return ""
    kinds = {
        "definite": counts.definite,
        "doubtful": counts.doubtful,
        "no fracture suspected": counts.none,
        "not analyzed": counts.not_analyzed,
        "failed": counts.failed,
        "same picture as another image": counts.same_picture,
    }
    numbers = ", ".join(f"{kind}: {number}" for kind, number in kinds.items() if number)
    verb = "is" if counts.total == 1 else "are"
    return f"{_images(counts.total, 'further ')} {verb} not listed ({numbers})."
