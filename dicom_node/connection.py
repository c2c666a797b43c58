"""One association with a peer that sends to us: pynetdicom's, with its leaks closed.

pynetdicom keeps a dataset in memory, or in a temporary file that it leaves behind when
a connection drops; it takes a PDU of any size, in pieces of 4 kB, waits for ever for
the rest of one, and dies without an answer where a disk is full. Here datasets stream
into the spool, never beyond a limit, and what an association holds is let go of when
its thread ends, whatever ended it.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from io import BytesIO

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.errors import (
    CannotUnderstandError,
    OutOfResourcesError,
    RefusedError,
)
from dicom_node.listener import Caller, hang_up, receive
from dicom_node.results.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from dicom_node.spool import MB, Arrival, Spool
from dicom_node.wakeups import LOOK_AROUND_S, Checkpoint, Doorbell, WakingQueue

logger = logging.getLogger(__name__)

# What we ask senders not to exceed. pynetdicom proposes 16 kB, DCMTK sends 128 kB at
# most. 16 associations take half the CPU of 32 kB, and 4 MB more memory.
MAXIMUM_PDU = 131_072
# Some exceed it; more than this is an attack on our memory.
LONGEST_PDU = 1_048_576
PDU_DEADLINE_S = 60.0
LONGEST_COMMAND = 65_536
# Without asynchronous operations a peer waits for each answer (PS3.7 D.3.3.3).
MOST_UNANSWERED = 4
# A dataset that is too large is heard out, to be refused with the reason, but not
# for ever.
OVERLONG = 2
OPEN = "Sta6"  # PS3.8 9.2.1: ready for data transfer
INVALID_PDU = "Evt19"  # PS3.8 9.2.2; the association is aborted
PREFIX = bytes(128) + b"DICM"  # PS3.10 7.1


class IncomingDataset(BytesIO):
    """The dataset of one request: pynetdicom takes it for memory, it goes to disk.

    Attributes:
        arrival: The file, once the first bytes have come.
        refusal: Why no file is written, or no more.
        received: Bytes that have come, kept or not.
    """

    def __init__(
        self, begin: Callable[["IncomingDataset"], Arrival], limit: int
    ) -> None:
        """Prepare for a dataset of at most `limit` bytes; none need come."""
        super().__init__()
        self.arrival: Arrival | None = None
        self.refusal: RefusedError | None = None
        self.received = 0
        self._begin = begin
        self._limit = limit

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Store some bytes. Never raises: pynetdicom's thread would die of it."""
        self.received += len(data)
        try:
            self._store(data)
        except RefusedError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - its text may quote the dataset
            logger.error("Cannot store a dataset: %s", type(error).__name__)  # noqa: TRY400
            self._refuse(OutOfResourcesError("The node failed; send again later."))
        return len(data)

    @property
    def is_open(self) -> bool:
        """Whether there is a file that has not been let go of."""
        return self.arrival is not None and not self.arrival.closed

    def let_go(self) -> None:
        """Close the file; one that was not kept is removed. May be called twice."""
        if self.arrival is not None:
            self.arrival.close()

    def _store(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        if self.received > self._limit:
            raise CannotUnderstandError(
                f"The instance is larger than {self._limit // MB} MB, the limit here. "
                "Raise max_instance_mb under [receiver] to take it."
            )
        if self.arrival is None:
            self.arrival = self._begin(self)
        self.arrival.write(data)

    def _refuse(self, error: RefusedError) -> None:
        self.refusal = error
        self.let_go()


class Intake(DIMSEServiceProvider):
    """Receives the messages of one association, their datasets into the spool."""

    def __init__(self, association: "Connection", spool: Spool, limit: int) -> None:
        """Prepare to receive datasets of at most `limit` bytes."""
        super().__init__(association)
        self._spool = spool
        self._limit = limit
        self._dataset: IncomingDataset  # of the message that is coming in
        self._on_disk: set[IncomingDataset] = set()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in the next fragments of a message. Never raises, as write() above."""
        if self.message is None:
            self.message = DIMSEMessage()
            begin = partial(self._begin, self.message)
            self._dataset = IncomingDataset(begin, self._limit)
            self.message.data_set = self._dataset
        command = self.message.encoded_command_set
        try:
            super().receive_primitive(primitive)
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes may cause
            logger.warning("Aborting: an unreadable message: %s", type(error).__name__)
            self.dul.event_queue.put(INVALID_PDU)
        if (
            command.tell() > LONGEST_COMMAND
            or self._dataset.received > OVERLONG * self._limit
            or self.msg_queue.qsize() > MOST_UNANSWERED
        ):
            logger.warning("Aborting: a peer that sends without end")
            self.dul.event_queue.put(INVALID_PDU)

    def let_go(self) -> None:
        """Let go of all datasets, half received or never looked at."""
        for dataset in list(self._on_disk):
            dataset.let_go()

    def _begin(self, message: DIMSEMessage, dataset: IncomingDataset) -> Arrival:
        """Open the file of a dataset, now that its command is there."""
        contexts = {each.context_id: each for each in self.assoc.accepted_contexts}
        meta = create_file_meta(
            sop_class_uid=UID(message.command_set.AffectedSOPClassUID),
            sop_instance_uid=UID(message.command_set.AffectedSOPInstanceUID),
            transfer_syntax=contexts[message.context_id].transfer_syntax[0],
            implementation_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
        )
        arrival = self._spool.begin(PREFIX + encode_file_meta(meta))
        self._on_disk = {each for each in self._on_disk if each.is_open}
        self._on_disk.add(dataset)
        return arrival


class _Socket(AssociationSocket):
    """The connection, whose first PDU has been read already."""

    def __init__(
        self, association: "Connection", caller: Caller, doorbell: Doorbell
    ) -> None:
        self._connection = caller.socket
        self._ahead = caller.request
        self._doorbell = doorbell
        super().__init__(association, client_socket=caller.socket)

    @property
    def ready(self) -> bool:
        """Whether there is something to read, be it the end of the connection.

        On an open association this waits for it, or for something to send.
        """
        if self.socket is None:
            return False
        is_open = self.assoc.dul.state_machine.current_state == OPEN
        return bool(self._ahead) or self._doorbell.wait(LOOK_AROUND_S * is_open)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; fewer when the connection ends first."""
        if self._ahead:
            data, self._ahead = self._ahead[:nr_bytes], self._ahead[nr_bytes:]
            return bytearray(data)
        if nr_bytes > LONGEST_PDU:
            raise OSError("The peer announced a PDU of absurd length")
        deadline = time.monotonic() + PDU_DEADLINE_S
        return receive(self._connection, nr_bytes, deadline)


class Connection(Association):
    """One association, from the peer's request to the end of its thread.

    Attributes:
        address: The network address of the peer.
        held: What is let go of when the association ends, however it ends.
    """

    def __init__(
        self,
        ae: AE,
        contexts: list[PresentationContext],
        caller: Caller,
        ended: Callable[["Connection"], None],
    ) -> None:
        """Set up an association that `start` will serve.

        Args:
            ae: Says our name, timeouts and PDU size.
            contexts: What we serve.
            caller: The peer.
            ended: Called when all else has been let go of.
        """
        super().__init__(ae, "acceptor")
        self.name = "association"
        self.address = caller.address[0]
        self.held = ExitStack()
        self.held.callback(ended, self)
        self.held.callback(caller.socket.close)
        self._connection = caller.socket
        doorbell = Doorbell(caller.socket)
        self.held.callback(doorbell.close)
        self.dul.to_provider_queue = WakingQueue(doorbell.ring)
        self._checkpoint = Checkpoint()
        # pynetdicom's name; should it go, there is polling again and no harm.
        self._reactor_checkpoint = self._checkpoint
        self.dul.to_user_queue = WakingQueue(self._checkpoint.set)
        self.set_socket(_Socket(self, caller, doorbell))
        self.requestor.address_info = AddressInformation.from_tuple(caller.address)
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = contexts

    @property
    def calling_ae_title(self) -> str:
        """The AE title of the peer, once it has asked for the association."""
        request = self.requestor.primitive
        return "" if request is None else str(request.calling_ae_title).strip()

    @property
    def called_ae_title(self) -> str:
        """The AE title that the peer asks for, once it has."""
        request = self.requestor.primitive
        return "" if request is None else str(request.called_ae_title).strip()

    def store_in(self, spool: Spool, limit: int) -> None:
        """Have datasets stream into the spool, of at most `limit` bytes each."""
        self.dimse = intake = Intake(self, spool, limit)
        intake.msg_queue = WakingQueue(self._checkpoint.set)
        self._checkpoint.queues = [intake.msg_queue, self.dul.to_user_queue]
        self.held.callback(intake.let_go)

    def run_reactor(self) -> None:
        """Serve the association to its end, and let go of all that it held."""
        with self.held:
            try:
                super().run_reactor()
            finally:
                self.hang_up()

    def hang_up(self) -> None:
        """End the connection. Its threads then come to their ends."""
        hang_up(self._connection)
