"""Removes files and rows of finished instances at the end of their retention period.

An instance is finished if no work remains for it. An instance that waits for its
analysis, a delivery or a storage commitment is not finished. An instance with a
delivery to a paused destination is not finished, either. The files are removed before
the rows. There are separate retention periods for the files of failed instances, the
files of other instances, and the rows. The rows of all revisions of a SOP Instance UID
are removed together, because one revision may depend on the results of another.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from config.settings import RetentionSettings
from dicom_node.journal.state_machine import delete_rows
from dicom_node.journal.states import (
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
)
from dicom_node.storage.database import writing
from dicom_node.storage.tables import (
    UNFINISHED_INSTANCE,
    DeliveryState,
    InstanceState,
    audit,
    commitment,
    delivered_object,
    delivery,
    echo,
    event,
    examination,
    feedback,
    finding,
    instance,
    patient,
    result,
)

DAY_S = 86400.0
# Number of instances that one transaction removes. SQLite allows one write at a time,
# and receivers wait for it. Between two batches, other processes can write.
BATCH = 50
PAUSE_S = 0.05
# After this many seconds, `delete_expired` starts no further batch. Workers call it
# once a minute, so the removal of a large number of instances takes several minutes.
LONGEST_S = 20.0


@dataclass(frozen=True, slots=True)
class Deleted:
    """The result of `delete_expired`.

    Attributes:
        files: Number of instances for which the files were removed.
        rows: Number of instances for which the rows were removed.
    """

    files: int
    rows: int


def delete_expired(
    engine: sa.Engine, directory: Path, periods: RetentionSettings
) -> Deleted:
    """Remove files and rows at the end of their retention period.

    Old events of the node, connection tests, audit records, and examinations without
    images are removed, too. After LONGEST_S seconds, the function returns soon, even if
    it has not removed everything. Several workers may call it at the same time.

    Args:
        engine: Engine of the journal.
        directory: The storage directory.
        periods: The retention periods.

    Returns:
        The numbers of instances for which files and rows were removed.

    Raises:
        OSError: A file cannot be removed.
    """
    until = time.monotonic() + LONGEST_S

    def repeated(batch: Callable[[sa.Connection], int]) -> int:
        done = 0
        while time.monotonic() < until:
            with writing(engine) as connection:
                count = batch(connection)
            done += count
            if count < BATCH:
                break
            time.sleep(PAUSE_S)
        return done

    # An instance that was not analyzed counts as failed, too, if the delivery of its
    # notice failed.
    undelivered = sa.exists().where(
        delivery.c.instance_id == instance.c.id,
        delivery.c.state == DeliveryState.FAILED,
    )
    failed = sa.or_(instance.c.state == InstanceState.FAILED, undelivered)
    succeeded = sa.and_(instance.c.state.not_in(UNFINISHED_INSTANCE), ~failed)
    files = repeated(lambda c: _files(c, directory, failed, periods.failed_days))
    files += repeated(lambda c: _files(c, directory, succeeded, periods.delivered_days))
    rows = repeated(lambda connection: _rows(connection, periods.journal_days))
    no_instance = event.c.instance_id.is_(None)
    repeated(lambda c: _old(c, event, no_instance, periods.journal_days))
    repeated(lambda connection: _examinations(connection, periods.journal_days))
    repeated(lambda c: _old(c, echo, sa.true(), periods.journal_days))
    repeated(lambda c: _old(c, audit, sa.true(), periods.audit_days))
    return Deleted(files, rows)


def _files(
    connection: sa.Connection,
    directory: Path,
    condition: sa.ColumnElement[bool],
    days: float,
) -> int:
    """Remove the files of a batch of instances; return the number of instances.

    The batch contains instances that match `condition`, and that ended more than `days`
    days ago. The files of their results are removed, too. The rows from which the study
    page draws their findings are deleted, and the time of the removal is recorded. The
    instances stay locked until the commit. Until then, no other process can restore a
    file or request an analysis. If the commit fails after the files were removed, the
    next call records the time.
    """
    query = (
        sa.select(instance.c.id, instance.c.path)
        .where(condition, _older_than(days), instance.c.files_removed_at.is_(None))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(query).all()
    ids = [row.id for row in found]
    results = sa.select(result.c.path).where(result.c.instance_id.in_(ids))
    for path in [row.path for row in found] + [*connection.execute(results).scalars()]:
        (directory / path).unlink(missing_ok=True)
    connection.execute(finding.delete().where(finding.c.instance_id.in_(ids)))
    removed = instance.update().where(instance.c.id.in_(ids))
    connection.execute(removed.values(files_removed_at=time.time()))
    return len(ids)


def _rows(connection: sa.Connection, days: float) -> int:
    """Remove the rows of a batch of SOP Instance UIDs; return the number of instances.

    A UID is selected only if the retention period of all its revisions has ended, and
    the files of all its revisions were removed.
    """
    is_due = sa.and_(_older_than(days), instance.c.files_removed_at.is_not(None))
    due = sa.select(instance.c.sop_instance_uid).where(is_due)
    other = instance.alias()
    stays = sa.or_(
        other.c.files_removed_at.is_(None), ~_older_than(days, other.c.ended_at)
    )
    same_uid = other.c.sop_instance_uid == instance.c.sop_instance_uid
    due = due.where(~sa.exists().where(same_uid, stays)).limit(BATCH)
    uids = connection.execute(due).scalars().all()
    query = sa.select(
        instance.c.id, instance.c.sop_instance_uid, is_due.label("is_due")
    ).where(instance.c.sop_instance_uid.in_(uids))
    found = connection.execute(query.with_for_update()).all()
    # Another revision may have been received just before the rows were locked.
    repeated = {row.sop_instance_uid for row in found if not row.is_due}
    return _delete_rows(
        connection, [row.id for row in found if row.sop_instance_uid not in repeated]
    )


def _delete_rows(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Remove all rows of some instances; return the number of instances.

    The rows of dependent tables are removed first.
    """
    for table in (commitment, result, event, patient, feedback, finding):
        connection.execute(table.delete().where(table.c.instance_id.in_(ids)))
    objects = delivered_object.c.instance_id.in_(ids)
    delete_rows(connection, ObjectTrigger.REMOVED, objects)
    deliveries = delivery.c.instance_id.in_(ids)
    delete_rows(connection, DeliveryTrigger.REMOVED, deliveries)
    return delete_rows(connection, InstanceTrigger.REMOVED, instance.c.id.in_(ids))


