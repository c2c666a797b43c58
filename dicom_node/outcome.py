"""The outcome of an attempt to send one object, and what to do next.

This module assigns a verdict to each status (PS3.4 B.2.3, PS3.7 Annex C). The package
`delivery` sends the objects. If a problem may disappear by itself, or an administrator
may solve it at the other end, the object is sent again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pydicom import Dataset
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicom_node.reasons import REJECTION_REASONS

LONGEST_COMMENT = 64  # PS3.7 C.4: Error Comment is LO
DUPLICATE_SOP_INSTANCE = 0x0111
# Processing Failure, Resource Limitation, Refused: Out of Resources.
TRANSIENT = frozenset({0x0110, 0x0213, 0xA700})
WARNINGS = range(0xB000, 0xC000)
OUT_OF_RESOURCES = range(0xA700, 0xA800)
COMMENT_OMITTED = " (the page shows its Error Comment)"
PERMANENT = 1  # the result in an A-ASSOCIATE-RJ; any other is transient
# The advice that follows the reason of a rejection, by source and diagnostic.
ADVICE = {
    (1, 3): "; add {calling} to its known AE titles",
    (1, 7): "; is {called} its AE title?",
}


class Verdict(StrEnum):
    """What the node concludes from an attempt to send an object."""

    # The destination has the object, or a connection test or request succeeded.
    STORED = "stored"
    RETRY = "retry"  # the destination may store it later; retry for `retry_days`
    # The destination will probably never store the object; try three times.
    RETRY_BRIEFLY = "retry_briefly"
    REFUSED = "refused"  # the destination will never store it


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt to send one object.

    It may also be the outcome of a connection test or of a commitment request.

    Attributes:
        verdict: What the node concludes from the attempt.
        status: The DICOM status in the response; None if there was no response, or if
            the response has no DICOM status.
        comment: A text for the journal and the web pages; empty after success without a
            warning. It may quote the destination, and the quoted text may name the
            patient: never log a comment. `log_text` is for the log.
        without_quote: The comment without the text of the destination, for the log.
            Empty if the comment quotes nothing.
        was_sent: False if the node did not send the object for a reason of its own, for
            example because it cannot read the file or does not know the address. Then
            the outcome says nothing about the destination. True if the node cannot call
            the destination, for example because a file of its TLS settings is missing.
    """

    verdict: Verdict
    status: int | None
    comment: str = ""
    without_quote: str = field(default="", compare=False)
    was_sent: bool = field(default=True, compare=False)

    @property
    def log_text(self) -> str:
        """The outcome as a text for the log, without the destination's text."""
        comment = self.without_quote or self.comment
        if self.verdict is Verdict.STORED:
            return f"stored, {comment}" if comment else "stored"
        return comment or str(self.verdict)

    @property
    def journal_text(self) -> str:
        """The outcome as a text for the journal and the web pages.

        The text contains `comment`, which may quote the destination: never log it.
        """
        if self.verdict is not Verdict.STORED:
            return f"not stored: {self.comment or self.verdict}"
        status = "" if self.status is None else f"0x{self.status:04X}"
        details = self.comment or status  # a comment begins with the status
        return f"stored ({details})" if details else "stored"

    @property
    def is_decision(self) -> bool:
        """Whether the destination decided about this object.

        False if the node did not try to send the object, or if the destination did not
        respond, or responded that it cannot store the object now.
        """
        return self.was_sent and self.verdict is not Verdict.RETRY


def verdict_of(status: int) -> Verdict:
    """Return the verdict for the status of a C-STORE or C-ECHO response.

    - STORED: success, a warning (0xBxxx), or Duplicate SOP Instance, because each
      attempt sends the same bytes.
    - RETRY: a status in TRANSIENT.
    - RETRY_BRIEFLY: 0xA701 to 0xA7FF. Some archives respond with these if the identity
      of the patient is missing or in conflict, and waiting seldom solves that.
    - REFUSED: any other status.

    Source:
        PS3.4 B.2.3; PS3.7 9.1.1.1.9 and Annex C.
    """
    if status in {0x0000, DUPLICATE_SOP_INSTANCE} or status in WARNINGS:
        return Verdict.STORED
    if status in TRANSIENT:
        return Verdict.RETRY
    return Verdict.RETRY_BRIEFLY if status in OUT_OF_RESOURCES else Verdict.REFUSED


def outcome_of(
    response: Dataset, judge: Callable[[int], Verdict] = verdict_of
) -> Outcome:
    """Return the outcome that a response states.

    Args:
        response: The status elements of the response, with Status (0000,0900).
        judge: A function that returns the verdict for a status. The default is for
            C-STORE and C-ECHO.
    """
    status = int(response.Status)
    meaning = status_text(status)
    if status and (comment := printable(response.get("ErrorComment"))):
        quoted = f"{meaning}: {comment}"
        return Outcome(judge(status), status, quoted, f"{meaning}{COMMENT_OMITTED}")
    return Outcome(judge(status), status, meaning)


def status_text(status: int) -> str:
    """Return the number and meaning of a status as a text; empty for success."""
    if status == 0:
        return ""
    _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))
    return f"0x{status:04X} {meaning or 'unknown status'}"


def printable(text: object) -> str:
    """Return a peer's text as one printable line of at most LONGEST_COMMENT characters.

    None becomes an empty text.
    """
    line = "".join(c if c.isprintable() else " " for c in str(text or ""))
    return " ".join(line.split())[:LONGEST_COMMENT]


def rejection_text(rejection: A_ASSOCIATE_RJ, calling: str, called: str) -> str:
    """Return a text that says why a peer rejected an association.

    If the peer does not know one of the AE titles, the text also says what to do.

    Args:
        rejection: The response of the peer.
        calling: The AE title of the node.
        called: The AE title that the node called.
    """
    found = (int(rejection.source or 0), int(rejection.reason_diagnostic or 0))
    reason = REJECTION_REASONS.get(found, f"unknown source and reason {found}")
    advice = ADVICE.get(found, "").format(calling=calling, called=called)
    kind = "permanent" if rejection.result == PERMANENT else "transient"
    return f"({kind}) {reason}{advice}"
