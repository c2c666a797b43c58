"""Whose worker is dead: what it had under way goes back to the queue, for the others.

Dead is who holds work and has given no sign of life for DEAD_AFTER_S, or has none left,
since it ended before its work did. One that only slept may wake up and finish: the
journal's transactions see that its work has been done, or do it, and leave the second
with nothing to record (see analyses.py and settlement.py). What it delivered meanwhile
is the same object to the last byte.
"""

import logging

import sqlalchemy as sa
from dbos import DBOS, WorkflowStatus

from dicom_node.database import reading
from dicom_node.heartbeat import DEAD_AFTER_S, living
from dicom_node.work import ANALYZE, ANALYZE_SLOWLY, DELIVER

logger = logging.getLogger(__name__)

TAKING_OVER = 0x46524144  # an advisory lock's number, ours alone


def take_over(engine: sa.Engine, name: str) -> int:
    """Give what dead workers had under way back to the queue.

    Args:
        engine: Of the journal.
        name: Of the worker that asks. It may judge once it has itself given signs of
            life for DEAD_AFTER_S without a gap: whoever was cut off, or comes back
            together with the database, would find all others dead.

    Returns:
        How many work items that were.
    """
    with reading(engine) as connection:
        alive = living(connection, "worker")
        if alive.get(name, 0.0) < DEAD_AFTER_S or not _one_at_a_time(connection):
            return 0
        left = [each for each in _under_way() if each.executor_id not in alive]
        for queue in {each.name for each in left}:
            ids = [each.workflow_id for each in left if each.name == queue]
            DBOS.resume_workflows(ids, queue_name=queue)
    if left:
        owners = ", ".join(sorted({each.executor_id or "nobody" for each in left}))
        logger.warning("Took over %s work items that %s left", len(left), owners)
    return len(left)


def _under_way() -> list[WorkflowStatus]:
    return DBOS.list_workflows(
        status="PENDING",
        name=[ANALYZE, ANALYZE_SLOWLY, DELIVER],
        load_input=False,
        load_output=False,
    )


def _one_at_a_time(connection: sa.Connection) -> bool:
    """Tell whether nobody else is at it; until the transaction ends, nobody will be.

    Of two at a time, one would take work from whoever was just given it by the other.
    """
    if connection.dialect.name == "sqlite":
        return True  # the few workers of one machine; it costs a second analysis
    lock = sa.select(sa.func.pg_try_advisory_xact_lock(TAKING_OVER))
    return bool(connection.execute(lock).scalar_one())