def _examinations(connection: sa.Connection, days: float) -> int:
    """Remove a batch of old examinations without images; return their number.

    If an image arrives at the same moment, its transaction has changed the time of the
    last receipt, so the examination stays.
    """
    is_empty = ~sa.exists().where(instance.c.examination_id == examination.c.id)
    is_old = _older_than(days, examination.c.last_received_at)
    some = sa.select(examination.c.id).where(is_empty, is_old).limit(BATCH)
    delete = examination.delete().where(examination.c.id.in_(some), is_empty, is_old)
    return connection.execute(delete).rowcount


def _old(
    connection: sa.Connection,
    table: sa.Table,
    condition: sa.ColumnElement[bool],
    days: float,
) -> int:
    """Remove a batch of rows of a table; return the number of removed rows.

    The rows match `condition` and are more than `days` days old. If `days` is 0, no row
    is removed.
    """
    some = (
        sa.select(table.c.id)
        .where(condition, _older_than(days, table.c.at))
        .limit(BATCH)
    )
    return connection.execute(table.delete().where(table.c.id.in_(some))).rowcount


def _older_than(
    days: float, since: sa.ColumnElement[float] = instance.c.ended_at
) -> sa.ColumnElement[bool]:
    """Return the SQL condition that `since` is more than `days` days ago.

    If `days` is 0, the condition is false: nothing is ever removed.
    """
    return since < time.time() - days * DAY_S if days else sa.false()
