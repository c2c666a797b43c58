"""The receiver: the process that runs the Storage SCP of the node.

The supervisor starts it as `python -P -m dicom_node.receiver --config FILE --fd N`. N
is the listening socket that all receivers share, and --tls-fd N is the one for TLS.
Without these options, the receiver opens the sockets itself.
"""

import logging
from contextlib import suppress

from config.settings import ReceiverSettings
from dicom_node.audit.commitment_reports import auditing_refused
from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.audit.trail import Tell, auditing
from dicom_node.audit.transfers import received_event
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.journal import Journal
from dicom_node.metrics.buffered import BufferedCounter
from dicom_node.metrics.counters import Count, ignore
from dicom_node.network.storage_commitment import OnRefused, Settle, ignore_refusal
from dicom_node.receiver.c_store import Accept
from dicom_node.receiver.listener import Listening
from dicom_node.receiver.ports import add_options, listening
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
    """Run a receiver until SIGTERM. Associations that are open then may finish."""
    parser = role_parser("receiver", __doc__)
    add_options(parser)
    given = parser.parse_args()
    settings = load_or_exit(given.config)
    stop = begin_role("receiver", given.supervisor, settings.log.format)
    where = settings.receiver
    sockets = listening(given, settings)
    engine = open_or_exit(settings.storage.database_url)
    verify_storage_or_exit(engine, settings.storage)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    spool = Spool(settings.storage)
    asks = any(each.commitment for each in settings.destinations)
    settle = journal.commitments.record_report if asks else None
    by_hand = given.supervisor is None
    with (
        heartbeats(engine, "receiver"),
        BufferedCounter(engine) as count,
        auditing(settings, engine, "receiver", by_hand=by_hand) as tell,
    ):
        accept, asked = (
            _instance_recorder(journal, spool, tell),
            _association_auditor(tell),
        )
        run(
            *(where, spool, accept, sockets, stop, asked),
            settle=settle,
            on_refused=auditing_refused(tell),
            count=count,
        )


def _instance_recorder(journal: Journal, spool: Spool, tell: Tell) -> Accept:
    """Return a function that records an instance and wakes the worker."""

    def accept(instance: ReceivedInstance) -> None:
        is_kept = journal.record(instance)
        tell(received_event(instance, instance.calling_ae_title, again=not is_kept))
        if not is_kept:
            spool.remove(instance.id)  # the same bytes are already stored
        with suppress(OSError):  # the worker polls, too
            notify_workers(spool.run)

    return accept


def _association_auditor(tell: Tell) -> OnAssociationRequest:
    """Return a function that records callers in the audit trail."""

    def asked(calling_ae_title: str, address: str, reason: str) -> None:
        what = AuditEventType.REJECTED if reason else AuditEventType.OPENED
        tell(AuditEvent(what, calling_ae_title, address, reason))

    return asked


def run(  # noqa: PLR0913, PLR0917 - the parts of a receiver process
    settings: ReceiverSettings,
    spool: Spool,
    accept: Accept,
    sockets: Listening,
    stop: Stop,
    on_asked: OnAssociationRequest = ignore_callers,
    *,
    settle: Settle | None = None,
    on_refused: OnRefused = ignore_refusal,
    count: Count = ignore,
) -> None:
    """Serve until told to stop, then drain; see start_receiver."""
    allow_many_threads()
    remove_partial_files(spool)
    stop.ready(DRAIN_S)
    receiver = start_receiver(
        *(settings, spool, accept, sockets, on_asked),
        settle=settle,
        on_refused=on_refused,
        count=count,
    )
    logger.info("%s listens on port %d", settings.ae_title, receiver.port)
    stop.wait()
    logger.info("Draining")
    if not receiver.drain(DRAIN_S):
        logger.warning("Associations still open after %.0f s were aborted", DRAIN_S)
    stop.drained()


if __name__ == "__main__":
    main()
