"""The private parts of pynetdicom that the node uses, under public names.

No other module of the node uses a private name of pynetdicom. The classes of this
module give a public name to each private method of pynetdicom that the node overrides.
When pynetdicom calls the private method, the public method of the subclass runs.
tests/project/test_private_names.py lists the private names. The test fails if the
installed version of pynetdicom lacks one of them.
"""

import threading
from typing import Any

from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import DimseServiceType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import PresentationContext


def disable_event_logging() -> None:
    """Stop pynetdicom from logging PDUs and messages, in the whole process.

    The log texts cost processor time, and contain texts of peers.
    """
    _config.LOG_HANDLER_LEVEL = "none"


def allow_long_uids() -> None:
    """Let pynetdicom accept and send UIDs of any length, in the whole process.

    By default, pynetdicom raises an error if a UID has more than 64 characters.
    """
    _config.VALIDATORS["UI"] = lambda _: (True, "")


def send_files_unchanged() -> None:
    """Let pynetdicom send the datasets of files without parsing them.

    The setting applies to the whole process.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True


def allow_even_context_ids() -> None:
    """Let pynetdicom accept even presentation context IDs, in the whole process.

    PS3.8 9.3.2.2 requires odd IDs, but DCMTK and Orthanc accept even IDs.
    """

    def set_id(context: PresentationContext, number: int | None) -> None:
        context._context_id = number  # noqa: SLF001 - its setter refuses even IDs

    settable = PresentationContext.context_id.setter(set_id)  # type: ignore[attr-defined]
    PresentationContext.context_id = settable  # type: ignore[method-assign]


class BaseUpperLayer(DULServiceProvider):
    """pynetdicom's upper layer. A subclass may override its public methods."""

    def process_received_data(self) -> bool:
        """Read and queue a PDU if data has arrived.

        Returns:
            True if data has arrived, if the connection has ended, or if the connection
            is being closed.
        """
        return super()._is_transport_event()

    def read_pdu(self) -> None:
        """Read the next PDU, and queue the PDU and its event for the state machine."""
        super()._read_pdu_data()

    def decode_pdu(self, content: bytearray) -> tuple[Any, str]:
        """Decode a PDU; return it with the name of its event (PS3.8 9.2.2).

        If the PDU is not valid, an exception of any type is raised.
        """
        return super()._decode_pdu(content)

    def queue_pdu(self, pdu: P_DATA_TF, event: str) -> None:
        """Queue a PDU and its event for the state machine, as `read_pdu` does."""
        self.event_queue.put(event)
        self._recv_pdu.put(pdu)

    def _is_transport_event(self) -> bool:
        return self.process_received_data()

    def _read_pdu_data(self) -> None:
        self.read_pdu()

    def _decode_pdu(self, bytestream: bytearray) -> tuple[Any, str]:
        return self.decode_pdu(bytestream)


class BaseAssociation(Association):
    """pynetdicom's association. A subclass may override its public methods."""

    def serve_request(self, request: DimseServiceType, context_id: int) -> None:
        """Serve a request of the peer with the handler that is bound to its event.

        pynetdicom calls this method for an N-EVENT-REPORT in a new thread.
        """
        super()._serve_request(request, context_id)

    def send_abort(self, *, block: bool) -> None:
        """Abort the association.

        pynetdicom replaces the method `abort` of an association by one of two versions
        at every event, so a subclass cannot override `abort`. Both versions call this
        method.

        Args:
            block: Whether to wait until the A-ABORT is sent and the connection closed.
        """
        super()._abort_blocking(block)

    def set_loop_event(self, event: threading.Event) -> None:
        """Set the event that the association's thread waits for in each loop pass.

        If the peer opened the association, pynetdicom's own event is always set. With
        that event, the thread would never wait.
        """
        self._reactor_checkpoint = event

    def declare_paused(self) -> None:
        """Tell pynetdicom that the association's thread is paused.

        Requests and `release` then start at once. Otherwise they would wait until the
        thread pauses.
        """
        self._is_paused = True

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        self.serve_request(msg, context_id)

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: FBT001, FBT002 - as in pynetdicom
        self.send_abort(block=block)
