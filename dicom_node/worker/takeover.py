"""Puts the work of dead workers back into the queue.

A worker is dead if it owns pending work and has sent no heartbeat for DEAD_AFTER_S, or
if it shut down before its work was done. A worker that was only suspended may continue
later, so that two workers do the same work. The transactions of the journal detect
this, and the worker that finishes last records nothing (see journal/analyses.py and
journal/delivery_outcomes.py). If both deliver an object, the copies are identical to
the last byte.
"""

import logging

import sqlalchemy as sa
from dbos import DBOS, WorkflowStatus

from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    DELIVER,
)
from dicom_node.runtime.heartbeat import DEAD_AFTER_S, alive_workers
from dicom_node.storage.database import reading

logger = logging.getLogger(__name__)

TAKEOVER_LOCK = 0x46524144  # the number of an advisory lock that only this program uses


def requeue_stalled_work(engine: sa.Engine, name: str) -> int:
    """Put the pending work of dead workers back into the queue.

    Args:
        engine: Engine of the journal.
        name: Name of the calling worker. Nothing is requeued until this worker has sent
            heartbeats for DEAD_AFTER_S without a gap. Otherwise it would consider all
            other workers dead after the database was unavailable.

    Returns:
        The number of work items that were requeued.
    """
    with reading(engine) as connection:
        alive = alive_workers(connection, "worker")
        if alive.get(name, 0.0) < DEAD_AFTER_S or not _try_lock(connection):
            return 0
        stalled = [
            each for each in _pending_workflows() if each.executor_id not in alive
        ]
        for queue in {each.name for each in stalled}:
            ids = [each.workflow_id for each in stalled if each.name == queue]
            DBOS.resume_workflows(ids, queue_name=queue)
    if stalled:
        owners = ", ".join(sorted({each.executor_id or "unknown" for each in stalled}))
        logger.warning(
            "Requeued %s work items of stalled workers: %s", len(stalled), owners
        )
    return len(stalled)


def _pending_workflows() -> list[WorkflowStatus]:
    return DBOS.list_workflows(
        status="PENDING",
        name=[ANALYZE, ANALYZE_SEPARATELY, ANALYZE_SLOWLY, DELIVER],
        load_input=False,
        load_output=False,
    )


def _try_lock(connection: sa.Connection) -> bool:
    """Take a lock until the transaction ends; return whether the lock was free.

    Without the lock, two workers could requeue the same work one after the other. The
    second requeue could take the work from a worker that began it after the first one.
    """
    if connection.dialect.name == "sqlite":
        return True  # few workers on one machine; the cost is a second analysis
    lock = sa.select(sa.func.pg_try_advisory_xact_lock(TAKEOVER_LOCK))
    return bool(connection.execute(lock).scalar_one())
