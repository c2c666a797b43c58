"""Writes received datasets to the spool as they arrive.

pynetdicom would keep a dataset in memory, or in a temporary file that it does not
remove when a connection drops. If the disk is full, its thread would end without a
response. This module writes datasets to the spool, up to a limit. It removes the files
of datasets that are not kept.
"""

import logging
from functools import partial

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ, DIMSEMessage

from dicom_node.dataset.attributes import UID_PATTERN, loggable
from dicom_node.dataset.file_meta import file_head
from dicom_node.errors import (
    CannotUnderstandError,
    MismatchError,
)
from dicom_node.network.incoming_dataset import NO_UID, IncomingDataset
from dicom_node.network.message_reader import (
    LONGEST_COMMAND,
    WITHOUT_DATASET,
    MessageReader,
)
from dicom_node.storage.spool import Spool, SpoolFile

logger = logging.getLogger(__name__)

# Without asynchronous operations, a peer waits for each response (PS3.7 D.3.3.3). If
# more requests than this wait in the queue, the association is aborted.
MOST_UNANSWERED = 4
# A dataset that is too large is read to its end and discarded, so that the node can
# refuse it with a reason. If a dataset has more bytes than the longest element can
# have, the association is aborted.
LONGEST_DATASET = 2**32


class SpoolingDimseProvider(MessageReader):
    """A MessageReader that stores datasets in the spool as they arrive."""

    def __init__(self, association: Association, spool: Spool, limit: int) -> None:
        """Prepare to receive the messages of an association.

        Args:
            association: The association.
            spool: Stores the datasets.
            limit: Maximum size of a dataset in bytes. A larger one is refused.
        """
        super().__init__(association)
        self._spool = spool
        self._limit = limit
        # The dataset of the message that is being received, else of the last message.
        self._dataset: IncomingDataset
        self._on_disk: set[IncomingDataset] = set()

    def _receive(self, context_id: int, fragment: bytes) -> None:
        """Process a fragment.

        The association is aborted if the dataset is longer than LONGEST_DATASET, or if
        more than MOST_UNANSWERED requests wait in the queue.
        """
        super()._receive(context_id, fragment)
        if self._dataset.received > LONGEST_DATASET:
            reason = f"a dataset of more than {LONGEST_DATASET} bytes came"
        elif self.msg_queue.qsize() > MOST_UNANSWERED:
            reason = f"more than {MOST_UNANSWERED} requests came before a response"
        else:
            return
        self.upper_layer.abort_because(reason)

    @property
    def unfinished(self) -> str:
        """A text about the incomplete message; empty if there is none.

        The text contains the SOP Instance UID in the command of the message, and the
        number of bytes of the dataset that were received.
        """
        if self.message is None:
            return ""
        uid = self.message.command_set.get("AffectedSOPInstanceUID", "")
        return f"{loggable(str(uid))}, after {self._dataset.received} bytes"

    def _begin_message(self) -> DIMSEMessage:
        message = DIMSEMessage()
        begin = partial(self._begin, message)
        message.data_set = self._dataset = IncomingDataset(begin, self._limit)
        return message

    def release(self) -> None:
        """Close the files of all datasets, and remove those that are not committed."""
        for dataset in list(self._on_disk):
            dataset.release()

    def _begin(
        self, message: DIMSEMessage, dataset: IncomingDataset
    ) -> SpoolFile | None:
        """Create the spool file of a dataset, after its command has been received.

        Returns:
            The file. None if the message is a Storage Commitment report, because its
            dataset stays in memory. None also if the message needs no dataset.

        Raises:
            RefusedError: A UID or the presentation context is not valid, a report is
                too long, or the spool cannot store the dataset now.
        """
        if isinstance(message, N_EVENT_REPORT_RQ):
            if dataset.received > LONGEST_COMMAND:
                raise CannotUnderstandError(
                    f"The report has more than {LONGEST_COMMAND} bytes."
                )
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
        spool_file = self._spool.begin(head)
        self._on_disk = {each for each in self._on_disk if each.is_open}
        self._on_disk.add(dataset)
        return spool_file
