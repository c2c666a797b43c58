"""Reads the acknowledgment of an HL7 message (HL7 v2.5.1 2.9 and 2.15.8).

delivery/hl7.py sends the messages. An acknowledgment is a message with the segments MSH
and MSA, and perhaps ERR. Only MSH-1, MSH-2, MSA-1 to MSA-3 and ERR-8 are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dicom_node.outcome import Outcome, Verdict, printable

CODES: Mapping[str, str] = MappingProxyType(
    {
        "AA": "Application Accept",
        "AE": "Application Error",
        "AR": "Application Reject",
        "CA": "Commit Accept",
        "CE": "Commit Error",
        "CR": "Commit Reject",
    }
)
"""The meaning of each acknowledgment code (HL7 table 0008)."""

ACCEPTED = frozenset({"AA", "CA"})

_TEXT_OMITTED = " (the page shows its text)"


@dataclass(frozen=True, slots=True)
class _Acknowledgment:
    """The content of an acknowledgment.

    Attributes:
        code: Acknowledgment Code (MSA-1).
        control_id: Message Control ID (MSA-2) of the acknowledged message.
        text: Text Message (MSA-3), else User Message (ERR-8).
    """

    code: str
    control_id: str
    text: str


def acknowledgment_outcome(response: str, control_id: str, peer: str) -> Outcome:
    """Return the outcome that an acknowledgment states.

    If the response is not an acknowledgment of our message, or has an unknown code, it
    does not show whether the peer accepted the message. Then the verdict is RETRY.

    Args:
        response: The response, without the frame of MLLP.
        control_id: Message Control ID (MSH-10) of our message.
        peer: The address of the peer, for the comment of the outcome.
    """
    found = _read(response)
    if found is None:
        return _unclear(f"{peer} responds with a message that is no acknowledgment")
    if found.code not in CODES:
        return _unclear(f"{peer} responds with an unknown acknowledgment code")
    meaning = f"{found.code} {CODES[found.code]}"
    if found.control_id != control_id:
        return _unclear(f"{peer} responds with {found.code} to another message")
    if found.code in ACCEPTED:
        return Outcome(Verdict.STORED, None)
    if text := printable(found.text):
        quoted = f"{meaning}: {text}"
        return Outcome(Verdict.REFUSED, None, quoted, f"{meaning}{_TEXT_OMITTED}")
    return Outcome(Verdict.REFUSED, None, meaning)


def _unclear(reason: str) -> Outcome:
    return Outcome(Verdict.RETRY, None, reason)


def _read(text: str) -> _Acknowledgment | None:
    """Return the content of an acknowledgment; None if MSH or MSA is missing."""
    segments = [each for each in text.replace("\n", "\r").split("\r") if each]
    if (
        not segments
        or not segments[0].startswith("MSH")
        or len(segments[0]) < len("MSH|^")
    ):
        return None
    separator, component = segments[0][3], segments[0][4]
    fields = {each[:3]: each.split(separator) for each in reversed(segments[1:])}
    if "MSA" not in fields:
        return None
    _, code, control_id, text_message, *_ = *fields["MSA"], "", "", ""
    error = [*fields.get("ERR", ()), *[""] * 9][8]
    return _Acknowledgment(
        code.strip(), control_id.strip(), text_message or error.replace(component, " ")
    )
