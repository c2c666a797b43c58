"""One association with a peer that sends to us: pynetdicom's, with its leaks closed.

pynetdicom takes a PDU of any size, in pieces of 4 kB, and waits forever for the rest
of one. Here there are bounds. A C-ECHO from time to time does not keep an association
open, nor do fragments that never become an instance. An association releases what it
holds when its thread ends. intake.py says where its datasets go.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import (
    C_STORE,
    N_EVENT_REPORT,
    DimseServiceType,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.associate_pdu import (
    ASSOCIATE_AC,
    AssociateRequest,
    complete_accept,
    read_request,
)
from dicom_node.errors import MismatchError
from dicom_node.fragments import FragmentReader, is_fragments
from dicom_node.intake import Intake
from dicom_node.invalid_request import NotServedError, answer_invalid
from dicom_node.listener import PDU_HEAD, Caller, hang_up, receive, receive_into
from dicom_node.spool import Spool
from dicom_node.tally import REFUSED, Count, ignore, one
from dicom_node.tls import Line, part
from dicom_node.upper_layer import ARTIM_S
from dicom_node.wakeups import LOOK_AROUND_S, Checkpoint, Doorbell, WakingQueue

logger = logging.getLogger(__name__)

# What we ask senders not to exceed. pynetdicom proposes 16 kB, DCMTK sends 128 kB at
# most. 16 associations take half the CPU of 32 kB, and 4 MB more memory.
MAXIMUM_PDU = 131_072
# Some exceed it; more than this is an attack on our memory.
LONGEST_PDU = 1_048_576
PDU_DEADLINE_S = 60.0
# A dataset that comes faster than this extends the time for an operation.
SLOWEST_BYTES_PER_S = 10_000
# After an abort the two threads end by themselves, or the connection is cut.
KILL_S = 2 * ARTIM_S
# PS3.8 9.2.1: our answer to the request for an association, data or our answer to that
# for its end are awaited; whichever comes, rings.
WAITING = {"Sta3", "Sta6", "Sta8"}


class _Socket(AssociationSocket):
    """The connection. Its first PDU has been read already.

    Attributes:
        asked: The request that an A-ASSOCIATE-AC has to answer.
    """

    asked: AssociateRequest

    def __init__(
        self, association: "Connection", caller: Caller, doorbell: Doorbell
    ) -> None:
        self._association = association
        self._connection = caller.socket
        self._ahead = caller.request
        self._buffer = bytearray()
        self._doorbell = doorbell
        super().__init__(association, client_socket=caller.socket)

    @property
    def ready(self) -> bool:
        """Whether there is something to read, be it the end of the connection.

        Where nothing else can happen this waits for it, or for something to send.
        """
        if self.socket is None:
            return False
        line = self._connection if isinstance(self._connection, Line) else None
        if self._ahead or (line and line.pending()):
            return True
        waits = self.assoc.dul.state_machine.current_state in WAITING
        rings = self._doorbell.wait(LOOK_AROUND_S * waits)
        return rings and (line is None or line.has_data())

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; fewer when the connection ends first."""
        if self._ahead:
            data, self._ahead = self._ahead[:nr_bytes], self._ahead[nr_bytes:]
            return bytearray(data)
        deadline = self._deadline(nr_bytes)
        return receive(self._connection, nr_bytes, deadline)

    def fragments(self) -> memoryview | None:
        """Read the next PDU if it is a P-DATA-TF: what follows its head.

        In memory that is used again for the next. None: it is another.

        Raises:
            OSError: The connection broke or ended in the middle of it.
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
        """Send a PDU. An A-ASSOCIATE-AC is completed first."""
        if bytestream[0] == ASSOCIATE_AC:
            bytestream = complete_accept(bytestream, self.asked)
        super().send(bytestream)

    def close(self) -> None:
        """End the connection, with a goodbye under TLS."""
        part(self.socket)
        super().close()

    def _deadline(self, length: int) -> float:
        if length > LONGEST_PDU:
            words = f"a PDU of {length} bytes was announced, more than {LONGEST_PDU}"
            self._association.dul.complain(words)
            raise OSError(words)
        return time.monotonic() + PDU_DEADLINE_S


class Connection(Association):
    """One association, from the peer's request to the end of its thread.

    Attributes:
        address: The network address of the peer.
        asked: The peer's request.
        held: What is let go of when the association ends, however it ends.
        on_invalid_report: Called for each N-EVENT-REPORT that lacks what it must have.
    """

    def __init__(
        self,
        ae: AE,
        contexts: list[PresentationContext],
        caller: Caller,
        ended: Callable[["Connection"], None],
    ) -> None:
        """Set up an association that `start` will serve.

        Args:
            ae: Says our name, timeouts and PDU size.
            contexts: What we serve.
            caller: The peer.
            ended: Called when all else has been let go of.

        Raises:
            MalformedPduError: The request cannot be read.
        """
        self.asked = read_request(caller.request)
        super().__init__(ae, "acceptor")
        self.name = "association"
        self.address = caller.address[0]
        self.held = ExitStack()
        self.held.callback(ended, self)
        self.held.callback(caller.socket.close)
        self._connection = caller.socket
        doorbell = Doorbell(caller.socket)
        self.held.callback(doorbell.close)
        self.dul: FragmentReader = FragmentReader(self)
        self.dul.on_complaint = self._log_abort
        self._count: Count = ignore
        self.on_invalid_report: Callable[[], None] = lambda: None
        self.dul.to_provider_queue = WakingQueue(doorbell.ring)
        self._checkpoint = Checkpoint()
        # pynetdicom's name; should it go, there is polling again and no harm.
        self._reactor_checkpoint = self._checkpoint
        self.dul.to_user_queue = WakingQueue(self._checkpoint.set)
        line = _Socket(self, replace(caller, request=self.asked.pdu), doorbell)
        line.asked = self.asked
        self.set_socket(line)
        self.requestor.address_info = AddressInformation.from_tuple(caller.address)
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = contexts

    @property
    def calling_ae_title(self) -> str:
        """The AE title of the peer, as it is shown; empty if it has none."""
        return self.asked.calling

    @property
    def called_ae_title(self) -> str:
        """The AE title that the peer asks for, as it is shown."""
        return self.asked.called

    def store_in(
        self, spool: Spool, limit: int, operation_timeout_s: float, count: Count
    ) -> None:
        """Have datasets stream into the spool.

        Args:
            spool: Where they go.
            limit: Bytes of a dataset, at most.
            operation_timeout_s: The association is aborted if no instance was stored
                for so long. Each 10 kB that came since add a second.
            count: Takes requests that are refused because of their command.
        """
        self._count = count
        self._operation_timeout_s = operation_timeout_s
        self.dul.overdue = self._overdue
        self.dimse: Intake = Intake(self, spool, limit)
        self.dimse.msg_queue = WakingQueue(self._checkpoint.set)
        self._checkpoint.queues = [self.dimse.msg_queue, self.dul.to_user_queue]
        self.held.callback(self.dimse.let_go)

    def would_serve(self, sop_class: UID) -> bool:
        """Whether the peer, once it has asked, would be the SCP of a SOP class."""
        role = self.requestor.role_selection.get(sop_class)
        return role is not None and bool(role.scp_role)

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Serve a request in this association's thread, one after the other.

        pynetdicom starts a thread for each N-EVENT-REPORT, be there a thousand.
        """
        if threading.current_thread() is not self:
            self.dimse.msg_queue.put((context_id, msg))
            return
        caller = f"{self.calling_ae_title} at {self.address}"
        try:
            if not answer_invalid(self, msg, context_id, caller):
                super()._serve_request(msg, context_id)
            elif isinstance(msg, C_STORE):
                self._count(one(REFUSED, MismatchError.reason))
            elif isinstance(msg, N_EVENT_REPORT):
                self.on_invalid_report()
        except NotServedError as error:
            self.dul.complain(str(error))
            self.abort()

    def _overdue(self) -> str:
        """Say for how long nothing was stored; empty if that is not too long."""
        more_s = self.dimse.received / SLOWEST_BYTES_PER_S
        passed_s = time.monotonic() - self.dimse.since
        if passed_s < self._operation_timeout_s + more_s:
            return ""
        return f"no instance was stored for {passed_s:.0f} s"

    def kill(self) -> None:
        """End the two threads; used by pynetdicom.

        The upper layer may not end by itself: TLS may go on to send records that hold
        nothing, which OpenSSL reads before anything else can happen.
        """
        cut = threading.Timer(KILL_S, self.hang_up)
        cut.daemon = True
        cut.start()
        try:
            super().kill()
        finally:
            cut.cancel()

    def _log_abort(self, why: str) -> None:
        who = self.calling_ae_title, self.address
        logger.warning("Aborting the association of %s at %s: %s", *who, why)

    def run_reactor(self) -> None:
        """Serve the association to its end, and let go of all that it held."""
        with self.held:
            try:
                super().run_reactor()
            finally:
                self.hang_up()
                self._log_cut_off()

    def _log_cut_off(self) -> None:
        """Log that an instance did not come whole, unless the log says so already."""
        if self.dul.complaint or not self.dimse.unfinished:
            return
        who = self.calling_ae_title, self.address
        words = "The association of %s at %s ended in the middle of %s"
        logger.warning(words, *who, self.dimse.unfinished)

    def hang_up(self) -> None:
        """End the connection. Its threads then come to their ends."""
        hang_up(self._connection)
