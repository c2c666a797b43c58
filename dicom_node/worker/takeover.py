"""Puts the work of dead workers back into the queue.

A worker is dead if it owns pending work and has sent no heartbeat for DEAD_AFTER_S
seconds, or if it shut down before its work was done. A worker that was only suspended
may continue later. Then two workers do the same work. The transactions of the journal
detect this, and the worker that finishes last records nothing (see journal/analyses.py
and journal/delivery_outcomes.py). If both workers deliver an object, the copies are
identical to the last byte.
"""

import logging

from dbos import DBOS, WorkflowStatus

from dicom_node.journal.work_queue import (
    WORKFLOWS,
    queue_of,
)
from dicom_node.storage.database import Engine, reading, try_lock
from dicom_node.storage.heartbeat_rows import DEAD_AFTER_S, alive_workers

logger = logging.getLogger(__name__)

# The number of an advisory lock that only this program uses. Without the lock, two
# workers could requeue the same work one after the other. If a third worker begins the
# work in between, the second requeue takes it from that worker. SQLite has no advisory
# locks, so this can happen with SQLite. It is accepted, because only a few workers of
# one machine use the database, and the cost is only a second analysis.
TAKEOVER_LOCK = 0x46524144


def requeue_stalled_work(engine: Engine, name: str) -> int:
    """Put the pending work of dead workers back into the queue.

    Args:
        engine: Engine of the journal.
        name: Name of the calling worker. Nothing is requeued until this worker has sent
            heartbeats for DEAD_AFTER_S seconds without a gap. Otherwise, after a
            failure of the database, this worker would consider all other workers dead.

    Returns:
        The number of work items that were requeued.
    """
    with reading(engine) as connection:
        alive = alive_workers(connection, "worker")
        if alive.get(name, 0.0) < DEAD_AFTER_S or not try_lock(
            connection, TAKEOVER_LOCK
        ):
            return 0
        stalled = [
            each for each in _pending_workflows() if each.executor_id not in alive
        ]
        for work in {each.name for each in stalled}:
            ids = [each.workflow_id for each in stalled if each.name == work]
            DBOS.resume_workflows(ids, queue_name=queue_of(work))
    if stalled:
        owners = ", ".join(sorted({each.executor_id or "unknown" for each in stalled}))
        logger.warning(
            "Requeued %s work items of stalled workers: %s", len(stalled), owners
        )
    return len(stalled)


def _pending_workflows() -> list[WorkflowStatus]:
    return DBOS.list_workflows(
        status="PENDING",
        name=[*WORKFLOWS],
        load_input=False,
        load_output=False,
    )
