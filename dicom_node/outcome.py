"""What became of one object that was to be sent, and what to do about it.

The table of statuses stands here (PS3.4 B.2.3, PS3.7 Annex C); sending is in
sender.py and stow.py. Only a status that says so is a failure for good: whatever may
mend by itself, or by an administrator's hand at the other end, is tried again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pydicom import Dataset
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

LONGEST_COMMENT = 64  # PS3.7 C.4: Error Comment is LO
DUPLICATE_SOP_INSTANCE = 0x0111
# Processing Failure, Resource Limitation, Refused: Out of Resources.
PASSING = frozenset({0x0110, 0x0213, 0xA700})
WARNINGS = range(0xB000, 0xC000)
OUT_OF_RESOURCES = range(0xA700, 0xA800)
COMMENT_ELSEWHERE = " (the page shows its Error Comment)"
PERMANENT = 1  # the result in an A-ASSOCIATE-RJ; else transient
# Source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and what to do about it.
REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized; it must be told that {calling} may call",
    (1, 7): "called AE title not recognized; is {called} its AE title?",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


class Verdict(StrEnum):
    """What the sender may conclude."""

    STORED = "stored"  # the destination has it (or, to a C-ECHO, has answered)
    RETRY = "retry"  # it does not have it now; try for days
    RETRY_BRIEFLY = "retry_briefly"  # it hardly ever will; try three times
    REFUSED = "refused"  # it never will


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object.

    Attributes:
        verdict: What to do next.
        status: The status that the destination answered with; None when it did not
            answer or was not asked.
        comment: In words, for the journal and the page; empty where all is well. It
            may hold the destination's own text, which may name the patient: never
            log it.
        without_quote: The comment without the destination's own text. Empty if the
            comment holds none.
        was_sent: Whether the destination was asked to store the object. False: it was
            refused here, so the outcome says nothing about the destination.
    """

    verdict: Verdict
    status: int | None
    comment: str = ""
    without_quote: str = field(default="", compare=False)
    was_sent: bool = field(default=True, compare=False)

    @property
    def log_text(self) -> str:
        """Describe the outcome for the log, without the destination's text."""
        words = self.without_quote or self.comment
        if self.verdict is Verdict.STORED:
            return f"stored, {words}" if words else "stored"
        return words or str(self.verdict)

    @property
    def journal_text(self) -> str:
        """Describe the outcome for the journal and the page."""
        if self.verdict is not Verdict.STORED:
            return f"not stored: {self.comment or self.verdict}"
        status = "" if self.status is None else f"0x{self.status:04X}"
        details = self.comment or status  # a comment begins with the status
        return f"stored ({details})" if details else "stored"

    @property
    def is_answer(self) -> bool:
        """Tell whether the destination decided about this object.

        False if there was no answer, or one that says "not now".
        """
        return self.was_sent and self.verdict is not Verdict.RETRY


def verdict_of(status: int) -> Verdict:
    """Sort a C-STORE response status by what the sender should do.

    Source:
        PS3.4 B.2.3; PS3.7 9.1.1.1.9 and Annex C. A warning (0xBxxx) means stored. So
        does Duplicate SOP Instance: what we send again is the same to the last byte.
        Some archives answer 0xA701 to 0xA7FF where identity is missing or in
        conflict, which waiting seldom mends.
    """
    if status in {0x0000, DUPLICATE_SOP_INSTANCE} or status in WARNINGS:
        return Verdict.STORED
    if status in PASSING:
        return Verdict.RETRY
    return Verdict.RETRY_BRIEFLY if status in OUT_OF_RESOURCES else Verdict.REFUSED


def answered(
    response: Dataset, judge: Callable[[int], Verdict] = verdict_of
) -> Outcome:
    """Read the response to a C-STORE or C-ECHO, or to what `judge` knows.

    Args:
        response: The status elements of the response; holds Status (0000,0900).
        judge: Sorts a status other than success.
    """
    status = int(response.Status)
    words = in_words(status)
    if status and (comment := printable(response.get("ErrorComment"))):
        quoted = f"{words}: {comment}"
        return Outcome(judge(status), status, quoted, f"{words}{COMMENT_ELSEWHERE}")
    return Outcome(judge(status), status, words)


def in_words(status: int) -> str:
    """Say what a status means; nothing of success."""
    if status == 0:
        return ""
    _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))
    return f"0x{status:04X} {meaning or 'unknown status'}"


def printable(text: object) -> str:
    """A peer's text as it may be shown: one line, printable, not too long."""
    words = "".join(c if c.isprintable() else " " for c in str(text or ""))
    return " ".join(words.split())[:LONGEST_COMMENT]


def rejected(rejection: A_ASSOCIATE_RJ, calling: str, called: str) -> str:
    """Say why an association was rejected, and what to do.

    Args:
        rejection: The answer to our request.
        calling: Our AE title.
        called: The AE title that we asked for.
    """
    found = (int(rejection.source or 0), int(rejection.reason_diagnostic or 0))
    reason = REASONS.get(found, f"for a reason that PS3.8 does not know, {found}")
    kind = "permanent" if rejection.result == PERMANENT else "transient"
    return f"({kind}) {reason.format(calling=calling, called=called)}"
