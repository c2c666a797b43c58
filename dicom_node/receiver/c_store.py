"""Answers a C-STORE request: success is returned only after the instance is durable.

Success promises that the instance is stored (PS3.4 B.2.2), and the sender may then
delete its copy. So the node first writes the dataset to the spool, checks it, makes the
file durable (fsync, rename, fsync of the folder) and records the instance. After that,
it responds with 0x0000. The analysis runs later, in the worker.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.dataset.attributes import loggable
from dicom_node.dataset.header import NegotiatedIdentity, read_header
from dicom_node.errors import CannotUnderstandError, OutOfResourcesError, RefusedError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.log.context import describe_exception, instance_context, log_step
from dicom_node.metrics.counters import (
    REFUSED,
    STAGE,
    Count,
    ignore,
    increment,
    observe,
)
from dicom_node.network.incoming_dataset import IncomingDataset
from dicom_node.outcome import LONGEST_COMMENT
from dicom_node.reasons import Refusal
from dicom_node.receiver.association import Connection
from dicom_node.storage.database import DatabaseError
from dicom_node.storage.spool import Spool, SpoolFile

logger = logging.getLogger(__name__)

SUCCESS = 0x0000

Accept = Callable[[ReceivedInstance], None]


@dataclass(frozen=True, slots=True)
class Storing:
    """The handler of C-STORE requests. Safe to share between threads.

    Attributes:
        spool: Stores the instances.
        accept: Records an instance that is durable on disk. If this function raises
            RefusedError, it has recorded nothing.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.
        count: Counts refused requests, and records the duration of successful ones.
    """

    spool: Spool
    accept: Accept
    inflated_limit: int
    count: Count = ignore

    def handle(self, event: evt.Event) -> int | Dataset:
        """Store the instance of one request.

        Returns:
            SUCCESS, or a Dataset with a failure status and an Error Comment.
        """
        request, connection = event.request, event.assoc
        assert isinstance(connection, Connection)  # noqa: S101 - the receiver's always is
        assert isinstance(request, C_STORE)  # noqa: S101 - always, for this event
        dataset = request.DataSet
        assert isinstance(dataset, IncomingDataset)  # noqa: S101 - receiver/dimse.py made it
        uid = loggable(str(request.AffectedSOPInstanceUID))
        with instance_context(
            uid, dataset.spool_file.id if dataset.spool_file else "-"
        ):
            try:
                size = self._store(event, request, dataset, connection)
            except RefusedError as error:
                return self._refuse(error, connection, dataset)
            except Exception as error:  # noqa: BLE001 - a bug must not lose an image
                # 0xA700 tells the sender to keep its copy and try again. The message of
                # the exception may quote the dataset, so it is not logged.
                trace = "\n".join(describe_exception(error))
                logger.error("Cannot store %s: %s", uid, trace)  # noqa: TRY400
                is_database_error = isinstance(error, DatabaseError)
                reason = Refusal.DATABASE if is_database_error else Refusal.PROGRAM
                message = "The node failed; send again later."
                refusal = OutOfResourcesError(message, reason)
                return self._refuse(refusal, connection, dataset)
            finally:
                dataset.release()
            connection.dimse.operation_is_complete()
            seconds = time.monotonic() - dataset.began
            details = f"from {connection.calling_ae_title}, {size} bytes"
            log_step(logger, "received", details, seconds=seconds)
            self.count(observe(STAGE, seconds, "receive"))
        return SUCCESS

    def _refuse(
        self, error: RefusedError, connection: Connection, dataset: IncomingDataset
    ) -> Dataset:
        peer = f"{connection.calling_ae_title} at {connection.address}"
        details = f"from {peer}, {dataset.received} bytes: {error}"
        log_step(logger, "refused", details, level=logging.WARNING)
        self.count(increment(REFUSED, error.reason))
        return _failure(error)

    def _store(
        self,
        event: evt.Event,
        request: C_STORE,
        dataset: IncomingDataset,
        connection: Connection,
    ) -> int:
        """Make an instance durable, and record it. Return its size in bytes.

        Raises:
            RefusedError: The instance is refused, and nothing is recorded.
        """
        if dataset.refusal is not None:
            raise dataset.refusal
        if dataset.spool_file is None:
            raise CannotUnderstandError("The C-STORE request has no dataset.")
        spool_file = dataset.spool_file
        header = self._read_header(event, request, spool_file)
        spool_file.commit()
        instance = ReceivedInstance(
            id=spool_file.id,
            path=spool_file.path,
            header=header,
            content_digest=spool_file.digest,
            size=spool_file.size,
            calling_ae_title=connection.calling_ae_title,
            calling_address=connection.address,
            received_at=datetime.now(UTC),
        )
        try:
            self.accept(instance)
        except RefusedError:
            spool_file.discard()
            raise
        # After any other exception, it is unknown whether the instance was recorded, so
        # the file stays. If the journal does not name the file, the cleanup removes it.
        return spool_file.size

    def _read_header(
        self, event: evt.Event, request: C_STORE, spool_file: SpoolFile
    ) -> InstanceHeader:
        negotiated = NegotiatedIdentity(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            abstract_syntax=event.context.abstract_syntax,
            transfer_syntax=UID(event.context.transfer_syntax),
        )
        return read_header(
            spool_file.path,
            spool_file.offset,
            negotiated,
            inflated_limit=self.inflated_limit,
        )


def _failure(error: RefusedError) -> Dataset:
    response = Dataset()
    response.Status = error.status
    response.ErrorComment = _comment(str(error))
    return response


def _comment(message: str) -> str:
    """Return a message as an Error Comment: at most LONGEST_COMMENT ASCII characters.

    A message that is too long is cut, after a sentence if possible. Characters that are
    not ASCII are replaced by question marks.
    """
    # Error Comment may contain only the default character repertoire (PS3.7 C.5.2).
    comment = message.encode("ascii", "replace").decode()
    while len(comment) > LONGEST_COMMENT and ". " in comment:
        comment = comment.rpartition(". ")[0] + "."
    return comment[:LONGEST_COMMENT]
