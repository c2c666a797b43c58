"""Stores the datasets that a peer sends in the spool, as they arrive.

pynetdicom keeps a dataset in memory, or in a temporary file that it does not remove
when a connection drops. If the disk is full, its thread ends without a response. In
this module, datasets go straight into the spool, never beyond a limit. The files of
datasets that are not kept are removed.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ, DIMSEMessage

from dicom_node.attributes import UID_PATTERN, loggable
from dicom_node.dimse import LONGEST_COMMAND, WITHOUT_DATASET, MessageReader
from dicom_node.errors import (
    CannotUnderstandError,
    MismatchError,
    OutOfResourcesError,
    RefusedError,
)
from dicom_node.file_meta import file_head
from dicom_node.reasons import Refusal
from dicom_node.spool import MB, Arrival, Spool

logger = logging.getLogger(__name__)

# Without asynchronous operations a peer waits for each response (PS3.7 D.3.3.3).
MOST_UNANSWERED = 4
# A dataset that is too large is read to its end and discarded, so that it can be
# refused with a reason. If it has more bytes than any element can have, the association
# is aborted.
LONGEST_DATASET = 2**32
NO_UID = (
    "Affected SOP Class UID (0000,0002) or Instance UID (0000,1000) is no UID. "
    "Send the instance under its own UIDs."
)


class IncomingDataset(BytesIO):
    """The dataset of one request. pynetdicom writes it to memory, but it goes to disk.

    A report stays in memory, because it is short.

    Attributes:
        arrival: The file; None until the first bytes arrive.
        refusal: Why no file is written, or why writing has stopped.
        received: Number of bytes received, kept or not.
        began: Time when the first bytes arrived, by the monotonic clock.
    """

    def __init__(
        self, begin: Callable[["IncomingDataset"], Arrival | None], limit: int
    ) -> None:
        """Prepare for a dataset of at most `limit` bytes. It may remain empty.

        `begin` opens the file, or returns None if the dataset is to stay in memory.
        """
        super().__init__()
        self.arrival: Arrival | None = None
        self.refusal: RefusedError | None = None
        self.received = 0
        self.began = time.monotonic()
        self._begin = begin
        self._limit = limit

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Store some bytes. It never raises, because pynetdicom's thread would end."""
        if not self.received:
            self.began = time.monotonic()
        self.received += len(data)
        try:
            self._store(data)
        except RefusedError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - its text may quote the dataset
            logger.error("Cannot store a dataset: %s", type(error).__name__)  # noqa: TRY400
            words = "The node failed; send again later."
            self._refuse(OutOfResourcesError(words, Refusal.PROGRAM))
        return len(data)

    @property
    def is_open(self) -> bool:
        """True if the dataset has a file that is not closed."""
        return self.arrival is not None and not self.arrival.closed

    def let_go(self) -> None:
        """Close the file, and remove it if it was not kept. May be called twice."""
        if self.arrival is not None:
            self.arrival.close()

    def _store(self, data: bytes | memoryview) -> None:
        if self.refusal is not None:
            return
        if self.received > self._limit:
            raise CannotUnderstandError(
                f"The instance is larger than {self._limit // MB} MB, the limit here. "
                "Raise max_instance_mb under [receiver] to take it.",
                Refusal.TOO_LARGE,
            )
        if self.arrival is None:
            self.arrival = self._begin(self)
        if self.arrival is None:
            super().write(data)
        else:
            self.arrival.write(data)

    def _refuse(self, error: RefusedError) -> None:
        self.refusal = error
        self.truncate(0)
        self.let_go()


class Intake(MessageReader):
    """Receives the messages of one association and stores datasets in the spool."""

    def __init__(self, association: Association, spool: Spool, limit: int) -> None:
        """Prepare to receive datasets of at most `limit` bytes."""
        super().__init__(association)
        self._spool = spool
        self._limit = limit
        # The dataset of the current message, or of the last one.
        self._dataset: IncomingDataset
        self._on_disk: set[IncomingDataset] = set()

    def _receive(self, context_id: int, fragment: bytes) -> None:
        """Process a fragment; abort the association if there are too many."""
        super()._receive(context_id, fragment)
        if self._dataset.received > LONGEST_DATASET:
            words = f"a dataset of more than {LONGEST_DATASET} bytes came"
        elif self.msg_queue.qsize() > MOST_UNANSWERED:
            words = f"more than {MOST_UNANSWERED} requests came before an answer"
        else:
            return
        self.upper_layer.abort_because(words)

    @property
    def unfinished(self) -> str:
        """The incomplete message and its size so far; empty if all are complete."""
        if self.message is None:
            return ""
        uid = self.message.command_set.get("AffectedSOPInstanceUID", "")
        return f"{loggable(str(uid))}, after {self._dataset.received} bytes"

    def _begin_message(self) -> DIMSEMessage:
        message = DIMSEMessage()
        begin = partial(self._begin, message)
        message.data_set = self._dataset = IncomingDataset(begin, self._limit)
        return message

    def let_go(self) -> None:
        """Close all datasets, including incomplete and unread ones."""
        for dataset in list(self._on_disk):
            dataset.let_go()

    def _begin(self, message: DIMSEMessage, dataset: IncomingDataset) -> Arrival | None:
        """Open the file of a dataset, after its command has been received."""
        if isinstance(message, N_EVENT_REPORT_RQ):
            if dataset.received > LONGEST_COMMAND:
                raise CannotUnderstandError("A report of absurd length.")
            return None
        if isinstance(message, WITHOUT_DATASET):
            return None
        command = message.command_set
        uids = command.get("AffectedSOPClassUID"), command.get("AffectedSOPInstanceUID")
        if not all(UID_PATTERN.fullmatch(str(uid)) for uid in uids):
            raise MismatchError(NO_UID)
        contexts = {each.context_id: each for each in self.assoc.accepted_contexts}
        if message.context_id not in contexts:
            raise MismatchError("The presentation context was not accepted.")
        syntax = contexts[message.context_id].transfer_syntax[0]
        head = file_head(str(uids[0]), str(uids[1]), UID(syntax))
        arrival = self._spool.begin(head)
        self._on_disk = {each for each in self._on_disk if each.is_open}
        self._on_disk.add(dataset)
        return arrival
