"""An association that we open: pynetdicom's, with the connection in our own hands."""

import logging
import queue
import socket
from collections.abc import Sequence
from copy import deepcopy
from ssl import SSLContext
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import (
    C_CANCEL,
    DimsePrimitiveType,
    DimseServiceType,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from config.destinations import Address
from dicom_node.dimse import MessageReader
from dicom_node.invalid_request import NotServedError, answer_invalid
from dicom_node.tls import Line, part
from dicom_node.upper_layer import UpperLayer

logger = logging.getLogger(__name__)

# PS3.8 9.2.1: the request was sent; data may be. pynetdicom enters the second state
# only after it has reported the answer.
OPEN_STATES = frozenset({"Sta5", "Sta6"})

# Bytes of a PDU, and of a message: responses and reports are brief.
LONGEST_MESSAGE = 1_048_576


class _Socket(AssociationSocket):
    """The connection; what TLS sends for itself does not count as something to read."""

    @property
    def ready(self) -> bool:
        """Whether there is something to read, be it the end of the connection."""
        return super().ready and (
            not isinstance(self.socket, Line) or self.socket.has_data()
        )

    def close(self) -> None:
        """End the connection, with a goodbye under TLS."""
        part(self.socket)
        super().close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; none, and abort the association, if they are too many."""
        if nr_bytes > LONGEST_MESSAGE:
            upper_layer = self.assoc.dul
            assert isinstance(upper_layer, UpperLayer)  # noqa: S101 - ours always is
            words = f"a PDU of {nr_bytes} bytes was announced, "
            upper_layer.abort_because(f"{words}more than {LONGEST_MESSAGE}")
            return bytearray()
        return super().recv(nr_bytes)


class _Responses(queue.Queue[Any]):
    """The response to the request that was sent last. Requests of the peer are served.

    PS3.7 9.3.1.2: Message ID Being Responded To names the request. pynetdicom takes
    the next message for the answer, so a second response to one object would mark the
    object after it as stored.
    """

    def __init__(self, association: "RequestedAssociation") -> None:
        super().__init__()
        self._association = association
        self._open: tuple[type, int | None] | None = None
        self._answers: set[tuple[type, int | None, int | None]] = set()

    def expect(self, request: DimseServiceType) -> None:
        """Take the response to this request, and no other one."""
        self._open = type(request), request.MessageID
        # Message IDs begin again after 65,535.
        self._answers = {each for each in self._answers if each[:2] != self._open}

    def put(
        self,
        item: Any,  # noqa: ANN401 - context ID and message, or None and None
        block: bool = True,  # noqa: FBT001, FBT002 - as in the standard library
        timeout: float | None = None,
    ) -> None:
        """Queue the response, or serve a request."""
        context_id, message = item
        if message is None:
            super().put(item, block, timeout)
        elif message.MessageIDBeingRespondedTo is None:
            self._association._serve_request(message, context_id or 0)  # noqa: SLF001 - pynetdicom's name
        elif self._is_answer(message):
            super().put(item, block, timeout)

    def _is_answer(self, response: DimseServiceType) -> bool:
        """Tell whether a response answers the open request.

        One that was sent twice is dropped. Any other ends the association.
        """
        answered = type(response), response.MessageIDBeingRespondedTo
        name = answered[0].__name__.replace("_", "-")
        if not response.is_valid_response:
            self._association.dul.complain("a response came without a status")
        if answered == self._open:
            self._open = None
            self._answers.add((*answered, response.Status))
            return True
        if (*answered, response.Status) in self._answers:
            logger.warning(
                "Dropped a second %s response to message %d", name, answered[1]
            )
            return False
        words = f"a {name} response to message {answered[1]} came, which is not open"
        self._association.dul.abort_because(words)
        return False


class _Messages(MessageReader):
    """Sends our requests, and takes the responses to them."""

    def __init__(self, association: "RequestedAssociation") -> None:
        super().__init__(association)
        self._responses = _Responses(association)
        self.msg_queue = self._responses

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send a request of ours, or our response to one of the peer."""
        is_request = primitive.MessageIDBeingRespondedTo is None
        if is_request and not isinstance(primitive, C_CANCEL):
            self._responses.expect(primitive)
        super().send_msg(primitive, context_id)

    def _receive(self, context_id: int, fragment: bytes) -> None:
        """Take in a fragment; abort if there is no end of them."""
        super()._receive(context_id, fragment)
        if (message := self.message) is None:
            return
        parts = message.encoded_command_set, message.data_set
        if sum(each.tell() for each in parts if each) > LONGEST_MESSAGE:
            words = f"a message of more than {LONGEST_MESSAGE} bytes came"
            self.upper_layer.abort_because(words)


class RequestedAssociation(Association):
    """One association that we open.

    pynetdicom's thread for an association is not started: it answers a peer that asks
    for a release at the same moment as we ask for one, and each waits for the other.
    `release` and `abort` answer such a peer here.

    Attributes:
        connection: The connection, to tune it, cut it and close it.
    """

    connection: socket.socket

    def __init__(
        self,
        ae: AE,
        peer: Address,
        contexts: Sequence[PresentationContext],
        tls: SSLContext | None,
    ) -> None:
        """Set up an association that `request` will open.

        Args:
            ae: Our AE title, timeouts and implementation.
            peer: The peer to call.
            contexts: The presentation contexts to propose, at most 128.
            tls: The TLS settings of the connection; None for plain text.

        Raises:
            OSError: The host is not known.
            UnicodeError: The host is not a valid name.
        """
        super().__init__(ae, "requestor")
        self.dul: UpperLayer = UpperLayer(self)
        self.network_timeout = ae.network_timeout  # a timer of the upper layer has it
        self.dimse = _Messages(self)
        self._is_paused = True  # no thread of the association is in the way
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
        """Whether nothing can be asked any more."""
        return self.dul.state_machine.current_state not in OPEN_STATES

    def release(self) -> None:
        """Release the association; answer the peer if it has asked for that first."""
        if not self._answer_release():
            super().release()

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: FBT001, FBT002 - as in pynetdicom
        """Abort the association, unless the peer has asked for its release.

        pynetdicom puts this in the place of `abort` of each association.
        """
        if not self._answer_release():
            super()._abort_blocking(block)

    def _answer_release(self) -> bool:
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
        assert created.socket  # noqa: S101 - it was made a moment ago
        if tls:
            created.socket = tls.wrap_socket(created.socket, server_hostname=host)
        self.connection = created.socket
        return created

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Serve a request of the peer: an archive may report on this association."""
        try:
            if not answer_invalid(self, msg, context_id, self.acceptor.ae_title):
                super()._serve_request(msg, context_id)
        except NotServedError as error:
            self.dul.abort_because(str(error))
        finally:
            self._is_paused = True
