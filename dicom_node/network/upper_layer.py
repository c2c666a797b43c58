"""pynetdicom's upper layer, protected against peers that would end its thread.

It is used for associations that peers open and for those that we open. PDUs are
rewritten before pynetdicom reads them (network/associate_pdu.py). An event that PS3.8
table 9-10 does not define in the current state is dropped; in pynetdicom it ends the
thread.
"""

import queue
import time
from typing import TYPE_CHECKING, Any

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.pdu import A_ASSOCIATE_RJ, _PDUType
from pynetdicom.pdu_primitives import A_P_ABORT, A_RELEASE
from pynetdicom.presentation import PresentationContext

from dicom_node.network.associate_pdu import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    MalformedPduError,
    pdu_name,
    read_abort,
    read_accept,
    read_rejection,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# PS3.8 9.2.2: our requests to the upper layer, from A-ASSOCIATE to A-ABORT.
OURS = frozenset({"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
# PDU types by the event of their arrival (PS3.8 9.2.2).
PDU_OF = {
    "Evt3": 0x02,
    "Evt4": 0x03,
    "Evt6": 0x01,
    "Evt10": 0x04,
    "Evt12": 0x05,
    "Evt13": 0x06,
}
# Events: an invalid PDU was received; the connection was closed.
INVALID_PDU, CLOSED = "Evt19", "Evt17"
DATA_TRANSFER = "Sta6"
ABORTED = "Sta13"  # until the connection ends
MOST_DISCARDED = 65_536  # bytes at once
# Time for the peer to close the connection after an abort or a rejection (PS3.8 9.1.5).
# It may continue to send in that time.
ARTIM_S = 5.0
DISCARD_PAUSE_S = 0.01  # after each piece, to save processor time
ABORTS = frozenset({"AA-1", "AA-7", "AA-8"})  # actions that send an A-ABORT


def _allow_even_context_ids() -> None:
    """Let a presentation context have any ID that a byte can hold.

    PS3.8 9.3.2.2 requires odd IDs. DCMTK and Orthanc accept even ones, and an ID has
    the same meaning whether it is odd or even.
    """

    def set_id(context: PresentationContext, number: int | None) -> None:
        context._context_id = number  # noqa: SLF001 - its setter refuses even ones

    settable = PresentationContext.context_id.setter(set_id)  # type: ignore[attr-defined]
    PresentationContext.context_id = settable  # type: ignore[method-assign]


_allow_even_context_ids()


class UpperLayer(DULServiceProvider):
    """The upper layer of one association.

    Attributes:
        abort_reason: Why the node aborts the association, such as data that the peer
            sent or did not send in time; empty without such a reason.
        on_abort: Called with the reason, in the thread that records it.
        rejection: The peer's A-ASSOCIATE-RJ with the numbers that it sent.
    """

    def __init__(self, association: Association) -> None:
        """Set up the upper layer of an association that has not begun."""
        super().__init__(association)
        self.artim_timer.timeout = ARTIM_S
        self.state_machine = _StateMachine(self)
        self.abort_reason = ""
        self.on_abort: Callable[[str], None] = lambda _: None
        self.rejection: A_ASSOCIATE_RJ | None = None

    def set_abort_reason(self, reason: str) -> None:
        """Record why the node aborts the association. Only the first reason is kept."""
        if not self.abort_reason:
            self.abort_reason = reason
            self.on_abort(reason)

    def abort_because(self, reason: str) -> None:
        """Abort the association because of something that the peer sent."""
        self.set_abort_reason(reason)
        self.event_queue.put(INVALID_PDU)

    def _is_transport_event(self) -> bool:
        """Return whether data has arrived.

        After an abort, data is discarded. pynetdicom would read PDUs and might wait for
        the rest of one, although the association is over.
        """
        is_aborted = self.state_machine.current_state == ABORTED
        if is_aborted and self.socket and self.socket.socket and self.socket.ready:
            try:
                content = self.socket.socket.recv(MOST_DISCARDED)
            except OSError:
                content = b""
            if not content:
                self.event_queue.put(CLOSED)
            else:
                time.sleep(DISCARD_PAUSE_S)
            return True
        return super()._is_transport_event()

    def _decode_pdu(self, bytestream: bytearray) -> tuple[_PDUType, str]:
        kind = bytestream[0]
        try:
            return super()._decode_pdu(self._rewritten(kind, bytestream))
        except MalformedPduError as error:
            self.set_abort_reason(str(error))
            raise
        except Exception:
            self.set_abort_reason(f"{pdu_name(kind)} cannot be read")
            raise

    def _rewritten(self, kind: int, pdu: bytearray) -> bytearray:
        if kind == ASSOCIATE_RJ:
            padded = bytes(pdu).ljust(10, b"\0")
            self.rejection = A_ASSOCIATE_RJ()
            self.rejection.decode(padded)
            return bytearray(read_rejection(padded))
        if kind == ABORT:
            return bytearray(read_abort(bytes(pdu)))
        if kind == ASSOCIATE_AC and self.assoc.is_requestor:
            proposed = {
                each.context_id or 0: each.transfer_syntax
                for each in self.assoc.requestor.requested_contexts
            }
            return bytearray(read_accept(bytes(pdu), proposed))
        return pdu


class _StateMachine(StateMachine):
    """The state machine of PS3.8 table 9-10. Undefined events are dropped."""

    dul: Any

    def do_action(self, event: str) -> None:
        """Do the action of the table for an event in the current state.

        If the action is an abort because of data from the peer, record the reason.
        """
        action = TRANSITION_TABLE.get((event, self.current_state))
        if action is None:
            self._drop(event)
            return
        if action in ABORTS and event == INVALID_PDU:
            self.dul.set_abort_reason("the received data is not DICOM")
        elif action in ABORTS and event in PDU_OF:
            self.dul.set_abort_reason(
                f"{pdu_name(PDU_OF[event])} came in a state that does not allow it"
            )
        super().do_action(event)

    def transition(self, state: str) -> None:
        """Enter a state. At the end of data transfer, wake the thread that waits."""
        ends = self.current_state == DATA_TRANSFER != state
        super().transition(state)
        if ends:
            self.dul.assoc.dimse.msg_queue.put((None, None))

    def _drop(self, event: str) -> None:
        """Ignore an event that the current state does not allow.

        If the event is a request of ours that comes too late, the request is removed
        from its queue. Examples are a response to a peer that has aborted, or our
        release request if the peer requested the release first. A thread that waits for
        the peer's response to our release request is woken.
        """
        if event not in OURS:
            return
        try:
            request = self.dul.to_provider_queue.get(block=False)
        except queue.Empty:  # pynetdicom sometimes queues two events for one request
            return
        if isinstance(request, A_RELEASE) and request.result is None:
            self.dul.to_user_queue.put(A_P_ABORT())
