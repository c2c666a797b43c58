"""Reads P-DATA-TF PDUs, which contain the datasets, with few copies (PS3.8 9.3.5).

pynetdicom copies received data six times between the socket and the consumer. The
copies take a fifth of the processor time for receiving a large image. This module reads
into one buffer, and usually passes on slices of that buffer.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.network.associate_pdu import PDU_HEAD
from dicom_node.network.upper_layer import CLOSED, UpperLayer

TYPE = 0x04
RECEIVED = "Evt10"  # PS3.8 9.2.2: a P-DATA-TF PDU was received
_LENGTH = 4  # bytes of a presentation data value's length (PS3.8 9.3.5.1)
_SHORTEST = 2  # bytes: a presentation context ID and a message control header


class Fragments(P_DATA_TF):
    """The content of one P-DATA-TF PDU, used in place of pynetdicom's P_DATA_TF."""

    def __init__(self, content: memoryview) -> None:
        """Parse the bytes after the header of a PDU.

        Raises:
            ValueError: The bytes are not presentation data values.
        """
        super().__init__()
        self._values: list[Any] = list(_values(content))

    def to_primitive(self) -> P_DATA:
        """Return the presentation data values of the PDU as a P-DATA primitive.

        Each value is a pair: a presentation context ID, and a fragment that begins with
        its message control header.
        """
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self._values)
        return primitive


class FragmentReader(UpperLayer):
    """The upper layer of an association that a peer opened.

    This class reads P-DATA-TF PDUs with the method `fragments` of its socket: see
    `_Socket` in receiver/association.py. pynetdicom reads the other PDUs.

    Attributes:
        overdue: Returns the reason to abort if the association has made no progress for
            too long; otherwise an empty text. The thread of the association calls it in
            each pass of its loop.
    """

    socket: Any

    def __init__(self, association: Association) -> None:
        """Set up the upper layer of an association that has not begun."""
        super().__init__(association)
        self.overdue: Callable[[], str] = lambda: ""

    def idle_timer_expired(self) -> bool:
        """Return whether to abort the association because it is overdue or idle.

        If so, the reason is recorded: see `set_abort_reason`.
        """
        reason = self.overdue()
        if not reason and super().idle_timer_expired():
            reason = f"no data came for {self.network_timeout:g} s"
        if reason:
            self.set_abort_reason(reason)
        return bool(reason)

    def read_pdu(self) -> None:
        """Read the next PDU, and queue its event for the state machine."""
        try:
            content = self.socket.fragments()
        except OSError:
            self.event_queue.put(CLOSED)
            return
        if content is None:
            super().read_pdu()
            return
        if not self.event_queue.empty():
            # Copy the content: the socket may read the next PDU into the same memory
            # before the state machine handles this one.
            content = memoryview(bytes(content))
        try:
            received = Fragments(content)
        except ValueError as error:
            self.abort_because(f"P-DATA-TF has {error}")
            return
        self.queue_pdu(received, RECEIVED)


def is_fragments(head: bytes | bytearray) -> bool:
    """Return whether a PDU with this header is a P-DATA-TF PDU."""
    return len(head) == PDU_HEAD and head[0] == TYPE


def _values(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    while content:
        length = int.from_bytes(content[:_LENGTH], "big")
        value = content[_LENGTH : _LENGTH + length]
        if len(value) != length or length < _SHORTEST:
            raise ValueError("a presentation data value of a wrong length")
        yield value[0], value[1:]
        content = content[_LENGTH + length :]
