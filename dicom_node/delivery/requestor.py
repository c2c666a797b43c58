"""An association that the node opens, with access to its connection."""

import logging
import queue
import socket
import time
from collections.abc import Sequence
from copy import deepcopy
from ssl import SSLContext
from typing import Any

from pynetdicom import AE
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import (
    C_CANCEL,
    DimsePrimitiveType,
    DimseServiceType,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from config.destinations import Address
from dicom_node.network.invalid_request import NotServedError, answer_invalid
from dicom_node.network.message_reader import LONGEST_COMMAND, MessageReader
from dicom_node.network.pynetdicom_adapter import BaseAssociation
from dicom_node.network.sockets import receive
from dicom_node.network.tls import TlsSocket, close_notify
from dicom_node.network.upper_layer import UpperLayer

logger = logging.getLogger(__name__)

# The states of an open association (PS3.8 9.2.1): in Sta6, data can be sent; in Sta5,
# the response to the A-ASSOCIATE-RQ is awaited. Sta5 is included, because pynetdicom
# reports that the association is accepted before the state becomes Sta6.
OPEN_STATES = frozenset({"Sta5", "Sta6"})

# Maximum number of bytes of a PDU, and of all data that the peer sends before our next
# request. Responses and reports are short.
MAX_RESPONSE_BYTES = 1_048_576
# Maximum number of messages that the peer sends before our next request: the response,
# repetitions of a response, and requests of the peer.
MOST_MESSAGES = 16


class _Socket(AssociationSocket):
    """The connection of an association.

    If a PDU is too large or comes too slowly, the association ends.
    """

    @property
    def ready(self) -> bool:
        """Whether data has arrived, or the connection has ended.

        If only a TLS record without data has arrived, such as a session ticket, the
        value is False.
        """
        return super().ready and (
            not isinstance(self.socket, TlsSocket) or self.socket.has_data()
        )

    def close(self) -> None:
        """Close the connection; under TLS, send a close_notify alert first."""
        close_notify(self.socket)
        super().close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Return the next `nr_bytes` bytes; fewer if the connection ends first.

        If `nr_bytes` is more than MAX_RESPONSE_BYTES, the association is aborted, and
        no bytes are returned.

        Raises:
            OSError: The bytes did not come within `pdu_timeout_s` seconds, or the
                connection broke.
        """
        assert isinstance(self.assoc, RequestedAssociation)  # noqa: S101 - narrows the type
        assert self.socket  # noqa: S101 - narrows the type
        if nr_bytes > MAX_RESPONSE_BYTES:
            announced = f"a PDU of {nr_bytes} bytes was announced"
            self.assoc.dul.abort_because(f"{announced}, more than {MAX_RESPONSE_BYTES}")
            return bytearray()
        timeout_s = self.socket.gettimeout()
        try:
            limit = time.monotonic() + self.assoc.pdu_timeout_s
            return receive(self.socket, nr_bytes, limit)
        except TimeoutError:
            reason = f"a PDU took longer than {self.assoc.pdu_timeout_s:g} s"
            self.assoc.dul.set_abort_reason(reason)
            raise
        finally:
            self.socket.settimeout(timeout_s)


class _Responses(queue.Queue[Any]):
    """A queue that accepts only the response to our last request.

    pynetdicom assumes that the next message is the response. If a peer responded twice
    to one object, the second response would mark the next object as stored. Therefore
    this queue compares Message ID Being Responded To (PS3.7 9.3.1.2) with the Message
    ID of the request. Requests of the peer are not queued, but served at once.
    """

    def __init__(self, association: "RequestedAssociation") -> None:
        super().__init__()
        self._association = association
        self._open: tuple[type, int | None] | None = None
        self._completed: set[tuple[type, int | None, int | None]] = set()

    def expect(self, request: DimseServiceType) -> None:
        """Accept only the response to `request`, until the next call of this method."""
        self._open = type(request), request.MessageID
        # Message IDs start again after 65,535, so an earlier request may have this ID.
        self._completed = {each for each in self._completed if each[:2] != self._open}

    def put(
        self,
        item: Any,  # noqa: ANN401 - context ID and message, or None and None
        block: bool = True,  # noqa: FBT001, FBT002 - as in the standard library
        timeout: float | None = None,
    ) -> None:
        """Queue the response to our last request, or serve a request of the peer.

        Any other response is not queued: see `_accept_response`. The item (None, None),
        which wakes a waiting thread, is always queued.
        """
        context_id, message = item
        if message is None:
            super().put(item, block, timeout)
        elif message.MessageIDBeingRespondedTo is None:
            self._association.serve_request(message, context_id or 0)
        elif self._accept_response(message):
            super().put(item, block, timeout)

    def _accept_response(self, response: DimseServiceType) -> bool:
        """Return whether a response is the first response to our last request.

        A response that repeats an earlier response is dropped. If a response belongs to
        no request, the association is aborted.
        """
        key = type(response), response.MessageIDBeingRespondedTo
        name = key[0].__name__.replace("_", "-")
        if not response.is_valid_response:  # pynetdicom aborts the association later
            self._association.dul.set_abort_reason(
                "a response without a status was received"
            )
        if key == self._open:
            self._open = None
            self._completed.add((*key, response.Status))
            return True
        if (*key, response.Status) in self._completed:
            logger.warning("Dropped a second %s response to message %d", name, key[1])
            return False
        reason = (
            f"a {name} response to message {key[1]} was received, which is not open"
        )
        self._association.dul.abort_because(reason)
        return False


class _Messages(MessageReader):
    """A MessageReader that queues only expected responses, and limits received data."""

    def __init__(self, association: "RequestedAssociation") -> None:
        super().__init__(association)
        self._responses = _Responses(association)
        self.msg_queue = self._responses
        self._messages = 0

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send our request, or our response to a request of the peer."""
        is_request = primitive.MessageIDBeingRespondedTo is None
        if is_request and not isinstance(primitive, C_CANCEL):
            self._responses.expect(primitive)
            self._messages = 0
            self.operation_is_complete()
        super().send_msg(primitive, context_id)

    def _begin_message(self) -> DIMSEMessage:
        self._messages += 1
        if self._messages > MOST_MESSAGES:
            reason = (
                f"more than {MOST_MESSAGES} messages were received after one request"
            )
            self.upper_layer.abort_because(reason)
        return super()._begin_message()

    def _receive(self, context_id: int, fragment: bytes) -> None:
        """Process a fragment.

        The association is aborted if the dataset has more than LONGEST_COMMAND bytes.
        """
        dataset = self.message.data_set if self.message else None
        if dataset and dataset.tell() + len(fragment) - 1 > LONGEST_COMMAND:
            reason = f"a dataset of more than {LONGEST_COMMAND} bytes was received"
            self.upper_layer.abort_because(reason)
            return
        super()._receive(context_id, fragment)

    def _excess(self) -> str:
        if self.received > MAX_RESPONSE_BYTES:
            return (
                f"more than {MAX_RESPONSE_BYTES} bytes were received after one request"
            )
        return super()._excess()


class RequestedAssociation(BaseAssociation):
    """One association that the node opens.

    pynetdicom's thread for an association is not started. If both sides requested the
    release at the same time, that thread and the peer would wait for each other.
    `release` and `abort` of this class confirm a release that the peer has requested.

    Attributes:
        connection: The socket of the association; a TlsSocket under TLS.
        pdu_timeout_s: Number of seconds within which the header of a PDU must arrive,
            and again the rest of the PDU. Otherwise the association ends.
    """

    connection: socket.socket

    def __init__(
        self,
        ae: AE,
        peer: Address,
        contexts: Sequence[PresentationContext],
        tls: SSLContext | None,
        pdu_timeout_s: float,
    ) -> None:
        """Set up an association that `request` will open.

        Args:
            ae: Our AE title, timeouts, implementation class UID and version name.
            peer: The peer to call.
            contexts: The presentation contexts to propose, at most 128.
            tls: The TLS settings of the connection; None for plain text.
            pdu_timeout_s: See the attribute of the same name.

        Raises:
            OSError: The host name cannot be resolved.
            UnicodeError: The host is not a valid name.
        """
        super().__init__(ae, "requestor")
        self.dul: UpperLayer = UpperLayer(self)
        self.pdu_timeout_s = pdu_timeout_s
        self.network_timeout = ae.network_timeout  # a timer of the upper layer uses it
        self.dimse = _Messages(self)
        self.declare_paused()  # no thread of the association interferes
        remote = AddressInformation.from_addr_port(peer.host, peer.port)
        local = AddressInformation.from_tuple(("" if remote.is_ipv4 else "::0", 0))
        self.set_socket(self._create_socket(local, peer.host, tls))
        self.acceptor.ae_title = peer.ae_title
        self.acceptor.address_info = remote
        us = self.requestor
        us.ae_title = ae.ae_title
        us.address_info = local
        us.implementation_class_uid = ae.implementation_class_uid
        us.implementation_version_name = ae.implementation_version_name
        us.requested_contexts = deepcopy(list(contexts))
        for number, context in enumerate(us.requested_contexts):
            context.context_id = 2 * number + 1

    @property
    def is_over(self) -> bool:
        """Whether the association has ended, so that no request can be sent.

        The value is also True before the association is requested.
        """
        return self.dul.state_machine.current_state not in OPEN_STATES

    def release(self) -> None:
        """Release the association, or confirm the release if the peer requested it."""
        if not self._confirm_release():
            super().release()

    def send_abort(self, *, block: bool) -> None:
        """Abort the association, or confirm the release if the peer requested it.

        pynetdicom's method `abort` calls this method.

        Args:
            block: Whether to wait until the A-ABORT is sent and the connection closed.
        """
        if not self._confirm_release():
            super().send_abort(block=block)

    def _confirm_release(self) -> bool:
        if not self.is_established or not self.acse.is_release_requested():
            return False
        self.acse.send_release(is_response=True)
        self.is_released, self.is_established = True, False
        self.kill()
        return True

    def _create_socket(
        self, local: AddressInformation, host: str, tls: SSLContext | None
    ) -> _Socket:
        created = _Socket(self, address=local)
        assert created.socket  # noqa: S101 - it was created just before
        if tls:
            created.socket = tls.wrap_socket(created.socket, server_hostname=host)
        self.connection = created.socket
        return created

    def serve_request(self, request: DimseServiceType, context_id: int) -> None:
        """Serve a request of the peer, such as a Storage Commitment report.

        If the request is invalid, it is answered with a failure, or the association is
        aborted.
        """
        try:
            if not answer_invalid(self, request, context_id, self.acceptor.ae_title):
                super().serve_request(request, context_id)
        except NotServedError as error:
            self.dul.abort_because(str(error))
        finally:
            self.declare_paused()
