"""Errors of receiving and analyzing instances, grouped by who must act.

    DicomNodeError
    ├── RefusedError                 the sender must act; it gets a failure status
    │   ├── OutOfResourcesError      0xA700: no disk, no database; send again later
    │   ├── MismatchError            0xA900: command, class and dataset disagree
    │   └── CannotUnderstandError    0xC000: not parseable, incomplete or too large
    │       ├── EndsEarlyError       0xC000: the dataset ends too early
    │       └── TooManyElementsError 0xC000: more elements or items than the limit
    ├── ReportRefusedError           the archive's report is not recorded
    ├── FileReadError                a decoding process cannot read a file now
    ├── NotAnalyzedError             nobody must act; the reason is recorded
    │   ├── NotMeantError            nobody expects a result
    │   └── SamePictureError         another revision already has a result
    └── AnalysisError                an operator must act: broken pixels, dead decoder
        └── TakesLongError           nobody must act; the slow lane analyzes the image

A message says what was found. If possible, it also says what was expected and what to
do. Messages are written to the log and shown on the web pages. The Error Comment
(0000,0902) of a C-STORE response contains the beginning of the message of a
RefusedError. Therefore a message contains no patient data. It quotes only UIDs, numbers
and code strings of the received data.
"""

from typing import ClassVar

from dicom_node.reasons import Failure, Reason, Refusal, ReportRefusal, Unanalyzed


class DicomNodeError(Exception):
    """Base class of the errors of this module.

    Attributes:
        reason: The label under which the metrics count the error.
    """

    reason: Reason

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        """Store the message. If `reason` is given, it replaces the class's reason."""
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class RefusedError(DicomNodeError):
    """Raised if the node does not accept an instance.

    Attributes:
        status: The status of the C-STORE response (PS3.4 B.2.3).
    """

    status: ClassVar[int]


class OutOfResourcesError(RefusedError):
    """Raised if the node cannot store an instance now; the sender may try again."""

    status = 0xA700  # Refused: Out of Resources
    reason = Refusal.DISK


class MismatchError(RefusedError):
    """Raised if the command set, the SOP Class and the dataset do not agree.

    Also raised if a UID in the command set is invalid, or if the presentation context
    was not accepted.
    """

    status = 0xA900  # Error: Data Set Does Not Match SOP Class
    reason = Refusal.MISMATCH


class CannotUnderstandError(RefusedError):
    """Raised if a dataset is missing, unparseable, incomplete or too large.

    Also raised if the node does not accept the SOP Class, the transfer syntax or a UID
    of an uploaded file.
    """

    status = 0xC000  # Error: Cannot Understand
    reason = Refusal.UNREADABLE


class EndsEarlyError(CannotUnderstandError):
    """Raised if a dataset ends too early, for example within an element."""


class TooManyElementsError(CannotUnderstandError):
    """Raised if a dataset has more elements or items than the node reads."""

    reason = Refusal.TOO_LARGE


class ReportRefusedError(DicomNodeError):
    """Raised if the node does not record a Storage Commitment report.

    Attributes:
        status: The status of the N-EVENT-REPORT response (PS3.7 10.1.1.1.8).
    """

    reason: ReportRefusal

    def __init__(self, message: str, reason: ReportRefusal, status: int) -> None:
        super().__init__(message, reason)
        self.status = status


class FileReadError(DicomNodeError):
    """Raised in a decoding process if the disk fails while it reads a file.

    The content of the file is not the cause. The parent of the process raises another
    error instead: see `DecoderProcess.run`.
    """


class NotAnalyzedError(DicomNodeError):
    """Raised if an instance is valid, but the model must not be applied to it.

    The journal records the instance as not analyzed, with the reason.
    """

    reason = Unanalyzed.OTHER


class NotMeantError(NotAnalyzedError):
    """Raised if nobody expects a result for an instance.

    The instance is a result of this software, or is not a radiograph, or is a For
    Processing image and its For Presentation image was analyzed. The node makes neither
    a notice nor an HL7 message about the instance.
    """


class SamePictureError(NotAnalyzedError):
    """Raised if another revision of the instance already has a result.

    Both revisions have the same picture, patient, study and description of the picture.

    Attributes:
        known: `ReceivedInstance.id` of the revision that has the result.
    """

    reason = Unanalyzed.SAME_PICTURE

    def __init__(self, message: str, known: str) -> None:
        super().__init__(message)
        self.known = known


class AnalysisError(DicomNodeError):
    """Raised if an instance should be analyzed, but cannot be.

    An operator must act, except after a TakesLongError.
    """

    reason = Failure.BROKEN


class TakesLongError(AnalysisError):
    """Raised if an image has too many pixels for the time limit of the decoder.

    Nobody must act: a worker then analyzes the image in the slow lane.
    """
