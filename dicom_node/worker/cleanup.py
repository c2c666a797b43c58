"""The cleanup that workers do: orphans every hour, everything else every minute.

The cleanup removes orphans, work that ended in an error, work that succeeded more than
KEEP_FINISHED ago, and data at the end of their retention period. It also merges the
rows of counters.
"""

import logging
import time
from datetime import UTC, datetime, timedelta

from dbos import DBOS, WorkflowStatus

from config.settings import Settings
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.examinations import BATCH as ASSIGNED
from dicom_node.journal.journal import Journal
from dicom_node.journal.retention import LONGEST_S, PAUSE_S, delete_expired
from dicom_node.journal.work_queue import SUMMARIZE
from dicom_node.storage.database import Engine
from dicom_node.storage.orphans import remove_orphans
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import InstanceState

logger = logging.getLogger(__name__)

# A file exists for a moment before the journal records it.
ORPHAN_AFTER_S = 600.0
KEEP_FINISHED = timedelta(hours=1)
BATCH = 1000
CLOCK_NOISE_S = 2.0
BROKEN = ["ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def remove_files(journal: Journal, spool: Spool) -> None:
    """Remove files of instances and results that the journal does not need.

    Finished files are kept for at least ORPHAN_AFTER_S seconds. Unfinished files of
    dead processes are removed at once.
    """
    orphans = remove_orphans(
        spool,
        journal.stored_instances,
        journal.needed_result_files,
        older_than_s=ORPHAN_AFTER_S,
    )
    if orphans:
        logger.warning("Removed %s files that the journal does not record", orphans)


def delete_expired_instances(engine: Engine, settings: Settings) -> None:
    """Remove files and rows at the end of their retention period: see `delete_expired`.

    After about LONGEST_S seconds, the function returns even if files or rows are left.
    """
    removed = delete_expired(engine, settings.storage.directory, settings.retention)
    if removed.files or removed.rows:
        logger.info(
            "Retention: removed the files of %s instances and the rows of %s instances",
            removed.files,
            removed.rows,
        )


def delete_finished_workflows(journal: Journal) -> None:
    """Delete finished work from the queue, and record failures in the journal.

    If work ended in an error, its analysis, summary or delivery is recorded as failed.
    Work that succeeded is kept for KEEP_FINISHED. One call deletes at most BATCH work
    items that failed and BATCH that succeeded. The function also merges the rows of
    each counter if there are many. Several workers may call it at the same time.
    """
    broken = DBOS.list_workflows(
        status=BROKEN, limit=BATCH, load_input=False, load_output=False
    )
    for workflow in broken:
        _fail(journal, workflow)
    before = (datetime.now(UTC) - KEEP_FINISHED).isoformat()
    done = DBOS.list_workflows(
        status="SUCCESS",
        completed_before=before,
        limit=BATCH,
        load_input=False,
        load_output=False,
    )
    DBOS.delete_workflows([each.workflow_id for each in (*broken, *done)])
    journal.compact_counters()
    if broken:
        logger.warning("%s work items ended in an error", len(broken))


def assign_examinations(journal: Journal) -> None:
    """Assign images without an examination to their examinations.

    A previous release has recorded these images. After about LONGEST_S seconds, the
    function returns even if images are left.
    """
    until = time.monotonic() + LONGEST_S
    while journal.examinations.assign_missing() == ASSIGNED and (
        time.monotonic() < until
    ):
        time.sleep(PAUSE_S)  # other processes write


def release_future_workflows_after_clock_change() -> None:
    """Release delayed work that would wait too long because the clock was set back.

    If work has a time of creation in the future, the clock was set back after the work
    was queued. The work would wait longer than intended. It is released at once,
    because an early attempt does no harm.
    """
    delayed = DBOS.list_workflows(  # the newest first
        status="DELAYED",
        limit=BATCH,
        sort_desc=True,
        load_input=False,
        load_output=False,
    )
    late = (time.time() + CLOCK_NOISE_S) * 1000
    early = [each for each in delayed if (each.created_at or 0) > late]
    for each in early:
        DBOS.set_workflow_delay(each.workflow_id, delay_seconds=0)
    if early:
        logger.warning(
            "The clock was set back. %s delayed work items were released.", len(early)
        )


def _fail(journal: Journal, workflow: WorkflowStatus) -> None:
    """Record that an analysis, a summary or a delivery failed.

    The recorded reason is an error of this program.

    Args:
        journal: The journal.
        workflow: The work that ended in an error.
    """
    reason = (
        "An error of this program. The log of the worker has the details. Retry after "
        "the error is fixed."
    )
    # The id is enough, even if the arguments cannot be read: see journal/work_queue.py.
    match workflow.workflow_id.split(":"):
        case [work, examination_id, run] if work == SUMMARIZE:
            journal.summaries.fail(examination_id, int(run), reason)
        case [_, instance_id, run]:
            failed = Conclusion(InstanceState.FAILED, reason)
            journal.analyses.conclude(instance_id, int(run), failed)
        case [_, instance_id, destination, run]:
            journal.delivery_outcomes.fail_permanently(
                instance_id, destination, int(run), reason
            )
