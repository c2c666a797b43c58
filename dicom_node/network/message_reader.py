"""Receives DIMSE messages on associations in both directions (PS3.7 annex E).

pynetdicom's thread ends if it cannot read a message. If a response announces a dataset,
pynetdicom waits for the dataset, although the responses to the node need none.
pynetdicom also accepts any number of fragments, even empty fragments. A MessageReader
aborts the association if a message cannot be read, or if there are too many fragments.
It does not wait for the datasets of responses. The node uses a MessageReader for each
association that a peer opens, and for each association that the node opens.
"""

import time

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RSP,
    N_ACTION_RSP,
    N_EVENT_REPORT_RSP,
    DIMSEMessage,
)
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.network.upper_layer import UpperLayer

# Messages that are complete with their command: PS3.7 defines no dataset for them, or
# the node does not use the dataset. Some archives announce a dataset nevertheless, and
# some of these archives do not send it.
WITHOUT_DATASET = (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RSP,
    N_ACTION_RSP,
    N_EVENT_REPORT_RSP,
)
_COMMAND, _LAST = 1, 2  # bits of the message control header (PS3.8 E.2)
# Maximum size of a command set or a storage commitment report, in bytes. Our requests
# name only a few objects.
LONGEST_COMMAND = 65_536
# Each fragment costs processor time, even if it is empty. Normal senders fill their
# PDUs: the PDUs of DCMTK have 4 kB or more. For one operation, a peer may send
# SPARE_FRAGMENTS fragments, and one more for each SMALLEST_FRAGMENT bytes received.
SPARE_FRAGMENTS = 4096
SMALLEST_FRAGMENT = 256


class MessageReader(DIMSEServiceProvider):
    """A reader of the messages of one association.

    If a message is invalid, the reader aborts the association.

    Attributes:
        fragments: Number of fragments since `since`. A P-DATA-TF PDU without fragments
            counts as one fragment.
        received: Number of bytes in these fragments.
        since: Time when the last operation was complete, or when the association began,
            in seconds of the monotonic clock.
    """

    fragments = 0
    received = 0
    _skips = False

    def __init__(self, association: Association) -> None:
        """Prepare for the first message."""
        super().__init__(association)
        self.since = time.monotonic()

    @property
    def upper_layer(self) -> UpperLayer:
        """The upper layer of the association."""
        assert isinstance(self.dul, UpperLayer)  # noqa: S101 - narrows the type
        return self.dul

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Process the fragments of one P-DATA-TF PDU.

        The fragments may belong to several messages. The association is aborted if a
        message cannot be read, or if there were too many fragments since the last
        operation.
        """
        values = primitive.presentation_data_value_list
        self.fragments += not values
        for context_id, fragment in values:
            if self.upper_layer.abort_reason:
                return
            if not fragment:  # without a message control header (PS3.8 E.2)
                reason = "P-DATA-TF has a presentation data value of a wrong length"
                self.upper_layer.abort_because(reason)
                return
            self.fragments += 1
            self.received += len(fragment) - 1
            if not self._is_skipped(fragment[0]):
                self._receive(context_id, fragment)
        excess = self._excess()
        if excess and not self.upper_layer.abort_reason:
            self.upper_layer.abort_because(excess)

    def operation_is_complete(self) -> None:
        """Reset the counts of fragments and bytes, and set `since` to now."""
        self.fragments = self.received = 0
        self.since = time.monotonic()

    def _excess(self) -> str:
        """Return a reason to abort if too many fragments came; else an empty text."""
        if self.fragments <= SPARE_FRAGMENTS + self.received // SMALLEST_FRAGMENT:
            return ""
        return f"{self.fragments} fragments came with {self.received} bytes"

    def _receive(self, context_id: int, fragment: bytes) -> None:
        if self.message is None:
            self.message = self._begin_message()
        message = self.message
        if fault := _fault(message, context_id, fragment):
            self.upper_layer.abort_because(fault)
            return
        try:
            super().receive_primitive(_primitive(context_id, fragment))
            if self.message is message and isinstance(message, WITHOUT_DATASET):
                end = _primitive(context_id, bytes((_LAST,)))
                super().receive_primitive(end)
                self._skips = True
        except Exception as error:  # noqa: BLE001 - invalid bytes may cause any exception
            reason = f"a message cannot be read ({type(error).__name__})"
            self.upper_layer.abort_because(reason)

    def _begin_message(self) -> DIMSEMessage:
        return DIMSEMessage()

    def _is_skipped(self, control: int) -> bool:
        """Return whether a fragment belongs to a dataset that is ignored."""
        if control & _COMMAND:  # the ignored dataset never came, or is complete
            self._skips = False
        is_skipped = self._skips
        if control & _LAST:
            self._skips = False
        return is_skipped


def _fault(message: DIMSEMessage, context_id: int, fragment: bytes) -> str:
    """Return why the association is aborted because of a fragment; else an empty text.

    A command must not exceed LONGEST_COMMAND. After a command, only fragments of its
    dataset may come, in the same presentation context (PS3.8 E.1). A fragment of a
    dataset before the end of its command is not detected here.
    """
    control, size = fragment[0], len(fragment) - 1
    if message.context_id is None:  # its command is not complete
        size += message.encoded_command_set.tell()
        is_long = control & _COMMAND and size > LONGEST_COMMAND
        return f"a command of more than {LONGEST_COMMAND} bytes came" * bool(is_long)
    if control & _COMMAND:
        return "a command came in the middle of a dataset"
    if context_id != message.context_id:
        return "a dataset came in another presentation context than its command"
    return ""


def _primitive(context_id: int, fragment: bytes) -> P_DATA:
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((context_id, fragment))
    return primitive
