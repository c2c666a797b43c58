"""Why something did not go as hoped, in a word: the closed sets that are counted by.

What is said to people is a sentence, and may quote a code or a peer. A label of a
metric may not: each new value would be a new time series, for ever.
"""

from enum import StrEnum


class Refusal(StrEnum):
    """Why an instance was refused."""

    DISK = "disk"  # full, below min_free_mb, or failed
    DATABASE = "database"
    PROGRAM = "program"  # an error of ours
    MISMATCH = "mismatch"  # command, SOP Class and dataset disagree
    UNREADABLE = "unreadable"  # not parseable, or not whole
    TOO_LARGE = "too_large"


class Unanalyzed(StrEnum):
    """Why an instance is kept and not analyzed."""

    NO_IMAGE = "no_image"
    OWN_RESULT = "own_result"
    OTHER_RESULT = "other_result"  # of another AI or image processing
    NO_RADIOGRAPH = "no_radiograph"  # by its SOP Class
    MODALITY = "modality"  # of a Secondary Capture
    COLOR = "color"
    AGE = "age"  # of the study
    FRAMES = "frames"
    BITS = "bits"
    TOO_LARGE = "too_large"
    NO_STUDY = "no_study"
    NOT_A_UID = "not_a_uid"  # Study, Series or SOP Instance UID
    BODY_PART = "body_part"
    BLANK = "blank"
    UNFAMILIAR = "unfamiliar"  # unlike the pictures of training
    TWIN = "twin"  # its For Presentation image is analyzed instead
    SAME_PICTURE = "same_picture"
    OTHER = "other"


class ReportRefusal(StrEnum):
    """Why a report on Storage Commitment was refused."""

    INVALID = "invalid"  # another SOP Class, instance or event type
    UNREADABLE = "unreadable"
    UNKNOWN_TRANSACTION = "unknown_transaction"
    ANOTHER_PEER = "another_peer"  # than the one that was asked


class Failure(StrEnum):
    """Why an instance could not be analyzed though it should be."""

    BROKEN = "broken"  # its pixels, or the file
    DECODER_DIED = "decoder_died"
    WORKER_DIED = "worker_died"
    PROGRAM = "program"  # an error of ours


Reason = Refusal | Unanalyzed | ReportRefusal | Failure
