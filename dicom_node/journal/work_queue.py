"""Queues durable work in a transaction of the caller.

So the change that makes the work necessary is committed together with the work. DBOS
runs the work (see worker/workflows.py). The id of a workflow contains the number of the
run. Each retry has a new number, because DBOS silently ignores work with an id that was
used before.
"""

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions

from config.destinations import Destination
from dicom_node.address import subscriber
from dicom_node.journal.fair_order import FairOrder
from dicom_node.storage.database import reading
from dicom_node.storage.dbos_adapter import refuse_pickles, work_table
from dicom_node.storage.tables import instance

APPLICATION = "fracture-node"
# A constant, because DBOS's own default is a hash of the code. After an upgrade, work
# that was queued with the old hash would never run.
VERSION = "1"
ANALYZE = "analyze"
ANALYZE_SEPARATELY = "analyze-separately"
# The workflow for images that come last in the separate lane. It is in the queue
# ANALYZE_SEPARATELY, and starts after all other work in that queue.
ANALYZE_LAST = "analyze-separately-last"
ANALYZE_SLOWLY = "analyze-slowly"
DELIVER = "deliver"
SUMMARIZE = "summarize"
QUEUES = (ANALYZE, ANALYZE_SEPARATELY, ANALYZE_SLOWLY, DELIVER, SUMMARIZE)
WORKFLOWS = (*QUEUES, ANALYZE_LAST)
# Images that come last in the separate lane have priorities above LAST. The priorities
# of all other images are lower, because no lane has so many images. The largest
# priority of DBOS is 2**31 - 1.
LAST = 2**30

refuse_pickles()


class WorkQueue:
    """A client of DBOS that queues work in a transaction of the caller."""

    def __init__(self, engine: sa.Engine, destinations: Sequence[Destination]) -> None:
        self._destinations = {each.name: each for each in destinations}
        self._orders = defaultdict[str, FairOrder](FairOrder)
        self._client = DBOSClient(
            system_database_engine=engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
            lazy=True,
        )

    def analyze(
        self,
        connection: sa.Connection,
        instance_id: str,
        run: int,
        lane: str,
        delay_s: float,
    ) -> None:
        """Queue the analysis of an instance in a lane.

        In each lane, the addresses that sent images take turns (see `FairOrder`).

        Args:
            connection: Connection in a transaction.
            instance_id: Id of the instance.
            run: Run of the analysis.
            lane: ANALYZE, ANALYZE_SEPARATELY, ANALYZE_SLOWLY, or ANALYZE_LAST for the
                end of the separate lane.
            delay_s: Seconds to wait before the analysis.
        """
        options = _options(lane, _analysis_id(lane, instance_id, run), delay_s)
        options["priority"] = self._number(lane, connection, instance_id, run)
        self._client.enqueue_in_transaction(connection, options, instance_id, run)

    def _number(
        self, lane: str, connection: sa.Connection, instance_id: str, run: int
    ) -> int:
        """Return the priority of a new image in a lane, and remember it.

        Lower numbers come first.
        """
        above = LAST if lane == ANALYZE_LAST else 0
        lowest = lowest_number(connection.dialect, lane).scalar_subquery()
        query = sa.select(instance.c.calling_address, lowest)
        query = query.where(instance.c.id == instance_id)
        address, number = connection.execute(query).one()
        order, key = self._orders[lane], subscriber(address or "")
        work = _analysis_id(lane, instance_id, run)
        if number is None:
            return above + order.number(key, None, work)
        last = order.last_above(key, number - above)
        if last and _waits_no_more(connection, last):
            order.forget(key, last)
        return above + order.number(key, number - above, work)

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

    def summarize(
        self, connection: sa.Connection, examination_id: str, run: int, delay_s: float
    ) -> None:
        """Queue the summary of an examination.

        Args:
            connection: Connection in a transaction.
            examination_id: Id of the examination.
            run: Run of the summary.
            delay_s: Seconds to wait before the run.
        """
        options = _options(SUMMARIZE, f"{SUMMARIZE}:{examination_id}:{run}", delay_s)
        self._client.enqueue_in_transaction(connection, options, examination_id, run)

    def peer(
        self, connection: sa.Connection, instance_id: str, destination: str
    ) -> str:
        """Return the name of the peer of a delivery (see `Destination.peer_for`).

        Each peer has its own partition of the queue, so that a peer that hangs does not
        delay deliveries to other peers. If the settings no longer contain the
        destination, the name of the destination is returned.
        """
        found = self._destinations.get(destination)
        if found is None or not found.returns_to_sender:
            return destination
        query = sa.select(instance.c.calling_ae_title)
        query = query.where(instance.c.id == instance_id)
        return found.peer_for(connection.execute(query).scalar_one())


