"""The clean-up that workers do: of work every minute, of files every hour.

Files that nobody recorded, work that ended in an error, work that is long done, and
counts that can be added up. At
its start, a worker also looks after what others left.
"""

import logging
from datetime import UTC, datetime, timedelta

from dbos import DBOS, WorkflowStatus

from dicom_node.analyses import Conclusion
from dicom_node.journal import Journal
from dicom_node.spool import Spool
from dicom_node.tables import InstanceState
from dicom_node.work import ANALYZE, DELIVER

logger = logging.getLogger(__name__)

ORPHAN_AFTER_S = 600.0
FORGET_AFTER = timedelta(hours=1)
BATCH = 1000
BROKEN = ["ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def sweep_files(journal: Journal, spool: Spool) -> None:
    """Remove files that nobody recorded. Looks at every file there is."""
    if orphans := spool.sweep(journal.known, older_than_s=ORPHAN_AFTER_S):
        logger.warning("Removed %s files that nobody recorded", orphans)


def sweep_work(journal: Journal) -> None:
    """Clear work that ended. Safe to be done by several workers at the same time."""
    broken = DBOS.list_workflows(
        status=BROKEN, limit=BATCH, load_input=False, load_output=False
    )
    for workflow in broken:
        _fail(journal, workflow)
    before = (datetime.now(UTC) - FORGET_AFTER).isoformat()
    done = DBOS.list_workflows(
        status="SUCCESS",
        completed_before=before,
        limit=BATCH,
        load_input=False,
        load_output=False,
    )
    DBOS.delete_workflows([each.workflow_id for each in (*broken, *done)])
    journal.add_up()
    if broken:
        logger.warning("%s work items had ended in an error", len(broken))


def take_over(machine: str, slots: int) -> None:
    """Take up what workers of a machine left whose slots are no more.

    Args:
        machine: As their names begin.
        slots: How many workers it has now.
    """
    for queue in (ANALYZE, DELIVER):
        pending = DBOS.list_workflows(status="PENDING", queue_name=queue)
        left = []
        for each in pending:
            owner, _, slot = (each.executor_id or "").rpartition(":")
            if owner == machine and int(slot) >= slots:
                left.append(each.workflow_id)
        DBOS.resume_workflows(left, queue_name=queue)


def _fail(journal: Journal, workflow: WorkflowStatus) -> None:
    """Have an instance show that work for it ended in an error of ours."""
    reason = "An error of this program; its log has the details. Retry when mended."
    # The id says it all, also where the arguments cannot be read: see work.py.
    match workflow.workflow_id.split(":"):
        case [_, instance_id, run]:
            failed = Conclusion(InstanceState.FAILED, reason)
            journal.analyses.conclude(instance_id, int(run), failed)
        case [_, instance_id, destination, run]:
            journal.settlement.give_up(instance_id, destination, int(run), reason)
