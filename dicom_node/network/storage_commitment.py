"""Reads and answers a Storage Commitment report of an archive.

The report is an N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 J.3.3). It
may come on the association of the request, or on an association that the archive opens
hours later. In both cases, the node responds with success only after it has recorded
the report.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset
from pynetdicom import evt

from dicom_node.dataset.attributes import UID_PATTERN, text
from dicom_node.errors import ReportRefusedError
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT
from dicom_node.reasons import ReportRefusal

logger = logging.getLogger(__name__)

EVENT_TYPES = (1, 2)  # 1: all committed; 2: some failed (PS3.4 table J.3-2)
NOT_COMMITTED = "stored, but not committed"
SUCCESS = 0x0000
# PS3.7 10.1.1.1.8 and annex C.
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_OBJECT_INSTANCE = 0x0117
NO_SUCH_SOP_CLASS = 0x0118
RESOURCE_LIMITATION = 0x0213


@dataclass(frozen=True, slots=True)
class Request:
    """A request for storage commitment.

    Attributes:
        transaction_uid: Transaction UID, a new one for each request.
        references: SOP Class UID and SOP Instance UID of each object.
    """

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


class Remedy(StrEnum):
    """The next step for an object that the archive does not commit to."""

    STORE_AGAIN = "store again"
    REQUEST_AGAIN = "request again"  # with a new Transaction UID
    NONE = "none"


# The remedy and the meaning of each Failure Reason (0008,1197), from PS3.3 C.14.1.1.
# After any other reason, the commitment is requested again: the archive has stored the
# object, and a request is only one small message.
REASONS = {
    0x0110: (Remedy.REQUEST_AGAIN, "processing failure"),
    0x0112: (Remedy.STORE_AGAIN, "no such object instance"),
    0x0119: (Remedy.NONE, "class / instance conflict"),
    0x0122: (Remedy.NONE, "referenced SOP class not supported"),
    0x0131: (Remedy.REQUEST_AGAIN, "duplicate transaction UID"),
    0x0213: (Remedy.REQUEST_AGAIN, "resource limitation"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """An archive's report on one request.

    Attributes:
        transaction_uid: Transaction UID of the request.
        committed: SOP Instance UIDs of the objects that the archive will keep.
        failed: Failure Reason (0008,1197) of each object that the archive does not
            commit to, by SOP Instance UID. The value is 0 if the report has no reason.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


RecordReport = Callable[[Report, Reporter], None]
"""A function that records a report.

The arguments are the report and its reporter, the peer that sent it.

Raises:
    ReportRefusedError: The node did not request the transaction, or the reporter may
        not report on it.
"""

OnRefused = Callable[[Reporter, ReportRefusal], None]
"""A function that is called for each refused report.

The arguments are the reporter, which sent the report, and the reason for the refusal.
"""


def remedy_of(reason: int) -> tuple[Remedy, str]:
    """Return the next step for a Failure Reason (0008,1197), and the reason as text.

    The next step for an unknown reason is REQUEST_AGAIN.
    """
    remedy, meaning = REASONS.get(reason, (Remedy.REQUEST_AGAIN, "unknown reason"))
    return remedy, f"{NOT_COMMITTED}: 0x{reason:04X} {meaning}"


def read_report(information: Dataset) -> Report:
    """Return the report in an Event Information (PS3.4 table J.3-2).

    An object in the Failed SOP Sequence has failed, even if the event type says that
    all objects are committed.

    Raises:
        ValueError: The Transaction UID is absent or invalid, or a Failure Reason is not
            a number. pydicom may raise other exceptions if the bytes are invalid.
    """
    transaction = text(information, "TransactionUID")
    if not UID_PATTERN.fullmatch(transaction):
        raise ValueError("no Transaction UID")
    failed = {
        text(each, "ReferencedSOPInstanceUID"): int(each.get("FailureReason") or 0)
        for each in information.get("FailedSOPSequence") or ()
    }
    named = {
        text(each, "ReferencedSOPInstanceUID")
        for each in information.get("ReferencedSOPSequence") or ()
    }
    return Report(transaction, frozenset(named - failed.keys()), failed)


def ignore_refusal(_reporter: Reporter, _reason: ReportRefusal) -> None:
    """Do nothing: the default of `on_refused`."""


def handle_report(
    event: evt.Event,
    record_report: RecordReport,
    reporter: Reporter,
    on_refused: OnRefused = ignore_refusal,
) -> tuple[int, None]:
    """Record a Storage Commitment report, and return the status of the response.

    No exception is raised. If the report cannot be recorded, the status is a failure.

    Args:
        event: pynetdicom's EVT_N_EVENT_REPORT. The negotiation of the association has
            already decided whether the peer may send reports on this association.
        record_report: Records the report. Several threads may call it at once.
        reporter: The peer that sent the report.
        on_refused: Called if the report is refused. Several threads may call it at
            once.

    Returns:
        (status, None). None means that the response has no Event Reply. After any
        status other than success, the archive may report again.
    """
    peer = f"{reporter.ae_title} at {reporter.address}"
    try:
        report = _read(event)
        record_report(report, reporter)
    except ReportRefusedError as error:
        logger.warning("Refused a commitment report of %s: %s", peer, error)
        on_refused(reporter, error.reason)
        return error.status, None
    except Exception as error:  # noqa: BLE001 - the archive is to report again
        name = type(error).__name__
        logger.error("Cannot record a commitment report of %s: %s", peer, name)  # noqa: TRY400
        return RESOURCE_LIMITATION, None
    counts = len(report.committed), len(report.failed)
    logger.info("%s reports: %d committed, %d not", peer, *counts)
    return SUCCESS, None


def _read(event: evt.Event) -> Report:
    """Return the report in an event.

    Raises:
        ReportRefusedError: The event is not a Storage Commitment report, or it cannot
            be read.
    """
    sop_class = event.request.AffectedSOPClassUID
    if {sop_class, event.context.abstract_syntax} != {STORAGE_COMMITMENT}:
        problem = "its SOP Class is not Storage Commitment Push Model"
        raise ReportRefusedError(problem, ReportRefusal.INVALID, NO_SUCH_SOP_CLASS)
    if event.event_type not in EVENT_TYPES:
        problem = "its event type is neither 1 nor 2"
        raise ReportRefusedError(problem, ReportRefusal.INVALID, NO_SUCH_EVENT_TYPE)
    try:
        return read_report(event.event_information)
    except Exception as error:  # noqa: BLE001 - invalid bytes may cause any exception
        raise ReportRefusedError(
            f"it cannot be read ({type(error).__name__})",
            ReportRefusal.UNREADABLE,
            INVALID_ARGUMENT_VALUE,
        ) from None
