"""Makes the HL7 message about one image, and the result object of any HL7 message."""

import hashlib
from base64 import b32encode
from collections.abc import Sequence

from dicom_node.results.encoding import ResultObject, ResultOptions
from dicom_node.results.hl7_message import OrderResult, oru_message
from dicom_node.results.hl7_observations import ArrowPoint, ImageAnswer
from dicom_node.results.hl7_orders import read_orders
from dicom_node.results.hl7_values import read_image
from dicom_node.results.notice import LONGEST_REASON
from dicom_node.results.provenance import plain
from dicom_node.results.result_kinds import HL7_MESSAGE
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.drawing.caption import headline
from inference.finding import Finding, ModelIdentity
from inference.radiograph import Radiograph

# MSH-10 has at most 20 characters in HL7 v2.5.1: 100 bits in base 32 (RFC 4648).
_CONTROL_ID_CHARACTERS = 20


def hl7_message(
    source: Source, radiograph: Radiograph, finding: Finding, options: ResultOptions
) -> ResultObject:
    """Return the message that reports the finding for one image.

    Args:
        source: The instance that was analyzed.
        radiograph: The pixels of the instance as displayed.
        finding: The finding for the radiograph.
        options: The options; only `is_correction` is used.

    Raises:
        AnalysisError: A sequence of the header cannot be read.
    """
    answer = ImageAnswer(
        read_image(source),
        finding.operating_point,
        headline(finding),
        finding.probability,
        arrow_points(finding, radiograph.pixels.shape),
    )
    return _result(source, answer, finding.model, options)


def hl7_message_without_result(
    source: Source,
    state_and_reason: tuple[str, str],
    model: ModelIdentity,
    options: ResultOptions,
) -> ResultObject:
    """Return the message that says why an image has no answer.

    Args:
        source: The instance that has no answer.
        state_and_reason: "Not analyzed" or "Failed", and the reason as a text.
        model: The model that would have analyzed the instance.
        options: The options; only `is_correction` is used.

    Raises:
        AnalysisError: A sequence of the header cannot be read.
    """
    state, reason = state_and_reason
    summary = f"{state}: {plain(reason, LONGEST_REASON)}"
    answer = ImageAnswer(read_image(source), None, summary)
    return _result(source, answer, model, options)


def control_id_of(uid: str) -> str:
    """Return the Message Control ID (MSH-10) for the UID of a message."""
    digest = hashlib.sha256(uid.encode()).digest()
    return b32encode(digest).decode()[:_CONTROL_ID_CHARACTERS]


def _result(
    source: Source, answer: ImageAnswer, model: ModelIdentity, options: ResultOptions
) -> ResultObject:
    orders = [OrderResult(each, [answer]) for each in read_orders(source)]
    correction = options.is_correction
    return message_object(HL7_MESSAGE, orders, model, is_correction=correction)


def message_object(
    kind: str,
    orders: Sequence[OrderResult],
    model: ModelIdentity,
    *,
    is_correction: bool,
) -> ResultObject:
    """Return a message as a result object, with a UID derived from the content.

    Args:
        kind: `ResultKind.name` of the object.
        orders: What the message says about each order, at least one.
        model: See `oru_message`.
        is_correction: Whether the message may replace an earlier message.
    """
    content = oru_message(orders, model, "", is_correction=is_correction)
    uid = derived_uid(kind, hashlib.sha256(content.encode()).hexdigest())
    control_id = control_id_of(uid)
    message = oru_message(orders, model, control_id, is_correction=is_correction)
    return ResultObject(kind, "", str(uid), message.encode())


def arrow_points(
    finding: Finding, displayed_shape: tuple[int, ...]
) -> tuple[ArrowPoint, ...]:
    """Return the point to which each arrow of a finding points, with the score.

    Args:
        finding: The finding.
        displayed_shape: (rows, columns) of the radiograph as displayed.
    """
    rows, columns = displayed_shape
    return tuple(
        ArrowPoint(
            f"column {each.arrow.tip[0]:.0f}, row {each.arrow.tip[1]:.0f} of the image "
            f"as displayed ({columns} columns, {rows} rows)",
            each.score,
        )
        for each in finding.locations
    )
