"""The Storage SCP of the node.

It stores and records each instance (see `receiver/c_store.py`). Decoding, analysis and
delivery are done later by the worker, so the response to a sender does not wait for
them.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial

from pydicom.uid import UID
from pynetdicom import AE, evt

from config.settings import ReceiverSettings
from dicom_node.metrics.counters import (
    ACCEPTED,
    REJECTED,
    REPORT_REFUSED,
    Count,
    ignore,
    increment,
)
from dicom_node.network.associate_pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    DICOM_APPLICATION_CONTEXT,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
)
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.presentation_contexts import (
    STORAGE_COMMITMENT,
    VERIFICATION,
    reporting_context,
    served_contexts,
)
from dicom_node.network.pynetdicom_adapter import (
    allow_long_uids,
    disable_event_logging,
)
from dicom_node.network.storage_commitment import (
    OnRefused,
    RecordReport,
    Report,
    handle_report,
    ignore_refusal,
)
from dicom_node.network.tls import certificate_names
from dicom_node.reasons import Rejection, ReportRefusal
from dicom_node.receiver.admission import Admission, listed_networks
from dicom_node.receiver.association import MAXIMUM_PDU, Connection
from dicom_node.receiver.association_slots import AssociationSlot, slots_folder
from dicom_node.receiver.c_store import Accept, Storing
from dicom_node.receiver.listener import (
    DEADLINE_S,
    Listener,
    PendingAssociation,
)
from dicom_node.receiver.ports import Listening
from dicom_node.storage.spool import MB, Spool
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

logger = logging.getLogger(__name__)

IDLE_S = 60.0  # an association without traffic is aborted after this time
DRAIN_S = 30.0  # time for open associations to end when the receiver stops
ABORT_S = 2.0  # time for an aborted association to end

MOST_NAMED = 10  # SOP Classes in one log line
NOT_STORED = {VERIFICATION, STORAGE_COMMITMENT}  # served SOP Classes without images
REFUSALS: Mapping[int | None, str] = {
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "SOP Class not supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "transfer syntaxes not supported",
}

OnAssociationRequest = Callable[[str, str, str], None]
"""A function that is called when an association is accepted or rejected.

