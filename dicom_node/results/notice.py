"""The capture that says why an image has no result.

If an archive gets no negative results, a study without any result looks like one
without a fracture. For this reason an instance that was not analyzed gets a notice.
"""

from pydicom import Dataset

from dicom_node.results.capture_iod import Picture, capture
from dicom_node.results.encoding import ResultObject, ResultOptions, encoded_dataset
from dicom_node.results.provenance import plain
from dicom_node.results.result_kinds import ResultKind
from dicom_node.results.source import Source, copied, empty
from inference.drawing.caption import model_line
from inference.drawing.notice import NOT_LOOKED, draw_notice
from inference.finding import ModelIdentity

SERIES_DESCRIPTION = "AI fracture: no answer - not for diagnosis"

LONGEST_REASON = 600
"""Maximum number of characters; the attribute holds 1,024, and a page has limits."""


def notice(
    source: Source,
    why: tuple[str, str],
    model: ModelIdentity,
    options: ResultOptions,
    form: ResultKind,
) -> ResultObject:
    """Return the notice about an instance.

    Args:
        source: The instance that has no result.
        why: "Not analyzed" or "Failed", and the reason in words.
        model: The model that should have analyzed it.
        options: The number of the series.
        form: The form in which to write the notice.
    """
    state, reason = why[0], plain(why[1], LONGEST_REASON)
    title = f"AI fracture: {state.lower()}"
    about = _about(source)
    own = Dataset()
    own.BurnedInAnnotation = "NO"  # the notice contains no pixel of the source
    own.LossyImageCompression = "00"
    picture = Picture(
        pixels=draw_notice(title, about, reason, model_line(model)),
        flavor="AI_NOTICE",
        series=SERIES_DESCRIPTION,
        derivation=f"A page of words about the source image. {model_line(model)}",
        comments=f"{title}. {NOT_LOOKED}. {reason}",
        elements=empty(["PatientOrientation", "InstanceNumber"])
        | copied(source, ["InstanceNumber"])
        | encoded_dataset(own),
    )
    return capture(source, model, picture, options, form)


def _about(source: Source) -> str:
    """Describe the image as a viewer lists it, without identifying the patient."""
    header = source.instance.header
    number = source.text("InstanceNumber")
    shown = (
        ("Image", number if number.isdecimal() else ""),
        ("Modality", header.modality),
        ("Body part", header.body_part),
        ("View", header.view_position),
    )
    said = [f"{name} {plain(value, 32)}" for name, value in shown if value]
    return ", ".join(said) or "An image of this study"
