"""The notice: a Secondary Capture with the reason why an image has no result.

A destination with `send_negative = false` usually gets no result if the node finds no
fracture. If users expect a result for an image, but it was not analyzed or its analysis
failed, such a destination gets a notice. Without the notice, the study would look as if
the node had found no fracture. A destination that gets only HL7 messages, or only
objects about examinations, gets no notices.
"""

from pydicom import Dataset

from dicom_node.own_results import NOTICE_FLAVOR
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
"""Maximum number of characters of a reason.

Image Comments is cut after 1,024 characters, and other sentences precede the reason.
"""


def notice(
    source: Source,
    state_and_reason: tuple[str, str],
    model: ModelIdentity,
    options: ResultOptions,
    kind: ResultKind,
) -> ResultObject:
    """Return the notice about an instance.

    Args:
        source: The instance that has no result.
        state_and_reason: "Not analyzed" or "Failed", and the reason as a text.
        model: The model that would have analyzed the instance.
        options: The options; only the Series Number is used.
        kind: The kind of the object. It determines the modality, and whether the
            pixels are written as JPEG.
    """
    state, reason = state_and_reason
    reason = plain(reason, LONGEST_REASON)
    title = f"AI fracture: {state.lower()}"
    description = _describe(source)
    dataset = Dataset()
    dataset.BurnedInAnnotation = "NO"  # the notice contains no pixel of the source
    dataset.LossyImageCompression = "00"
    picture = Picture(
        pixels=draw_notice(title, description, reason, model_line(model)),
        flavor=NOTICE_FLAVOR,
        series=SERIES_DESCRIPTION,
        derivation=f"A page of words about the source image. {model_line(model)}",
        comments=f"{title}. {NOT_LOOKED}. {reason}",
        elements=empty(["PatientOrientation", "InstanceNumber"])
        | copied(source, ["InstanceNumber"])
        | encoded_dataset(dataset),
    )
    return capture(source, model, picture, options, kind)


def _describe(source: Source) -> str:
    """Return number, modality, body part and view of an image as text.

    For example, "Image 3, Modality DX, Body part ANKLE, View AP". Absent values are
    omitted. If all are absent, the text is "An image of this study".
    """
    header = source.instance.header
    number = source.text("InstanceNumber")
    labels = (
        ("Image", number if number.isdecimal() else ""),
        ("Modality", header.modality),
        ("Body part", header.body_part),
        ("View", header.view_position),
    )
    parts = [f"{name} {plain(value, 32)}" for name, value in labels if value]
    return ", ".join(parts) or "An image of this study"
