"""An association that a peer opened, based on pynetdicom's class.

pynetdicom accepts a PDU of any size, reads it in pieces of 4 kB, and waits for the rest
of it without a limit. This module limits the size of a PDU and the time to receive it.
An association is aborted if too much time has passed since its last success, or since
its start if it has had none. A success is a stored instance or a recorded report of
Storage Commitment. A C-ECHO does not count. The resources of an association are
released when its thread ends, even after an error. receiver/dimse.py stores the
datasets.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.dimse_primitives import (
    C_STORE,
    N_EVENT_REPORT,
    DimseServiceType,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.errors import MismatchError
from dicom_node.metrics.counters import REFUSED, Count, ignore, increment
from dicom_node.network.associate_pdu import (
    ASSOCIATE_AC,
    PDU_HEAD,
    AssociateRequest,
    complete_accept,
    read_request,
)
from dicom_node.network.invalid_request import NotServedError, answer_invalid
from dicom_node.network.pynetdicom_adapter import BaseAssociation
from dicom_node.network.sockets import receive, receive_into, shut_down
from dicom_node.network.tls import TlsSocket, close_notify
from dicom_node.network.upper_layer import ARTIM_S
from dicom_node.receiver.dimse import SpoolingDimseProvider
from dicom_node.receiver.listener import PendingAssociation
from dicom_node.receiver.pdata import FragmentReader, is_fragments
from dicom_node.receiver.wakeups import (
    CHECK_INTERVAL_S,
    NotifyingQueue,
    ReactorEvent,
    SocketWakeup,
)
from dicom_node.storage.spool import Spool

logger = logging.getLogger(__name__)

# The maximum length that we announce to senders. pynetdicom proposes 16 kB, and DCMTK
# sends at most 128 kB. With 16 associations, a maximum of 128 kB takes half the CPU
# time of 32 kB, and 4 MB more memory.
MAXIMUM_PDU = 131_072
# Some peers exceed MAXIMUM_PDU. A PDU of more than LONGEST_PDU bytes ends the
# association, because it could exhaust the memory.
LONGEST_PDU = 1_048_576
PDU_DEADLINE_S = 60.0
# Each time this many bytes have arrived, the time for an operation is extended by 1 s.
SLOWEST_BYTES_PER_S = 10_000
# If the two threads do not end within this time after an abort, the connection is cut.
KILL_S = 2 * ARTIM_S
# PS3.8 9.2.1: in these states the upper layer waits for our response to an association
# request, for data, or for our response to a release request. When one of these comes,
# the upper layer is woken, so it need not poll.
WAITING = {"Sta3", "Sta6", "Sta8"}


class _Socket(AssociationSocket):
    """The connection of an association. Its first PDU has already been read.

    Attributes:
        associate_request: The peer's request for an association. `send` needs it to
            complete the A-ASSOCIATE-AC.
    """

    associate_request: AssociateRequest

    def __init__(
        self,
        association: "Connection",
        caller: PendingAssociation,
        wakeup: SocketWakeup,
    ) -> None:
        self._association = association
        self._connection = caller.socket
        self._ahead = caller.request
        self._buffer = bytearray()
        self._wakeup = wakeup
        super().__init__(association, client_socket=caller.socket)

    @property
    def ready(self) -> bool:
        """Whether there is data to read, or the peer has ended the connection.

        If the state of the upper layer is in WAITING, the property first waits up to
        CHECK_INTERVAL_S for data to read or a message to send.
        """
        if self.socket is None:
            return False
        tls = self._connection if isinstance(self._connection, TlsSocket) else None
        if self._ahead or (tls and tls.pending()):
            return True
        waits = self.assoc.dul.state_machine.current_state in WAITING
        is_readable = self._wakeup.wait(CHECK_INTERVAL_S * waits)
        return is_readable and (tls is None or tls.has_data())

    def recv(self, nr_bytes: int) -> bytearray:
        """Return the next `nr_bytes` bytes; fewer if the connection ends first.

        Raises:
            OSError: `nr_bytes` is more than LONGEST_PDU, the bytes did not arrive
                within PDU_DEADLINE_S, or the connection broke.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:nr_bytes], self._ahead[nr_bytes:]
            return bytearray(data)
        deadline = self._deadline(nr_bytes)
        return receive(self._connection, nr_bytes, deadline)

    def fragments(self) -> memoryview | None:
        """Return the next PDU without its header if it is a P-DATA-TF, otherwise None.

        The memory of the result is reused for the next PDU. A PDU of another type is
        not removed: the next calls of `recv` return it.

        Raises:
            OSError: The PDU is longer than LONGEST_PDU, did not arrive within
                PDU_DEADLINE_S, or was cut off because the connection ended.
        """
        head = bytes(self.recv(PDU_HEAD))
        if not is_fragments(head):
            self._ahead = head + self._ahead
            return None
        length = int.from_bytes(head[2:], "big")
        deadline = self._deadline(length)
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        view = memoryview(self._buffer)[:length]
        if receive_into(self._connection, view, deadline) < length:
            raise OSError("The connection ended in the middle of a PDU")
        return view

    def send(self, bytestream: bytes) -> None:
        """Send a PDU. An A-ASSOCIATE-AC is changed first: see `complete_accept`."""
        if bytestream[0] == ASSOCIATE_AC:
            bytestream = complete_accept(bytestream, self.associate_request)
        super().send(bytestream)

    def close(self) -> None:
        """Close the connection. Under TLS, send a close_notify alert first."""
        close_notify(self.socket)
        super().close()

    def _deadline(self, length: int) -> float:
        if length > LONGEST_PDU:
            message = f"a PDU of {length} bytes was announced, more than {LONGEST_PDU}"
            self._association.dul.set_abort_reason(message)
            raise OSError(message)
        return time.monotonic() + PDU_DEADLINE_S


