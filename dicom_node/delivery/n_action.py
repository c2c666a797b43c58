"""The Storage Commitment SCU: asks archives to commit to objects that they have stored.

A request is an N-ACTION of the Storage Commitment Push Model (PS3.4 J.3.2), on a
separate association. Some archives report at once on the same association, so the node
waits up to REPORT_AT_ONCE_S seconds for a report. Other archives open an association to
our receiver minutes or hours later.
"""

import threading
from functools import partial

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from config.destinations import Address
from dicom_node.delivery.association import LostError, associated
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT
from dicom_node.network.storage_commitment import (
    OnRefused,
    RecordReport,
    Request,
    handle_report,
    ignore_refusal,
)
from dicom_node.outcome import OUT_OF_RESOURCES, WARNINGS, Outcome, Verdict, outcome_of

WELL_KNOWN_INSTANCE = UID("1.2.840.10008.1.20.1.1")
REQUEST = 1  # the action type
# Seconds for which an association is kept open for an immediate report. The time is
# short, because the request counts as one of the concurrent deliveries to this archive.
REPORT_AT_ONCE_S = 1.0
SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# Warnings after which the request counts as accepted (PS3.7 10.1.4.1.10 and annex C):
# attribute list error, attribute value out of range.
LESSER_WARNINGS = frozenset({0x0107, 0x0116})
# Failures after which the request is repeated: processing failure, duplicate
# transaction UID, duplicate invocation, resource limitation.
PASSING = frozenset({0x0110, 0x0131, 0x0210, 0x0213})


def request_commitment(  # noqa: PLR0913 - the request, its peer and handlers of the report
    request: Request,
    destination: Address,
    *,
    calling_ae_title: str,
    timeout_s: float,
    record_report: RecordReport,
    on_refused: OnRefused = ignore_refusal,
) -> Outcome:
    """Ask an archive to commit to objects that it has stored.

    If the archive accepts the request, the function waits up to REPORT_AT_ONCE_S
    seconds for a report.

    Args:
        request: The objects and the Transaction UID, already recorded in the journal.
        destination: Address of the archive.
        calling_ae_title: Our AE title. The archive sends the report to the AE with this
            title.
        timeout_s: Timeout in seconds for the connection, and for the response.
        record_report: Called in another thread if a report comes on the association of
            the request. Many archives report later, on another association.
        on_refused: Called for each report that the node refuses, if the report comes on
            the association of the request.

    Returns:
        An outcome with the verdict STORED if the archive accepted the request. The
        outcome does not say whether a report came.
    """
    called = Reporter(destination.ae_title, destination.host, called=destination)
    listener = _ReportListener(record_report, called, on_refused)
    try:
        with associated(
            destination,
            [build_context(STORAGE_COMMITMENT, SYNTAXES)],
            calling_ae_title=calling_ae_title,
            timeout_s=timeout_s,
        ) as peer:
            if not peer.accepted:
                reason = (
                    f"{peer} does not accept Storage Commitment. Set commitment = "
                    "false for this destination, then retry"
                )
                return Outcome(Verdict.REFUSED, None, reason)
            response = peer.send_request(
                partial(_n_action, request=request, listener=listener)
            )
            outcome = outcome_of(response, verdict_of)
            if outcome.verdict is Verdict.STORED:
                listener.wait()
            return outcome
    except LostError as error:
        return Outcome(Verdict.RETRY, None, str(error))


def verdict_of(status: int) -> Verdict:
    """Return the verdict for the status of an N-ACTION response.

    STORED means that the archive accepted the request. RETRY means that the node must
    repeat the request. REFUSED means that the request failed.
    """
    if status == 0 or status in WARNINGS or status in LESSER_WARNINGS:
        return Verdict.STORED
    passes = status in PASSING or status in OUT_OF_RESOURCES
    return Verdict.RETRY if passes else Verdict.REFUSED


class _ReportListener:
    """A handler for a Storage Commitment report on the association of the request.

    An archive may also report later, on an association that it opens itself. The
    receiver process handles such a report.
    """

    def __init__(
        self, record_report: RecordReport, reporter: Reporter, on_refused: OnRefused
    ) -> None:
        self._record_report = record_report
        self._reporter = reporter
        self._on_refused = on_refused
        self._received = threading.Event()
        self._thread: threading.Thread | None = None

    def handle(self, event: evt.Event) -> tuple[int, None]:
        self._thread = threading.current_thread()
        self._received.set()
        return handle_report(
            event, self._record_report, self._reporter, self._on_refused
        )

    def wait(self) -> None:
        """Wait up to REPORT_AT_ONCE_S seconds for a report.

        If a report comes, also wait until it was handled.
        """
        if self._received.wait(REPORT_AT_ONCE_S) and self._thread:
            self._thread.join()


def _n_action(
    association: Association, *, request: Request, listener: _ReportListener
) -> Dataset:
    association.bind(evt.EVT_N_EVENT_REPORT, listener.handle)
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    information.ReferencedSOPSequence = [
        _reference(*each) for each in request.references
    ]
    response, _ = association.send_n_action(
        information, REQUEST, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
    )
    return response


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
