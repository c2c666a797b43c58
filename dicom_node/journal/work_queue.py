"""Queues durable work in the same transaction that records the reason for it.

DBOS runs the work (see worker/workflows.py). The id of a workflow contains a run
number. Each repetition has a new run number, because DBOS silently ignores work with an
id that was used before.
"""

from collections.abc import Sequence
from typing import NoReturn

import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions
from dbos._serialization import DefaultSerializer

from config.destinations import Destination, SenderDestination
from dicom_node.storage.tables import instance

APPLICATION = "fracture-node"
# A constant, because DBOS's own default is a hash of the code. After an upgrade, work
# that was queued with the old hash would never run.
VERSION = "1"
ANALYZE = "analyze"
ANALYZE_SEPARATELY = "analyze-separately"
ANALYZE_SLOWLY = "analyze-slowly"
DELIVER = "deliver"


class PickleRefusedError(Exception):
    """A row of DBOS's tables declares its values as pickles, not as JSON."""

    def __init__(self) -> None:
        super().__init__("A value in the database is a pickle. Only JSON is loaded.")


def _refuse_pickle(_serializer: DefaultSerializer, _text: str) -> NoReturn:
    raise PickleRefusedError


# Each row names the serializer of its values. DBOS uses that serializer, even if its
# client is created with another one. Loading a pickle can run code, so anybody who can
# write a row could run code here.
DefaultSerializer.deserialize = _refuse_pickle  # type: ignore[assignment, method-assign]


class WorkQueue:
    """Queues work inside a transaction of the caller."""

    def __init__(self, engine: sa.Engine, destinations: Sequence[Destination]) -> None:
        self._to_senders = {
            each.name for each in destinations if isinstance(each, SenderDestination)
        }
        self._client = DBOSClient(
            system_database_engine=engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
            lazy=True,
        )

    def analyze(
        self, connection: sa.Connection, instance_id: str, run: int, delay_s: float = 0
    ) -> None:
        """Queue the analysis of an instance in the normal lane.

        The analysis starts after at least `delay_s` seconds.
        """
        options = _options(ANALYZE, f"{ANALYZE}:{instance_id}:{run}", delay_s)
        self._client.enqueue_in_transaction(connection, options, instance_id, run)

    def analyze_separately(
        self, connection: sa.Connection, instance_id: str, run: int, number: int
    ) -> None:
        """Queue the analysis of an instance in the separate lane.

        Analyses with a lower number are run first.
        """
        lane = ANALYZE_SEPARATELY
        options = _options(lane, f"{lane}:{instance_id}:{run}", 0)
        options["priority"] = number
        self._client.enqueue_in_transaction(
            connection, options, instance_id, run, number
        )

    def analyze_slowly(
        self, connection: sa.Connection, instance_id: str, run: int
    ) -> None:
        """Queue the analysis of an instance in the slow lane."""
        options = _options(ANALYZE_SLOWLY, f"{ANALYZE_SLOWLY}:{instance_id}:{run}", 0)
        self._client.enqueue_in_transaction(connection, options, instance_id, run)

    def deliver(
        self,
        connection: sa.Connection,
        delivery: tuple[str, str],
        run: int,
        delay_s: float = 0,
    ) -> None:
        """Queue a run of a delivery.

        Args:
            connection: Connection in a transaction.
            delivery: Instance id and destination of the delivery.
            run: Number of the run.
            delay_s: Seconds to wait before the run.
        """
        instance_id, destination = delivery
        identity = f"{DELIVER}:{instance_id}:{destination}:{run}"
        options = _options(DELIVER, identity, delay_s)
        options["queue_partition_key"] = self.peer(connection, *delivery)
        self._client.enqueue_in_transaction(
            connection, options, instance_id, destination, run
        )

    def peer(
        self, connection: sa.Connection, instance_id: str, destination: str
    ) -> str:
        """Return the name of the peer that a delivery goes to.

        It is the name of the destination. If the destination is of `type = "sender"`, a
        colon and the AE title of the sender follow. Each peer has its own partition of
        the queue, so that a peer that hangs does not delay deliveries to other peers.
        """
        if destination not in self._to_senders:
            return destination
        query = sa.select(instance.c.calling_ae_title)
        query = query.where(instance.c.id == instance_id)
        return f"{destination}:{connection.execute(query).scalar_one()}"


def _options(name: str, workflow_id: str, delay_s: float) -> EnqueueOptions:
    options = EnqueueOptions(
        workflow_name=name,
        queue_name=name,
        workflow_id=workflow_id,
        app_version=VERSION,
    )
    if delay_s > 0:
        options["delay_seconds"] = delay_s
    return options
