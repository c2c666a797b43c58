"""A sender of arbitrary commands and datasets as bytes.

storescu and `send_c_store` of pynetdicom are not suitable: they parse a dataset, use
its UIDs for the command, and do not send a dataset that they cannot parse.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.network.presentation_contexts import STORED
from tests.support.mutations import Sample

COMMAND, LAST = 1, 2  # bits of the message control header, PS3.8 E.2
PIECE = 65_536
ANSWER_S = 60.0
C_STORE_RQ, MEDIUM = 0x0001, 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request.

    Attributes:
        status: The status. None if the association ended without a response, or if the
            sender aborted it after ANSWER_S seconds.
        comment: Error Comment (0000,0902).
    """

    status: int | None
    comment: str = ""


class RawSender:
    """An SCU that sends any bytes over an association.

    If the association has ended, the next `send` opens a new association.
    """

    def __init__(
        self,
        port: int,
        ae_title: str = "FRACTURE_AI",
        host: str = "127.0.0.1",
        source: str = "",
    ) -> None:
        """Store the arguments. The association is opened for the first dataset.

        Args:
            port: The port of the receiver.
            ae_title: The AE title of the receiver.
            host: The address of the receiver.
            source: The address to call from. "" means any address.
        """
        self._peer = host, port, ae_title
        self._source = source
        self._association: Association | None = None

    def send(self, sample: Sample, command: bytes | None = None) -> Answer:
        """Send one dataset, and return the response.

        Args:
            sample: The dataset.
            command: The command set. None stands for a C-STORE request with the UIDs of
                the sample.
        """
        association = self._open()
        context = next(
            each.context_id
            for each in association.accepted_contexts
            if each.abstract_syntax == sample.sop_class_uid
            and each.transfer_syntax == [sample.syntax]
        )
        uids = sample.sop_class_uid.encode(), sample.sop_instance_uid.encode("latin-1")
        # Stop the reactor of pynetdicom, as send_c_store does. Otherwise, the reactor
        # would take the response.
        association._reactor_checkpoint.clear()
        try:
            for piece in fragments(command or c_store(*uids), COMMAND):
                association.dul.send_pdu(_p_data(context, piece))
            for piece in fragments(sample.dataset, 0):
                association.dul.send_pdu(_p_data(context, piece))
            _, response = association.dimse.get_msg(block=True)
        finally:
            association._reactor_checkpoint.set()
        if response is None:
            association.abort()
            return Answer(None)
        return Answer(response.Status, str(getattr(response, "ErrorComment", "") or ""))

    def close(self) -> None:
        if self._association and self._association.is_established:
            self._association.release()

    def _open(self) -> Association:
        if self._association is None or not self._association.is_established:
            host, port, title = self._peer
            modality = AE("MODALITY")
            modality.dimse_timeout = ANSWER_S
            for sop_class in STORED:
                for syntax in DECODABLE:
                    modality.add_requested_context(sop_class, syntax)
            self._association = modality.associate(
                host, port, ae_title=title, bind_address=(self._source, 0)
            )
            assert self._association.is_established
        return self._association


@contextmanager
def raw_sender(port: int) -> Iterator[RawSender]:
    sender = RawSender(port)
    try:
        yield sender
    finally:
        sender.close()


def c_store(sop_class_uid: bytes, sop_instance_uid: bytes) -> bytes:
    """Return the command set of a C-STORE request (PS3.7 9.3.1.1).

    The UIDs are not checked, so they may be invalid. They are padded to an even length.
    """
    elements = (
        (0x0002, sop_class_uid),
        (0x0100, struct.pack("<H", C_STORE_RQ)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", MEDIUM)),
        (0x0800, struct.pack("<H", 0)),  # a dataset follows
        (0x1000, sop_instance_uid),
    )
    body = b"".join(_element(number, value) for number, value in elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def fragments(message: bytes, kind: int) -> Sequence[bytes]:
    """Return the fragments of a command or dataset, each with its control header.

    There is at least one fragment, even if the message is empty.

    Args:
        message: The bytes of the command set or dataset.
        kind: COMMAND, or 0 for a dataset.
    """
    cuts = range(0, max(len(message), 1), PIECE)
    pieces = [message[start : start + PIECE] for start in cuts]
    last = len(pieces) - 1
    return [
        bytes([kind | LAST * (number == last)]) + piece
        for number, piece in enumerate(pieces)
    ]


def _p_data(context_id: int, value: bytes) -> P_DATA:
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[context_id, value]]
    return primitive


__all__ = ["Answer", "RawSender", "c_store", "evt", "fragments", "raw_sender"]
