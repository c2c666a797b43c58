"""Closed sets of reasons for failures, refusals and rejections.

The values are labels of metrics. The reason that a user sees is a sentence, and may
quote a code or a peer. The label of a metric must not quote anything, because each new
label would create another time series.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Refusal(StrEnum):
    """Why an instance was refused."""

    DISK = "disk"  # full, below min_free_mb, or failed
    DATABASE = "database"
    PROGRAM = "program"  # an error of this program
    MISMATCH = "mismatch"  # command, SOP Class and dataset disagree
    UNREADABLE = "unreadable"  # cannot be parsed, or is incomplete
    TOO_LARGE = "too_large"


class Unanalyzed(StrEnum):
    """Why an instance is kept, but not analyzed."""

    NO_IMAGE = "no_image"
    OWN_RESULT = "own_result"
    OTHER_RESULT = "other_result"  # made by another AI or image processing
    NO_RADIOGRAPH = "no_radiograph"  # according to its SOP Class
    MODALITY = "modality"  # of a Secondary Capture that is not a radiograph
    COLOR = "color"
    AGE = "age"  # the study is too old
    FRAMES = "frames"
    BITS = "bits"
    TOO_LARGE = "too_large"
    NO_STUDY = "no_study"
    NOT_A_UID = "not_a_uid"  # Study, Series or SOP Instance UID
    BODY_PART = "body_part"
    VIEW = "view"
    PATIENT_AGE = "patient_age"  # the patient is too young
    BLANK = "blank"
    UNFAMILIAR = "unfamiliar"  # out of distribution
    FOR_PROCESSING = "twin"  # its For Presentation image is analyzed instead
    SAME_PICTURE = "same_picture"
    OTHER = "other"


class Exclusion(NamedTuple):
    """Why an instance is not analyzed: the label for the metrics, and a sentence."""

    reason: Unanalyzed
    message: str


class ReportRefusal(StrEnum):
    """Why a Storage Commitment report was refused."""

    INVALID = "invalid"  # wrong SOP Class, SOP Instance or event type
    UNREADABLE = "unreadable"
    UNKNOWN_TRANSACTION = "unknown_transaction"
    ANOTHER_PEER = "another_peer"  # not the peer that got the request


class NotAssociated(StrEnum):
    """Why a connection did not become an association."""

    NO_REQUEST = "no_request"  # no complete A-ASSOCIATE-RQ in time
    UNREADABLE = "unreadable"
    NO_DICOM = "no_dicom"
    NO_TLS = "no_tls"
    CROWDED = "crowded"  # too many connections are waiting


class Failure(StrEnum):
    """Why the analysis of an instance failed."""

    BROKEN = "broken"  # the pixels or the file are broken
    DECODER_DIED = "decoder_died"
    WORKER_DIED = "worker_died"
    PROGRAM = "program"  # an error of this program


REJECTION_REASONS: Mapping[tuple[int, int], str] = MappingProxyType(
    {
        (1, 1): "no reason given",
        (1, 2): "application context name not supported",
        (1, 3): "calling AE title not recognized",
        (1, 7): "called AE title not recognized",
        (2, 1): "no reason given",
        (2, 2): "protocol version not supported",
        (3, 1): "temporary congestion",
        (3, 2): "local limit exceeded",
    }
)
"""The reasons of an A-ASSOCIATE-RJ by source and diagnostic (PS3.8 table 9-21)."""


class Rejection(Enum):
    """Why the node rejects an association, with the codes of the A-ASSOCIATE-RJ PDU.

    Attributes:
        result: 1 permanent, 2 transient.
        source: 1 service user, 2 service provider (ACSE related), 3 service provider
            (presentation related).
        diagnostic: Number of the reason for this source.
        reason: The reason as a text: that of the standard, or a more precise one.
    """

    CALLING_UNKNOWN = 1, 1, 3
    CALLING_ABSENT = 1, 1, 3, "calling AE title is empty"
    CALLED_UNKNOWN = 1, 1, 7
    CONTEXT_NAME_UNKNOWN = 1, 1, 2
    VERSION_UNKNOWN = 1, 2, 2
    CONGESTED = 2, 3, 1
    LIMIT_EXCEEDED = 2, 3, 2
    CALLER_LIMIT_EXCEEDED = 2, 3, 2, "local limit exceeded by one caller"
    ADDRESS_LIMIT_EXCEEDED = 2, 3, 2, "local limit exceeded by one address"

    def __init__(
        self, result: int, source: int, diagnostic: int, reason: str = ""
    ) -> None:
        """Store the codes. If `reason` is empty, take it from REJECTION_REASONS."""
        self.result, self.source, self.diagnostic = result, source, diagnostic
        self.reason = reason or REJECTION_REASONS[source, diagnostic]


Reason = Refusal | Unanalyzed | ReportRefusal | Failure