def lowest_number(dialect: sa.Dialect, lane: str) -> sa.Select[int | None]:
    """Return a query for the lowest priority number of the images that wait in a lane.

    The image with the lowest number is the next. If `lane` is ANALYZE_LAST, only the
    images that come last in the separate lane count. If `lane` is ANALYZE_SEPARATELY,
    only the other images of the separate lane count. The result of the query is NULL if
    no image waits.
    """
    work = work_table(dialect)
    comes_last = work.c.priority > LAST
    return sa.select(sa.func.min(work.c.priority)).where(
        work.c.queue_name == queue_of(lane),
        comes_last if lane == ANALYZE_LAST else ~comes_last,
        *_is_enqueued(work),
    )


def _waits_no_more(connection: sa.Connection, analysis_id: str) -> bool:
    """Return whether an analysis has been taken from the queue.

    The return value is False if the transaction that queued the first analysis of an
    instance is not committed yet.
    """
    work = work_table(connection.dialect)
    waits = sa.exists().where(
        work.c.workflow_uuid == analysis_id, work.c.status.in_(["ENQUEUED", "DELAYED"])
    )
    _, instance_id, _ = analysis_id.split(":")
    query = sa.select(instance.c.id).where(instance.c.id == instance_id, ~waits)
    return connection.execute(query).first() is not None


def queues_with_work(engine: sa.Engine) -> set[str]:
    """Return the names of the queues in QUEUES in which work waits."""
    query = sa.select(*(has_work(engine.dialect, each) for each in QUEUES))
    with reading(engine) as connection:
        found = connection.execute(query).one()
    return {queue for queue, has in zip(QUEUES, found, strict=True) if has}


def has_work(dialect: sa.Dialect, queue: str) -> sa.ColumnElement[bool]:
    """Return the SQL condition that work waits in a queue."""
    work = work_table(dialect)
    # The index contains the selected column, so SQLite does not read the table.
    waiting = sa.exists(work.c.queue_name)
    return waiting.where(work.c.queue_name == queue, *_is_enqueued(work))


def _is_enqueued(
    work: sa.TableClause,
) -> tuple[sa.ColumnElement[bool], sa.TextClause]:
    # SQLite uses the partial index of DBOS only if it finds the index's condition.
    is_in_index = sa.text("status IN ('ENQUEUED', 'PENDING')")
    return work.c.status == "ENQUEUED", is_in_index


def queue_of(work: str) -> str:
    """Return the name of the queue for the workflow with the name `work`."""
    return ANALYZE_SEPARATELY if work == ANALYZE_LAST else work


def _analysis_id(lane: str, instance_id: str, run: int) -> str:
    return f"{lane}:{instance_id}:{run}"


def _options(name: str, workflow_id: str, delay_s: float) -> EnqueueOptions:
    options = EnqueueOptions(
        workflow_name=name,
        queue_name=queue_of(name),
        workflow_id=workflow_id,
        app_version=VERSION,
    )
    if delay_s > 0:
        options["delay_seconds"] = delay_s
    return options
