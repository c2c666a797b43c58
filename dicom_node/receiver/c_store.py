"""Answers a C-STORE request: success is returned only after the instance is durable.

Success promises that the instance is stored (PS3.4 B.2.2), and the sender may then
delete its copy. So the order is: stream to the spool, check, fsync, rename, fsync the
folder, `accept`, 0x0000. The analysis runs later, in the worker.
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
from sqlalchemy.exc import SQLAlchemyError

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
from dicom_node.reasons import Refusal
from dicom_node.receiver.association import Connection
from dicom_node.storage.spool import Spool, SpoolFile

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
LONGEST_COMMENT = 64  # PS3.7 C.4: Error Comment is LO

Accept = Callable[[ReceivedInstance], None]


@dataclass(frozen=True, slots=True)
class Storing:
    """Serves C-STORE requests. Safe to share between threads.

    Attributes:
        spool: Stores the instances.
        accept: Records an instance that is durable on disk. If it raises RefusedError,
            it has recorded nothing.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.
        count: Counts refusals, and the duration of the other requests.
    """

    spool: Spool
    accept: Accept
    inflated_limit: int
    count: Count = ignore

    def answer(self, event: evt.Event) -> int | Dataset:
        """Answer one request."""
        request, connection = event.request, event.assoc
        assert isinstance(connection, Connection)  # noqa: S101 - the receiver's always is
        assert isinstance(request, C_STORE)  # noqa: S101 - always, for this event
        dataset = request.DataSet
        assert isinstance(dataset, IncomingDataset)  # noqa: S101 - receiver/dimse.py made it
        uid = loggable(str(request.AffectedSOPInstanceUID))
        with instance_context(uid, dataset.arrival.id if dataset.arrival else "-"):
            try:
                size = self._store(event, request, dataset, connection)
            except RefusedError as error:
                return self._refuse(error, connection, dataset)
            except Exception as error:  # noqa: BLE001 - a bug must not lose an image
                # 0xA700: the sender should keep its copy and try again, whatever is
                # wrong with the node. The message of the exception may quote the
                # dataset, so it is not logged.
                where = "\n".join(describe_exception(error))
                logger.error("Failed on %s: %s", uid, where)  # noqa: TRY400
                away = isinstance(error, SQLAlchemyError)
                reason = Refusal.DATABASE if away else Refusal.PROGRAM
                words = "The node failed; send again later."
                refusal = OutOfResourcesError(words, reason)
                return self._refuse(refusal, connection, dataset)
            finally:
                dataset.release()
            connection.dimse.operation_is_complete()
            seconds = time.monotonic() - dataset.began
            words = f"from {connection.calling_ae_title}, {size} bytes"
            log_step(logger, "received", words, seconds=seconds)
            self.count(observe(STAGE, seconds, "receive"))
        return SUCCESS

    def _refuse(
        self, error: RefusedError, connection: Connection, dataset: IncomingDataset
    ) -> Dataset:
        who = f"{connection.calling_ae_title} at {connection.address}"
        words = f"from {who}, {dataset.received} bytes: {error}"
        log_step(logger, "refused", words, level=logging.WARNING)
        self.count(increment(REFUSED, error.reason))
        return _failure(error)

    def _store(
        self,
        event: evt.Event,
        request: C_STORE,
        dataset: IncomingDataset,
        connection: Connection,
    ) -> int:
        """Make an instance durable, and record it. Return its size in bytes."""
        if dataset.refusal is not None:
            raise dataset.refusal
        if dataset.arrival is None:
            raise CannotUnderstandError("The C-STORE request has no dataset.")
        arrival = dataset.arrival
        header = self._read_header(event, request, arrival)
        arrival.keep()
        instance = ReceivedInstance(
            id=arrival.id,
            path=arrival.path,
            header=header,
            content_digest=arrival.digest,
            size=arrival.size,
            calling_ae_title=connection.calling_ae_title,
            calling_address=connection.address,
            received_at=datetime.now(UTC),
        )
        try:
            self.accept(instance)
        except RefusedError:
            arrival.discard()
            raise
        # After any other exception it is unknown whether the instance was recorded. The
        # file stays. The cleanup asks the journal, and removes the file if it was not
        # recorded.
        return arrival.size

    def _read_header(
        self, event: evt.Event, request: C_STORE, arrival: SpoolFile
    ) -> InstanceHeader:
        announced = NegotiatedIdentity(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            abstract_syntax=event.context.abstract_syntax,
            transfer_syntax=UID(event.context.transfer_syntax),
        )
        return read_header(
            arrival.path,
            arrival.offset,
            announced,
            inflated_limit=self.inflated_limit,
        )


def _failure(error: RefusedError) -> Dataset:
    response = Dataset()
    response.Status = error.status
    response.ErrorComment = _comment(str(error))
    return response


def _comment(words: str) -> str:
    """Cut a text to the length of an Error Comment, after a sentence if possible."""
    # Only the default character repertoire is allowed here (PS3.7 C.5.2).
    comment = words.encode("ascii", "replace").decode()
    while len(comment) > LONGEST_COMMENT and ". " in comment:
        comment = comment.rpartition(". ")[0] + "."
    return comment[:LONGEST_COMMENT]
