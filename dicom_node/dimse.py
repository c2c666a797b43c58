"""DIMSE messages as they come in, for both directions (PS3.7 annex E).

pynetdicom's thread dies of a message that it cannot read, and waits for the dataset
that a response announces though none belongs to it.
"""

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


class MessageReader(DIMSEServiceProvider):
    """Receives the messages of one association. Nothing that a peer sends raises."""

    _skips = False

    @property
    def upper_layer(self) -> UpperLayer:
        """The upper layer of the association."""
        assert isinstance(self.dul, UpperLayer)  # noqa: S101 - ours always is
        return self.dul

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in the next fragments, of one message or of several.

        The association is aborted if they cannot be read.
        """
        for context_id, fragment in primitive.presentation_data_value_list:
            if self.upper_layer.complaint:
                return
            if not self._is_skipped(fragment[0]):
                self._receive(context_id, fragment)

    def _receive(self, context_id: int, fragment: bytes) -> None:
        if self.message is None:
            self.message = self._begin_message()
        message = self.message
        if fault := _fault(message, context_id, fragment[0]):
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


def _fault(message: DIMSEMessage, context_id: int, control: int) -> str:
    """Say why a fragment cannot belong to a message; empty if it can (PS3.8 E.1)."""
    if message.context_id is None:  # its command is not complete
        return ""
    if control & _COMMAND:
        return "a command came in the middle of a dataset"
    if context_id != message.context_id:
        return "a dataset came in another presentation context than its command"
    return ""


def _primitive(context_id: int, fragment: bytes) -> P_DATA:
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((context_id, fragment))
    return primitive