class Connection(BaseAssociation):
    """One association, from the peer's request to the end of its thread.

    Attributes:
        address: Network address of the peer.
        associate_request: The peer's request.
        resources: Resources that are released when the association ends for any reason.
        on_invalid_report: Called for each N-EVENT-REPORT with a parameter that is
            missing or wrong.
    """

    def __init__(
        self,
        ae: AE,
        contexts: list[PresentationContext],
        caller: PendingAssociation,
        ended: Callable[["Connection"], None],
    ) -> None:
        """Set up an association; call `store_in` and then `start` to serve it.

        Args:
            ae: Our AE title, timeouts and PDU size.
            contexts: The presentation contexts that we serve.
            caller: The peer, with its connection and its request.
            ended: Called with this object after all other resources are released.

        Raises:
            MalformedPduError: The request cannot be read.
        """
        self.associate_request = read_request(caller.request)
        super().__init__(ae, "acceptor")
        self.name = "association"
        self.address = caller.address[0]
        self.resources = ExitStack()
        self.resources.callback(ended, self)
        self.resources.callback(caller.socket.close)
        self._connection = caller.socket
        wakeup = SocketWakeup(caller.socket)
        self.resources.callback(wakeup.close)
        self.dul: FragmentReader = FragmentReader(self)
        self.network_timeout = ae.network_timeout  # sets the idle timer of self.dul
        self.dul.on_abort = self._log_abort
        self._count: Count = ignore
        self.on_invalid_report: Callable[[], None] = lambda: None
        self.dul.to_provider_queue = NotifyingQueue(wakeup.wake)
        self._checkpoint = ReactorEvent()
        self.set_loop_event(self._checkpoint)
        self.dul.to_user_queue = NotifyingQueue(self._checkpoint.set)
        pending = replace(caller, request=self.associate_request.pdu)
        association_socket = _Socket(self, pending, wakeup)
        association_socket.associate_request = self.associate_request
        self.set_socket(association_socket)
        self.requestor.address_info = AddressInformation.from_tuple(caller.address)
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = contexts

    @property
    def calling_ae_title(self) -> str:
        """AE title of the peer as printable text; empty if the peer sent none."""
        return self.associate_request.calling

    @property
    def called_ae_title(self) -> str:
        """AE title that the peer called, as printable text."""
        return self.associate_request.called

    def store_in(
        self, spool: Spool, limit: int, operation_timeout_s: float, count: Count
    ) -> None:
        """Let the association store datasets in the spool as they arrive.

        Args:
            spool: Stores the datasets.
            limit: Maximum size of a dataset, in bytes.
            operation_timeout_s: The association is aborted if no instance was stored,
                and no commitment report was recorded, for this many seconds. Each 10 kB
                that are received in this time add one second.
            count: Counts C-STORE requests that are refused because of their command.
        """
        self._count = count
        self._operation_timeout_s = operation_timeout_s
        self.dul.overdue = self._overdue
        self.dimse: SpoolingDimseProvider = SpoolingDimseProvider(self, spool, limit)
        self.dimse.msg_queue = NotifyingQueue(self._checkpoint.set)
        self._checkpoint.queues = [self.dimse.msg_queue, self.dul.to_user_queue]
        self.resources.callback(self.dimse.release)

    def would_serve(self, sop_class: UID) -> bool:
        """Return whether the peer proposed to be the SCP of a SOP Class.

        A peer proposes this by SCP/SCU Role Selection Negotiation (PS3.7 D.3.3.4).
        """
        role = self.requestor.role_selection.get(sop_class)
        return role is not None and bool(role.scp_role)

    def serve_request(self, request: DimseServiceType, context_id: int) -> None:
        """Serve a request in this association's thread.

        pynetdicom calls this method for an N-EVENT-REPORT in a new thread. In that
        thread, the method only queues the request for the association's thread, so that
        one request is served at a time.
        """
        if threading.current_thread() is not self:
            self.dimse.msg_queue.put((context_id, request))
            return
        caller = f"{self.calling_ae_title} at {self.address}"
        try:
            if not answer_invalid(self, request, context_id, caller):
                super().serve_request(request, context_id)
            elif isinstance(request, C_STORE):
                self._count(increment(REFUSED, MismatchError.reason))
            elif isinstance(request, N_EVENT_REPORT):
                self.on_invalid_report()
        except NotServedError as error:
            self.dul.set_abort_reason(str(error))
            self.abort()

    def _overdue(self) -> str:
        """Return the reason to abort the association; empty if there is none."""
        more_s = self.dimse.received / SLOWEST_BYTES_PER_S
        passed_s = time.monotonic() - self.dimse.since
        if passed_s < self._operation_timeout_s + more_s:
            return ""
        return f"no instance was stored for {passed_s:.0f} s"

    def kill(self) -> None:
        """End the two threads of the association.

        If the threads have not ended after KILL_S, the connection is cut. This is
        necessary, for example, if a TLS peer sends empty records continuously. OpenSSL
        then reads these records without end, so the upper layer cannot end by itself.
        """
        timer = threading.Timer(KILL_S, self.shut_down)
        timer.daemon = True
        timer.start()
        try:
            super().kill()
        finally:
            timer.cancel()

    def _log_abort(self, reason: str) -> None:
        peer = self.calling_ae_title, self.address
        logger.warning("Aborting the association of %s at %s: %s", *peer, reason)

    def run_reactor(self) -> None:
        """Serve the association until it ends, then release its resources."""
        with self.resources:
            try:
                super().run_reactor()
            finally:
                self.shut_down()
                self._log_cut_off()

    def _log_cut_off(self) -> None:
        """Log if the association ended in the middle of an instance.

        Nothing is logged if the reason for an abort has already been logged.
        """
        if self.dul.abort_reason or not self.dimse.unfinished:
            return
        peer = self.calling_ae_title, self.address
        message = "The association of %s at %s ended in the middle of %s"
        logger.warning(message, *peer, self.dimse.unfinished)

    def shut_down(self) -> None:
        """End the TCP connection, so that the threads of the association end."""
        shut_down(self._connection)