It is also called if a connection does not become an association, except if the
connection closes without data. The arguments are the AE title of the caller, its
address, and the reason why it gets no association. The reason is empty if the
association is accepted. The title is empty if the caller did not send a title.
"""


def ignore_callers(_title: str, _address: str, _reason: str) -> None:
    """Do nothing: the default of `on_request`."""


def start_receiver(  # noqa: PLR0913 - the parts of a receiver
    settings: ReceiverSettings,
    spool: Spool,
    accept: Accept,
    sockets: Listening,
    on_request: OnAssociationRequest = ignore_callers,
    *,
    record_report: RecordReport | None = None,
    on_refused: OnRefused = ignore_refusal,
    count: Count = ignore,
) -> "Receiver":
    """Start threads that serve C-ECHO, C-STORE and commitment reports.

    Return the Receiver, which can stop the threads.

    Args:
        settings: Our AE title, the allowed callers and the limits.
        spool: Stores the instances.
        accept: Records an instance that is durable on disk. If this function raises
            RefusedError, it has recorded nothing. It is called from several threads at
            once.
        sockets: The listening sockets, plain or TLS. Other processes may share them.
        on_request: Called for accepted and rejected associations: see
            OnAssociationRequest.
        record_report: Records the storage commitment report of an archive. If this
            argument is None, no report is accepted.
        on_refused: Called for each storage commitment report that is refused.
        count: Counts events that the journal does not record.
    """
    disable_event_logging()
    allow_long_uids()  # receiver/dimse.py decides which UIDs are accepted
    storing = Storing(spool, accept, settings.max_instance_mb * MB, count)
    return Receiver(settings, storing, sockets, on_request, record_report, on_refused)


class Receiver:
    """A running Storage SCP.

    Attributes:
        port: The TCP port that the SCP listens on; if there are two, the first one.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - see start_receiver
        self,
        settings: ReceiverSettings,
        storing: Storing,
        sockets: Listening,
        on_request: OnAssociationRequest,
        record_report: RecordReport | None,
        on_refused: OnRefused,
    ) -> None:
        """Start to serve; see start_receiver."""
        self.port: int = next(iter(sockets)).getsockname()[1]
        self._storing = storing
        self._on_request = on_request
        self._record_report = record_report
        self._on_refused = on_refused
        self._settings = settings
        self._limit = settings.max_instance_mb * MB
        self._ae = _application_entity(settings)
        self._contexts = served_contexts(for_processing=settings.for_processing)
        slots = slots_folder(storing.spool.run)
        self._admission = Admission(settings, slots)
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()
        busy = (lambda: len(self._connections)) if settings.processes > 1 else lambda: 0
        self._listener = Listener(
            sockets, self._serve, storing.count, busy, self._on_failed
        )

    def drain(self, timeout_s: float) -> bool:
        """Stop accepting, and wait for the associations to end.

        Args:
            timeout_s: Time in seconds after which open associations are aborted.

        Returns:
            Whether all associations ended by themselves.
        """
        self._listener.stop()
        if self._wait(timeout_s):
            return True
        for connection in list(self._connections):
            connection.acse.send_abort(0x00)
        if not self._wait(ABORT_S):
            for connection in list(self._connections):
                connection.shut_down()
            self._wait(ABORT_S)
        return False

    def _wait(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._connections, timeout_s)

    def _serve(self, caller: PendingAssociation) -> None:
        """Start the thread of an association that a peer has requested.

        Raises:
            MalformedPduError: The request cannot be read.
        """
        connection = Connection(self._ae, self._contexts, caller, self._forget)
        storing = self._storing
        timeout_s = self._settings.operation_timeout_s
        connection.store_in(storing.spool, self._limit, timeout_s, storing.count)
        connection.bind(evt.EVT_REQUESTED, self._on_requested, [connection])
        connection.bind(evt.EVT_ESTABLISHED, _log_unusable)
        connection.bind(evt.EVT_C_STORE, self._storing.handle)
        if self._record_report:
            names = certificate_names(caller.socket)
            peer = connection.calling_ae_title, connection.address
            reporter = Reporter(*peer, names)
            record_report = partial(
                _record_report, record_report=self._record_report, connection=connection
            )
            arguments = [record_report, reporter, self._on_report_refused]
            connection.bind(evt.EVT_N_EVENT_REPORT, handle_report, arguments)
            connection.on_invalid_report = partial(
                self._on_report_refused, reporter, ReportRefusal.INVALID
            )
        with self._changed:
            self._connections.add(connection)
        try:
            connection.start()
        except RuntimeError:  # no more threads
            connection.resources.close()
            raise

    def _forget(self, connection: Connection) -> None:
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def _on_report_refused(self, reporter: Reporter, reason: ReportRefusal) -> None:
        self._storing.count(increment(REPORT_REFUSED, reason))
        self._on_refused(reporter, reason)

    def _on_failed(self, address: str, reason: str) -> None:
        """Report a connection that did not become an association."""
        self._on_request("", address, reason)

    def _on_requested(self, _: evt.Event, connection: Connection) -> None:
        """Accept or reject an association, before its contexts are negotiated."""
        decision = self._admit(connection)
        if isinstance(decision, Rejection):
            self._reject(connection, decision)
            return
        connection.resources.callback(decision.release)
        self._storing.count(increment(ACCEPTED))
        self._on_request(connection.calling_ae_title, connection.address, "")
        _log_refused_contexts(connection)
        if self._record_report and connection.would_serve(STORAGE_COMMITMENT):
            contexts = [*self._contexts, reporting_context()]
            connection.acceptor.supported_contexts = contexts

    def _admit(self, connection: Connection) -> AssociationSlot | Rejection:
        request = connection.associate_request
        if not request.has_version_1:
            return Rejection.VERSION_UNKNOWN
        if request.application_context != DICOM_APPLICATION_CONTEXT:
            return Rejection.CONTEXT_NAME_UNKNOWN
        try:
            return self._admission.admit(
                request.calling, request.called, connection.address
            )
        except Exception:
            # After an exception, pynetdicom would accept the caller without a check.
            logger.exception("Cannot decide on an association")
            return Rejection.CONGESTED

    def _reject(self, connection: Connection, rejection: Rejection) -> None:
        numbers = rejection.result, rejection.source, rejection.diagnostic
        connection.acse.send_reject(*numbers)
        connection.kill()
        calling, address = connection.calling_ae_title, connection.address
        networks = listed_networks(self._settings, calling)
        is_elsewhere = rejection is Rejection.CALLING_UNKNOWN and networks
        more = f" (listed for {', '.join(networks)} only)" if is_elsewhere else ""
        message = "Rejected %s at %s: %s%s"
        logger.warning(message, calling or "a caller", address, rejection.reason, more)
        self._storing.count(increment(REJECTED, rejection.reason))
        self._on_request(calling, address, rejection.reason)


def _record_report(
    report: Report,
    reporter: Reporter,
    record_report: RecordReport,
    connection: Connection,
) -> None:
    """Record a report, and restart the time limit of the association.

    If the report cannot be recorded, the time limit is not restarted.
    """
    record_report(report, reporter)
    connection.dimse.operation_is_complete()


def _log_refused_contexts(connection: Connection) -> None:
    """Log which presentation contexts were refused because they are invalid."""
    for number, (_, reason) in connection.associate_request.refused.items():
        peer = connection.calling_ae_title, connection.address
        message = "Refused presentation context %d of %s at %s: %s"
        logger.warning(message, number, *peer, reason)


def _log_unusable(event: evt.Event) -> None:
    """Log the refused SOP Classes if no SOP Class of images was accepted.

    Nothing is logged if the other SOP Classes were accepted, too: the peer then sends
    only C-ECHOs or storage commitment reports.
    """
    connection = event.assoc
    assert isinstance(connection, Connection)  # noqa: S101 - the receiver's always is
    contexts = connection.accepted_contexts
    accepted = {UID(each.abstract_syntax or "") for each in contexts}
    if accepted - NOT_STORED or (accepted and not connection.rejected_contexts):
        return
    proposed = {
        f"{UID(each.abstract_syntax or '').name} ({REFUSALS.get(each.result, '')})"
        for each in connection.rejected_contexts
    }
    others = ", ".join(sorted(each.name for each in accepted))
    exception = f" except {others}" if others else ""
    message = "No presentation context of %s at %s was accepted%s. It proposed: %s"
    peer = connection.calling_ae_title, connection.address
    named = ", ".join(sorted(proposed)[:MOST_NAMED])
    logger.warning(message, *peer, exception, named or "none that is valid")


def _application_entity(settings: ReceiverSettings) -> AE:
    ae = AE(settings.ae_title)
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = DEADLINE_S
    ae.network_timeout = IDLE_S
    ae.maximum_associations = sys.maxsize  # limited in admission.py
    return ae
