"""Reasons for a failure or a refusal: the closed sets that metrics count by.

The reason that a user sees is a sentence, and may quote a code or a peer. A label of a
metric must not: each new value would create a new time series that never ends.
"""

from enum import StrEnum


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
    MODALITY = "modality"  # not that of a radiograph, for a Secondary Capture
    COLOR = "color"
    AGE = "age"  # the study is too old
    FRAMES = "frames"
    BITS = "bits"
    TOO_LARGE = "too_large"
    NO_STUDY = "no_study"
    NOT_A_UID = "not_a_uid"  # Study, Series or SOP Instance UID
    BODY_PART = "body_part"
    BLANK = "blank"
    UNFAMILIAR = "unfamiliar"  # unlike the pictures of the training data
    TWIN = "twin"  # its For Presentation image is analyzed instead
    SAME_PICTURE = "same_picture"
    OTHER = "other"


class ReportRefusal(StrEnum):
    """Why a report on Storage Commitment was refused."""

    INVALID = "invalid"  # another SOP Class, instance or event type
    UNREADABLE = "unreadable"
    UNKNOWN_TRANSACTION = "unknown_transaction"
    ANOTHER_PEER = "another_peer"  # not the peer that got the request


class Failure(StrEnum):
    """Why the analysis of an instance failed."""

    BROKEN = "broken"  # its pixels, or the file
    DECODER_DIED = "decoder_died"
    WORKER_DIED = "worker_died"
    PROGRAM = "program"  # an error of this program


Reason = Refusal | Unanalyzed | ReportRefusal | Failure
