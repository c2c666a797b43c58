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
        """Take in the next fragments of a message; abort if they cannot be read."""
        if self._skips:
            self._skip_dataset(primitive)
            if not primitive.presentation_data_value_list:
                return
        if self.message is None:
            self.message = self._begin_message()
        message = self.message
        try:
            super().receive_primitive(primitive)
            if self.message is message and isinstance(message, WITHOUT_DATASET):
                super().receive_primitive(_end_of_dataset(message))
                self._skips = True
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes may cause
            words = f"a message cannot be read ({type(error).__name__})"
            self.upper_layer.abort_because(words)

    def _begin_message(self) -> DIMSEMessage:
        return DIMSEMessage()

    def _skip_dataset(self, primitive: P_DATA) -> None:
        """Take out fragments of a dataset that nobody reads, up to its last one."""
        values = primitive.presentation_data_value_list
        while values and self._skips:
            control = values[0][1][0]
            if control & _COMMAND:  # it never came
                self._skips = False
                return
            self._skips = not control & _LAST
            del values[0]


def _end_of_dataset(message: DIMSEMessage) -> P_DATA:
    primitive = P_DATA()
    fragment = message.context_id or 0, bytes((_LAST,))
    primitive.presentation_data_value_list.append(fragment)
    return primitive
