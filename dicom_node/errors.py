"""Errors at the DICOM boundary, sorted by who must act.

    DicomNodeError
    ├── RefusedError                 the sender must act; it gets a failure status
    │   ├── OutOfResourcesError      0xA700: no disk, no database; send again later
    │   ├── MismatchError            0xA900: command, class and dataset disagree
    │   └── CannotUnderstandError    0xC000: not parseable, or shorter than declared
    │       ├── EndsEarlyError       0xC000: the dataset ends too early
    │       └── TooManyElementsError 0xC000: more elements or items than are read
    ├── ReportRefusedError           the archive's report is not recorded
    ├── NotAnalyzedError             no action needed: kept, recorded with the reason
    │   ├── NotMeantError            nobody expects a result
    │   └── SamePictureError         another revision has the result already
    └── AnalysisError                an operator must act: broken pixels, dead decoder
        └── TakesLongError           the slow lane analyzes it

A message says what was found, what was expected and what to do, in that order. It
names attributes with their tags. It carries no patient data. From the sender it quotes
only UIDs, numbers and code strings, because messages reach the log, the page and, cut
to its 64 characters, the peer's Error Comment.
"""

from typing import ClassVar

from dicom_node.reasons import Failure, Reason, Refusal, ReportRefusal, Unanalyzed


class DicomNodeError(Exception):
    """Base of the errors in the table above.

    Attributes:
        reason: The reason by which the metrics count the error.
    """

    reason: Reason

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        """Store the message, and the reason if it differs from that of the class."""
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class RefusedError(DicomNodeError):
    """The node does not accept the instance.

    Attributes:
        status: The status of the C-STORE response (PS3.4 B.2.3).
    """

    status: ClassVar[int]


class OutOfResourcesError(RefusedError):
    """The node cannot store the instance now; the sender may try again."""

    status = 0xA700  # Refused: Out of Resources
    reason = Refusal.DISK


class MismatchError(RefusedError):
    """The command set, the SOP Class and the dataset do not agree."""

    status = 0xA900  # Error: Data Set Does Not Match SOP Class
    reason = Refusal.MISMATCH


class CannotUnderstandError(RefusedError):
    """The dataset cannot be parsed, or is shorter than it declares."""

    status = 0xC000  # Error: Cannot Understand
    reason = Refusal.UNREADABLE


class EndsEarlyError(CannotUnderstandError):
    """The dataset ends within an element or a sequence."""


class TooManyElementsError(CannotUnderstandError):
    """The dataset has more elements or items than the node reads."""

    reason = Refusal.TOO_LARGE


class ReportRefusedError(DicomNodeError):
    """The node does not record a report on Storage Commitment.

    Attributes:
        status: The status of the response (PS3.7 10.1.1.1.8).
    """

    reason: ReportRefusal

    def __init__(self, message: str, reason: ReportRefusal, status: int) -> None:
        super().__init__(message, reason)
        self.status = status


class NotAnalyzedError(DicomNodeError):
    """The instance is valid, but the model must not be applied to it.

    The journal records it as not analyzed, with the reason.
    """

    reason = Unanalyzed.OTHER


class NotMeantError(NotAnalyzedError):
    """Nobody expects a result of the instance, so no notice of it is made.

    The instance is a result of this software, it is not a radiograph, or its For
    Presentation image was analyzed instead.
    """


class SamePictureError(NotAnalyzedError):
    """Another revision with the same picture and identity has a result already.

    Attributes:
        known: The node's id of that revision.
    """

    reason = Unanalyzed.SAME_PICTURE

    def __init__(self, message: str, known: str) -> None:
        super().__init__(message)
        self.known = known


class AnalysisError(DicomNodeError):
    """The instance should be analyzed but cannot be; an operator must act."""

    reason = Failure.BROKEN


class TakesLongError(AnalysisError):
    """The image has too many pixels to decode it within the time limit of the call."""
