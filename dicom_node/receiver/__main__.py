"""The receiver: the process that runs the Storage SCP of the node.

The supervisor passes the listening sockets, which all receivers share, as file
descriptors: --fd N for plain connections, and --tls-fd N for TLS. Without these two
options, the receiver opens the sockets itself.
"""

import logging
from contextlib import suppress

from config.settings import ReceiverSettings
from dicom_node.audit.commitment_reports import auditing_refused
from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.audit.trail import RecordEvent, auditing
from dicom_node.audit.transfers import received_event
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.metrics.buffered import BufferedCounter
from dicom_node.metrics.counters import Count, ignore
from dicom_node.network.storage_commitment import (
    OnRefused,
    RecordReport,
    ignore_refusal,
)
from dicom_node.receiver.c_store import Accept
from dicom_node.receiver.ports import Listening, add_options, listening
from dicom_node.receiver.server import (
    DRAIN_S,
    OnAssociationRequest,
    ignore_callers,
    start_receiver,
)
from dicom_node.runtime.heartbeat import heartbeats
from dicom_node.runtime.process import (
    Stop,
    allow_many_threads,
    begin_role,
    load_or_exit,
    role_parser,
)
from dicom_node.runtime.work_signal import notify_workers
from dicom_node.storage.migration import open_or_exit
from dicom_node.storage.orphans import remove_partial_files
from dicom_node.storage.spool import Spool
from dicom_node.storage.storage_id import verify_storage_or_exit

logger = logging.getLogger(__name__)


def main() -> None:
    """Run a receiver until SIGTERM or SIGINT; see `run` for what happens then."""
    parser = role_parser("receiver", __doc__)
    add_options(parser)
    arguments = parser.parse_args()
    settings = load_or_exit(arguments.config)
    stop = begin_role("receiver", arguments.supervisor, settings.log.format)
    sockets = listening(arguments, settings)
    engine = open_or_exit(settings.storage.database_url)
    verify_storage_or_exit(engine, settings.storage)
    journal = Journal(
        engine,
        settings.storage.directory,
        settings.destinations,
        quiet_s=settings.exam.quiet_s,
    )
    spool = Spool(settings.storage)
    requests_commitment = any(each.commitment for each in settings.destinations)
    record_report = journal.commitments.record_report if requests_commitment else None
    by_hand = arguments.supervisor is None
    with (
        heartbeats(engine, "receiver"),
        BufferedCounter(engine) as count,
        auditing(settings, engine, "receiver", by_hand=by_hand) as record_event,
    ):
        accept = _instance_recorder(journal, spool, record_event)
        on_request = _association_auditor(record_event)
        run(
            *(settings.receiver, spool, accept, sockets, stop, on_request),
            record_report=record_report,
            on_refused=auditing_refused(record_event),
            count=count,
        )


def _instance_recorder(
    journal: Journal, spool: Spool, record_event: RecordEvent
) -> Accept:
    """Return a function that records an instance, and wakes the workers.

    The returned function records the instance in the journal and in the audit trail. If
    the same bytes are already stored, it removes the new file.
    """

    def accept(instance: ReceivedInstance) -> None:
        is_new = journal.record(instance)
        calling_ae_title = instance.calling_ae_title
        record_event(received_event(instance, calling_ae_title, again=not is_new))
        if not is_new:
            spool.remove(instance.id)  # the same bytes are already stored
        with suppress(OSError):  # the worker polls, too
            notify_workers(spool.run)

    return accept


def _association_auditor(record_event: RecordEvent) -> OnAssociationRequest:
    """Return a function that records accepted and rejected callers as audit events."""

    def on_request(calling_ae_title: str, address: str, reason: str) -> None:
        event_type = AuditEventType.REJECTED if reason else AuditEventType.OPENED
        record_event(AuditEvent(event_type, calling_ae_title, address, reason))

    return on_request


def run(  # noqa: PLR0913, PLR0917 - the parts of a receiver process
    settings: ReceiverSettings,
    spool: Spool,
    accept: Accept,
    sockets: Listening,
    stop: Stop,
    on_request: OnAssociationRequest = ignore_callers,
    *,
    record_report: RecordReport | None = None,
    on_refused: OnRefused = ignore_refusal,
    count: Count = ignore,
) -> None:
    """Serve until `stop` is set, then wait until open associations end.

    At the start, unfinished files of dead processes are removed. SIGTERM or SIGINT sets
    `stop`. Associations that are still open DRAIN_S seconds later are aborted. See
    `start_receiver` for the other arguments.
    """
    allow_many_threads()
    remove_partial_files(spool)
    stop.ready(DRAIN_S)
    receiver = start_receiver(
        *(settings, spool, accept, sockets, on_request),
        record_report=record_report,
        on_refused=on_refused,
        count=count,
    )
    logger.info("%s listens on port %d", settings.ae_title, receiver.port)
    stop.wait()
    logger.info("Waiting for open associations to end")
    if not receiver.drain(DRAIN_S):
        logger.warning("Associations still open after %.0f s were aborted", DRAIN_S)
    stop.drained()


if __name__ == "__main__":
    main()
