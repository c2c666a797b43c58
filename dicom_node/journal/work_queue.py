"""Queues durable work in the transaction of the change that makes the work necessary.

DBOS runs the work (see worker/workflows.py). The id of a workflow contains a run
number. Each repetition has a new run number, because DBOS silently ignores work with an
id that was used before.
"""

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions

from config.destinations import Destination
from dicom_node.address import subscriber
from dicom_node.journal.fair_order import FairOrder
from dicom_node.storage.dbos_adapter import refuse_pickles, work_table
from dicom_node.storage.tables import instance

APPLICATION = "fracture-node"
# A constant, because DBOS's own default is a hash of the code. After an upgrade, work
# that was queued with the old hash would never run.
VERSION = "1"
ANALYZE = "analyze"
ANALYZE_SEPARATELY = "analyze-separately"
ANALYZE_SLOWLY = "analyze-slowly"
DELIVER = "deliver"
# An image that comes last in its lane has a number above LAST. A lane never has so many
# images. The largest number of DBOS is 2**31 - 1.
LAST = 2**30

refuse_pickles()


class WorkQueue:
    """Queues work inside a transaction of the caller."""

    def __init__(self, engine: sa.Engine, destinations: Sequence[Destination]) -> None:
        self._destinations = {each.name: each for each in destinations}
        # By the lane, and by the number that those of the order are above.
        self._orders = defaultdict[tuple[str, int], FairOrder](FairOrder)
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

        In each lane, the addresses that sent images take turns (see `FairOrder`). The
        analysis starts after at least `delay_s` seconds.
        """
        self._analyze_in(ANALYZE, connection, (instance_id, run), delay_s)

    def analyze_separately(
        self,
        connection: sa.Connection,
        instance_id: str,
        run: int,
        *,
        comes_last: bool = False,
    ) -> None:
        """Queue the analysis of an instance in the separate lane.

        If `comes_last` is true, the analysis starts after all analyses of the lane for
        which it is false.
        """
        arguments = instance_id, run, comes_last
        self._analyze_in(ANALYZE_SEPARATELY, connection, arguments)

    def analyze_slowly(
        self, connection: sa.Connection, instance_id: str, run: int
    ) -> None:
        """Queue the analysis of an instance in the slow lane."""
        self._analyze_in(ANALYZE_SLOWLY, connection, (instance_id, run))

    def _analyze_in(
        self,
        lane: str,
        connection: sa.Connection,
        arguments: tuple[str, int] | tuple[str, int, bool],
        delay_s: float = 0,
    ) -> None:
        """Queue an analysis in a lane.

        Args:
            lane: The queue.
            connection: Connection in a transaction.
            arguments: The arguments of the workflow: the id of the instance, the run,
                and in the separate lane whether the instance comes last.
            delay_s: Minimum seconds until the analysis starts.
        """
        instance_id, run, *rest = arguments
        prefix, above = (f"{lane}-last", LAST) if True in rest else (lane, 0)
        options = _options(lane, f"{prefix}:{instance_id}:{run}", delay_s)
        options["priority"] = self._number(lane, connection, instance_id, above)
        self._client.enqueue_in_transaction(connection, options, *arguments)

    def _number(
        self, lane: str, connection: sa.Connection, instance_id: str, above: int
    ) -> int:
        """Return the priority of an image in a lane. The lowest number comes first.

        If `above` is LAST, the image comes last in the lane; otherwise it is 0. The
        result is larger than `above`.
        """
        lowest = lowest_number(connection.dialect, lane, above).scalar_subquery()
        query = sa.select(instance.c.calling_address, lowest)
        query = query.where(instance.c.id == instance_id)
        address, number = connection.execute(query).one()
        order = self._orders[lane, above]
        key = subscriber(address or "")
        return above + order.number(key, None if number is None else number - above)

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
        """Return the name of the peer that a delivery goes to (see `peer_for`).

        Each peer has its own partition of the queue, so that a peer that hangs does not
        delay deliveries to other peers. If the settings no longer contain the
        destination, its name is returned.
        """
        found = self._destinations.get(destination)
        if found is None or not found.returns_to_sender:
            return destination
        query = sa.select(instance.c.calling_ae_title)
        query = query.where(instance.c.id == instance_id)
        return found.peer_for(connection.execute(query).scalar_one())


def lowest_number(
    dialect: sa.Dialect, lane: str, above: int = 0
) -> sa.Select[int | None]:
    """Return a query for the lowest number of the images that wait in a lane.

    If `above` is LAST, only images that come last count; if it is 0, only the others.
    """
    work = work_table(dialect)
    query = sa.select(sa.func.min(work.c.priority))
    query = query.where(work.c.priority.between(above + 1, above + LAST))
    query = query.where(work.c.queue_name == lane, work.c.status == "ENQUEUED")
    # SQLite uses the partial index of DBOS only if it finds the index's condition.
    return query.where(sa.text("status IN ('ENQUEUED', 'PENDING')"))


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
