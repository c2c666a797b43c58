"""pynetdicom's upper layer, protected against data that would end its thread.

The node uses this upper layer for each association that a peer opens, and for each
association that the node opens. Some PDUs are rewritten before pynetdicom reads them
(network/associate_pdu.py). If PS3.8 table 9-10 does not define an event in the current
state, the event is dropped. In pynetdicom, such an event ends the thread of the upper
layer.
"""

import queue
import time
from typing import TYPE_CHECKING, Any

from pynetdicom.association import Association
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import A_P_ABORT, A_RELEASE

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
from dicom_node.network.pynetdicom_adapter import BaseUpperLayer, allow_even_context_ids

if TYPE_CHECKING:
    from collections.abc import Callable

# PS3.8 9.2.2: the events of requests and responses that the node sends.
OURS = frozenset({"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
# The type of the received PDU, by event (PS3.8 9.2.2).
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
ABORTED = "Sta13"  # after an abort, until the connection is closed
MOST_DISCARDED = 65_536  # bytes that one read discards after an abort
# Seconds in which the peer must close the connection after an abort or a rejection
# (PS3.8 9.1.5). The peer may continue to send in that time.
ARTIM_S = 5.0
DISCARD_PAUSE_S = 0.01  # after each read that discards, to save processor time
ABORTS = frozenset({"AA-1", "AA-7", "AA-8"})  # actions that send an A-ABORT


allow_even_context_ids()


class UpperLayer(BaseUpperLayer):
    """The upper layer of one association.

    Attributes:
        abort_reason: Why the node aborts the association, as text; empty if no reason
            was recorded.
        on_abort: Called when `abort_reason` is recorded, in the same thread. The
            argument is the reason.
        rejection: The peer's A-ASSOCIATE-RJ with the values as received; None if there
            is none.
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
        """Record why the node aborts the association, and call `on_abort`.

        If a reason is already recorded, the method does nothing.
        """
        if not self.abort_reason:
            self.abort_reason = reason
            self.on_abort(reason)

    def abort_because(self, reason: str) -> None:
        """Record a reason, and let the upper layer abort the association.

        The upper layer sends the A-ABORT later, in its own thread.
        """
        self.set_abort_reason(reason)
        self.event_queue.put(INVALID_PDU)

    def process_received_data(self) -> bool:
        """Process received data, and return whether there was any.

        The result is also True if the connection has ended or is being closed. After
        an abort, received data is discarded. pynetdicom would read the data as PDUs,
        and might wait for the rest of an incomplete PDU.
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
        return super().process_received_data()

    def decode_pdu(self, content: bytearray) -> tuple[Any, str]:
        """Rewrite a PDU if needed, then decode it.

        If the PDU is not valid, the reason is recorded, and an exception of any type is
        raised.

        Returns:
            The PDU, and the name of its event (PS3.8 9.2.2).
        """
        kind = content[0]
        try:
            return super().decode_pdu(self._rewritten(kind, content))
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
    """The state machine of PS3.8 table 9-10. Events without an action are dropped."""

    dul: Any

    def do_action(self, event: str) -> None:
        """Do the action that the table defines for an event in the current state.

        If the table defines no action, the event is dropped. If the action is an abort
        because of data from the peer, the reason is recorded.
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
        """Enter a state. If data transfer ends, wake the thread that waits for data."""
        ends = self.current_state == DATA_TRANSFER != state
        super().transition(state)
        if ends:
            self.dul.assoc.dimse.msg_queue.put((None, None))

    def _drop(self, event: str) -> None:
        """Ignore an event that the current state does not allow.

        If the event is a request or response of the node, that message is removed from
        its queue. The node queued the message too late, for example after the peer had
        aborted the association, or had requested the release. If the message is a
        release request, the thread that waits for the response is woken.
        """
        if event not in OURS:
            return
        try:
            request = self.dul.to_provider_queue.get(block=False)
        except queue.Empty:  # pynetdicom sometimes queues two events for one request
            return
        if isinstance(request, A_RELEASE) and request.result is None:
            self.dul.to_user_queue.put(A_P_ABORT())
