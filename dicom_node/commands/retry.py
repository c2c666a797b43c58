"""Retries failed work: one instance, a destination's deliveries, or everything.

Deliveries that wait for their next attempt are tried at once. With `--uid`, an instance
that was not analyzed is screened and analyzed again, even if another revision with the
same picture has a result.
"""

import sys
from argparse import Namespace

from dicom_node.audit.event import AuditedInstance, AuditEvent, AuditEventType
from dicom_node.audit.trail import RecordEvent, auditing, os_user
from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.commands.revisions import revisions_or_exit
from dicom_node.journal.journal import Failed, Journal
from dicom_node.queries.history import History
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.migration import open_or_exit
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.tables import InstanceState


def main() -> None:
    """Queue the selected work again; a worker takes it from the queue.

    The exit status is 0 if there was work and all of it was queued. Otherwise it is 1,
    or 2 if the settings are invalid or the database cannot be used. Failures that
    cannot be retried, because their files were removed, are not work: they are only
    counted in the output.
    """
    parser = role_parser("retry", __doc__)
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--uid", help="SOP Instance UID of the instance to retry")
    work.add_argument(
        "--destination", help="retry failed and waiting deliveries to a destination"
    )
    work.add_argument(
        "--all", action="store_true", help="retry all failed and waiting work"
    )
    arguments = parser.parse_args()
    keep_files_private()
    settings = node_settings_or_exit(arguments.config)
    engine = open_or_exit(settings.storage.database_url)
    journal = Journal(
        engine,
        settings.storage.directory,
        settings.destinations,
        quiet_s=settings.exam.quiet_s,
    )
    history = History(engine)
    revisions = (
        [] if arguments.uid is None else revisions_or_exit(history, arguments.uid)
    )
    with auditing(settings, engine, "retry") as audit:
        queued = _retry(history, journal, arguments, audit)
    removed = queued.count(False) + _failures_without_files(history, arguments)
    if revisions and not queued and not removed:
        states = ", ".join(dict.fromkeys(row.state for row in revisions))
        sys.exit(
            f"No analysis or delivery of {arguments.uid} failed ({states}). "
            "Nothing is retried."
        )
    sys.stdout.write(f"{queued.count(True)} queued again\n")
    if removed:
        sys.stdout.write(
            f"{removed} not queued: the files were removed after their retention time "
            "([retention] in the settings). Send the instance again.\n"
        )
    sys.exit(0 if queued and all(queued) else 1)


def _retry(
    history: History, journal: Journal, arguments: Namespace, audit: RecordEvent
) -> list[bool]:
    """Queue the work that the command line selects.

    The request is recorded in the audit trail, once for each instance.

    Returns:
        For each analysis or delivery, whether it was queued. A waiting delivery is
        omitted if it no longer waits, for example because an attempt is being made.
    """
    revisions = [] if arguments.uid is None else history.by_uid(arguments.uid)
    uids = None if arguments.uid is None else {row.id for row in revisions}
    analyses = [
        each
        for each in history.failed_analyses()
        if not arguments.destination and (uids is None or each in uids)
    ]
    analyses += [each.id for each in revisions if _is_omitted(each)]
    failed = [Failed(*each) for each in history.failed_deliveries()]
    waiting = [Failed(*each, waiting=True) for each in history.waiting_deliveries()]
    deliveries = [
        each
        for each in (*failed, *waiting)
        if arguments.destination in (None, each.destination)
        and (uids is None or each.instance_id in uids)
    ]
    for instance_id in {*analyses, *(each.instance_id for each in deliveries)}:
        _audit(journal, instance_id, audit)
    tried = [*map(Failed, analyses), *deliveries]
    queued = [(each, journal.retry(each)) for each in tried]
    return [is_queued for each, is_queued in queued if is_queued or not each.waiting]


def _failures_without_files(history: History, arguments: Namespace) -> int:
    """Return how many selected failures `_retry` omits because the files were removed.

    With `--uid`, `_retry` omits only those of summaries.
    """
    failures = history.failures_without_files()
    if arguments.uid is not None:
        named = {row.id for row in history.by_uid(arguments.uid) if row.is_summary}
        failures = [each for each in failures if each[0] in named]
    if arguments.destination is not None:
        failures = [each for each in failures if each[1] == arguments.destination]
    return len(failures)


def _is_omitted(row: InstanceRecord) -> bool:
    """Return whether `failed_analyses` omits an instance that `--uid` retries.

    Such an instance was not analyzed, or its analysis failed and its files were
    removed. The result is False for a summary of an examination, because its state
    follows from the images.
    """
    if row.is_summary:
        return False
    removed = row.state == InstanceState.FAILED and row.files_removed_at is not None
    return removed or row.state == InstanceState.NOT_ANALYZED


def _audit(journal: Journal, instance_id: str, audit: RecordEvent) -> None:
    row = journal.load(instance_id)
    if row is not None:
        uids = row.study_instance_uid, row.sop_class_uid, row.sop_instance_uid
        it = AuditedInstance(*uids)
        audit(AuditEvent(AuditEventType.ASKED_AGAIN, os_user(), instance=it))


if __name__ == "__main__":
    main()
