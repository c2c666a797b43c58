"""DIMSE messages as they come in, for both directions (PS3.7 annex E).

pynetdicom's thread ends if it cannot read a message, and it waits for the dataset that
a response announces, although responses have none. It takes any number of fragments,
also empty ones. Here fragments are counted, on associations that peers open and on
those that the node opens.
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

from dicom_node.upper_layer import UpperLayer

# Complete with their command: PS3.7 defines no dataset for them, or none that is used
# here. Some archives announce one nevertheless, and send it or do not.
WITHOUT_DATASET = (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RSP,
    N_ACTION_RSP,
    N_EVENT_REPORT_RSP,
)
_COMMAND, _LAST = 1, 2  # bits of the message control header (PS3.8 E.2)
# Bytes of a command set and of a storage commitment report. Ours name a few objects.
LONGEST_COMMAND = 65_536
# Each fragment costs processor time, also if it is empty. Senders fill their PDUs:
# DCMTK's are of 4 kB or more. What is sent since the last operation may have
# SPARE_FRAGMENTS, and one more for each SMALLEST_FRAGMENT bytes.
SPARE_FRAGMENTS = 4096
SMALLEST_FRAGMENT = 256


class MessageReader(DIMSEServiceProvider):
    """Receives the messages of one association. Nothing that a peer sends raises.

    Attributes:
        fragments: How many came since the last operation. A P-DATA-TF PDU without any
            counts as one.
        received: Bytes of these fragments.
        since: When the last operation was complete, or the association began, by the
            monotonic clock.
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
        assert isinstance(self.dul, UpperLayer)  # noqa: S101 - ours always is
        return self.dul

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in the next fragments, of one message or of several.

        The association is aborted if they cannot be read, or are too many.
        """
        values = primitive.presentation_data_value_list
        self.fragments += not values
        for context_id, fragment in values:
            if self.upper_layer.complaint:
                return
            self.fragments += 1
            self.received += len(fragment) - 1
            if not self._is_skipped(fragment[0]):
                self._receive(context_id, fragment)
        excess = self._excess()
        if excess and not self.upper_layer.complaint:
            self.upper_layer.abort_because(excess)

    def operation_is_complete(self) -> None:
        """Begin to count again."""
        self.fragments = self.received = 0
        self.since = time.monotonic()

    def _excess(self) -> str:
        """Say what came too often since the last operation; empty if nothing did."""
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
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes may cause
            words = f"a message cannot be read ({type(error).__name__})"
            self.upper_layer.abort_because(words)

    def _begin_message(self) -> DIMSEMessage:
        return DIMSEMessage()

    def _is_skipped(self, control: int) -> bool:
        """Tell whether a fragment is of a dataset that nobody reads."""
        if control & _COMMAND:  # such a dataset never came, or was the last
            self._skips = False
        is_skipped = self._skips
        if control & _LAST:
            self._skips = False
        return is_skipped


def _fault(message: DIMSEMessage, context_id: int, fragment: bytes) -> str:
    """Say why a fragment cannot belong to a message; empty if it can (PS3.8 E.1)."""
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
