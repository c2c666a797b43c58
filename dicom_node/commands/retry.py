"""Retries failed work: one instance, a destination's deliveries, or everything.

Deliveries that wait for their next attempt are tried at once. With `--uid`, an instance
that was not analyzed is analyzed, too. If its image was known under another identity,
it then gets results of its own.
"""

import sys
from argparse import Namespace
from typing import Any

import sqlalchemy as sa

from dicom_node.audit.event import AuditedInstance, AuditEvent, AuditEventType
from dicom_node.audit.trail import RecordEvent, auditing, os_user
from dicom_node.commands.named import named_or_exit
from dicom_node.journal.journal import Failed, Journal
from dicom_node.queries.history import History
from dicom_node.runtime.process import keep_files_private, load_or_exit, role_parser
from dicom_node.storage.migration import open_or_exit
from dicom_node.storage.tables import InstanceState


def main() -> None:
    """Queue the work again; a running worker starts it at once."""
    parser = role_parser("retry", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--uid", help="an instance, by its SOP Instance UID")
    what.add_argument("--destination", help="what failed or waits for a destination")
    what.add_argument("--all", action="store_true", help="all that failed or waits")
    given = parser.parse_args()
    keep_files_private()
    settings = load_or_exit(given.config)
    engine = open_or_exit(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    history = History(engine)
    named = [] if given.uid is None else named_or_exit(history, given.uid)
    with auditing(settings, engine, "retry") as tell:
        asked = _retry(history, journal, given, tell)
    if named and not asked:
        states = ", ".join(dict.fromkeys(row.state for row in named))
        sys.exit(f"Nothing of {given.uid} failed ({states}), so nothing is repeated.")
    sys.stdout.write(f"{asked.count(True)} asked for again\n")
    if gone := asked.count(False):
        sys.stdout.write(
            f"{gone} not: the files were removed, their time over ([retention] in the "
            "settings). Send the instance again.\n"
        )
    sys.exit(0 if asked and all(asked) else 1)


def _retry(
    history: History, journal: Journal, given: Namespace, tell: RecordEvent
) -> list[bool]:
    """Queue what failed or waits; return for each item whether that was possible."""
    named = [] if given.uid is None else history.by_uid(given.uid)
    uids = None if given.uid is None else {row.id for row in named}
    analyses = [
        each
        for each in history.failed_analyses()
        if not given.destination and (uids is None or each in uids)
    ]
    analyses += [each.id for each in named if _is_left_out(each)]
    failed = [Failed(*each) for each in history.failed_deliveries()]
    waiting = [Failed(*each, waiting=True) for each in history.waiting_deliveries()]
    deliveries = [
        each
        for each in (*failed, *waiting)
        if given.destination in (None, each.destination)
        and (uids is None or each.instance_id in uids)
    ]
    for instance_id in {*analyses, *(each.instance_id for each in deliveries)}:
        _tell(journal, instance_id, tell)
    return [journal.retry(each) for each in (*map(Failed, analyses), *deliveries)]


def _is_left_out(row: sa.Row[Any]) -> bool:
    """Return whether `failed_analyses` omits it: not analyzed, or files removed."""
    gone = row.state == InstanceState.FAILED and row.files_removed_at is not None
    return gone or row.state == InstanceState.NOT_ANALYZED


def _tell(journal: Journal, instance_id: str, tell: RecordEvent) -> None:
    row = journal.load(instance_id)
    if row is not None:
        uids = row.study_instance_uid, row.sop_class_uid, row.sop_instance_uid
        it = AuditedInstance(*uids)
        tell(AuditEvent(AuditEventType.ASKED_AGAIN, os_user(), instance=it))


if __name__ == "__main__":
    main()
