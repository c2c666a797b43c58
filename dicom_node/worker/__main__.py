"""The worker: the process that analyzes instances and delivers results.

It owns the model and the decoders. DBOS takes its work from the database.
"""

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar

import torch
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from config.settings import Settings
from dicom_node.analysis.pipeline import (
    normal_pipeline,
    separate_pipelines,
    slow_pipeline,
)
from dicom_node.analysis.slow_images import SlowImages
from dicom_node.audit.commitment_reports import auditing_refused
from dicom_node.audit.trail import RecordEvent, auditing, record, started
from dicom_node.audit.transfers import auditing_sent, ignore
from dicom_node.decoder.server import use_common_server
from dicom_node.delivery.concurrency import AT_ONCE
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    APPLICATION,
    DELIVER,
    QUEUES,
    SUMMARIZE,
    VERSION,
    queues_with_work,
)
from dicom_node.metrics.counters import REPORT_REFUSED, increment
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.queries.sent_study import sent_study
from dicom_node.reasons import ReportRefusal
from dicom_node.runtime.heartbeat import heartbeats
from dicom_node.runtime.process import (
    Stop,
    allow_many_threads,
    begin_role,
    load_or_exit,
    role_parser,
)
from dicom_node.runtime.work_signal import (
    listen_for_notifications,
    patch_queue_polling,
    watch_queues,
)
from dicom_node.storage.database import (
    DatabaseError,
    Engine,
    check_responds,
    connect_arguments,
    open_engine,
    writing,
)
from dicom_node.storage.migration import SchemaError, check_schema
from dicom_node.storage.run_folder import machine_name, run_folder
from dicom_node.storage.spool import Spool
from dicom_node.storage.storage_id import verify_storage_or_exit
from dicom_node.storage.tally import write
from dicom_node.worker.cleanup import (
    assign_examinations,
    delete_expired_instances,
    delete_finished_workflows,
    release_future_workflows_after_clock_change,
    remove_files,
)
from dicom_node.worker.retry import retry_until_available, stop_retrying
from dicom_node.worker.summaries import Summarizer, register_summaries
from dicom_node.worker.takeover import requeue_stalled_work
from dicom_node.worker.workflows import Work, register
from inference.classification import classifier
from models.card import ModelError

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 0.2  # for work without a notification: see runtime/work_signal.py
SLOW_POLL_S = 0.5
# While one instance is classified, another one is decoded, and a third one is written.
ANALYSES_AT_ONCE = 3
MAINTENANCE_INTERVAL_S = 5.0
CLEANUP_EVERY = 12  # rounds of the maintenance
FILES_EVERY = 12 * 60  # rounds of the maintenance
DRAIN_S = 30
# Maximum number of PostgreSQL connections of DBOS; its default is 20. DBOS holds one to
# listen, and another one for its regular tasks. A thread that finds none free waits.
DBOS_CONNECTIONS = 5
# Maximum time to wait for the database before the worker ends; less than CLOSE_S.
DATABASE_TIMEOUT_S = 4.0


def main() -> None:
    """Run a worker until SIGTERM or SIGINT; then finish the work in progress."""
    parser = role_parser("worker", __doc__)
    parser.add_argument(
        "--slot", type=int, default=0, help="number of this worker on its machine"
    )
    parser.add_argument("--decoders", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_or_exit(args.config)
    stop = begin_role(f"worker-{args.slot}", args.supervisor, settings.log.format)
    allow_many_threads()
    if args.decoders is not None:
        use_common_server(args.decoders)
    if args.supervisor is None:
        record(settings, f"worker-{args.slot}", started(settings))
    with _slot(run_folder(settings.storage), args.slot):
        try:
            run(settings, args.slot, stop)
        except (ModelError, SchemaError) as error:
            logger.critical("%s", error)
            sys.exit(2)


def preload(weights: str, device: str) -> Callable[[], None]:
    """Load the model in the server of the roles, and begin the self-test of the model.

    If the test succeeds, the roles that this server (runtime/role_server.py) forks
    later share the memory of the model. In some cases, nothing is loaded: see
    `classifier.preload`.

    Args:
        weights: The path of the weights file. "" stands for the shipped weights.
        device: The device, as in `Classifier.load`.

    Returns:
        A function that waits for the end of the self-test. It raises a ModelError if
        the test fails, and does nothing if no model was loaded.

    Raises:
        ModelError: The weights or the model card cannot be used.
    """
    return classifier.preload(Path(weights) if weights else None, device)


def run(settings: Settings, slot: int, stop: Stop) -> None:
    """Work until `stop` is set, then end the process.

    Args:
        settings: The settings of the node.
        slot: The number of this worker on its machine. The worker continues the
            unfinished work of an earlier worker with the same number.
        stop: When it is set, work in progress has DRAIN_S seconds to finish. Then the
            process ends, even if the database or the disk does not respond. Another
            worker, or the next worker with this slot, repeats the unfinished work.

    Raises:
        ModelError: The model cannot be used.
        SchemaError: The database cannot be opened, or this release cannot work with its
            schema.
    """
    torch.set_num_threads(1)
    engine = open_engine(settings.storage.database_url)
    check_schema(engine)
    verify_storage_or_exit(engine, settings.storage)
    _run(settings, engine, slot, stop)
    # End at once. Otherwise a workflow that still runs would lose its resources, and
    # would record the error as a failure of the image.
    os._exit(0)


def _with_audit(
    settings: Settings, engine: Engine, work: Work, record_event: RecordEvent
) -> Work:
    """Return a copy of `work` with callbacks that record events in the audit trail.

    The events are refused Storage Commitment reports and sent results. Refused reports
    are also counted for the metrics. Sent results are recorded only if the settings
    name an audit file.
    """
    audit = auditing_refused(record_event)

    def on_refused(reporter: Reporter, reason: ReportRefusal) -> None:
        audit(reporter, reason)
        with suppress(DatabaseError), writing(engine) as connection:
            write(connection, increment(REPORT_REFUSED, reason))

    study = partial(sent_study, engine)
    on_sent = auditing_sent(study, record_event) if settings.audit.file else ignore
    return replace(work, on_sent=on_sent, on_refused=on_refused)


def _run(settings: Settings, engine: Engine, slot: int, stop: Stop) -> None:
    wakeups = dict(zip(QUEUES, patch_queue_polling(*QUEUES), strict=True))
    arrived = wakeups[ANALYZE]

    def wake_lanes() -> None:
        arrived.wake()
        wakeups[ANALYZE_SEPARATELY].wake()

    work = _work(settings, engine, wakeups[DELIVER].wake, wake_lanes)
    name = f"{machine_name(settings.storage)}:{slot}"
    DBOS(config=_config(settings, name))
    # Send a heartbeat before taking work, because other workers take over the work of a
    # worker without a heartbeat.
    with (
        heartbeats(
            engine, "worker", name, on_duplicate=partial(_exit_as_duplicate, name)
        ),
        listen_for_notifications(
            run_folder(settings.storage), f"worker-{slot}", arrived
        ),
        watch_queues(wakeups, partial(queues_with_work, engine), POLL_S),
    ):
        with auditing(settings, engine, f"worker-{slot}") as record_event:
            work = _with_audit(settings, engine, work, record_event)
            is_finished = _work_until_stopped(settings, engine, work, name, stop)
            stop.drained()
        # The audit file is complete now. If the database does not respond, end here,
        # because the rest of the shutdown needs the database.
        if not is_finished:
            os._exit(0)


def _work_until_stopped(
    settings: Settings, engine: Engine, work: Work, name: str, stop: Stop
) -> bool:
    """Work until `stop` is set, then finish the work in progress.

    Returns:
        Whether the database responded at the end.
    """
    register(work)
    register_summaries(_summarizer(settings, work))
    DBOS.launch()
    _open_queues(settings)
    # DBOS repeats each of its queries until the database responds. The thread is a
    # daemon, so that the end of the process does not wait for it.
    arguments = (stop, settings, engine, work, name)
    Thread(
        target=_run_maintenance, args=arguments, name="maintenance", daemon=True
    ).start()
    stop.ready(DRAIN_S)
    logger.info("Ready")
    stop.wait()
    return _finish(engine)


def _exit_as_duplicate(name: str) -> None:
    """End this process with status 2, because another worker has the same name.

    If both continued and one of them died, the heartbeats of the other would make the
    dead one look alive.
    """
    logger.critical(
        "Another worker uses the name %s. Each machine that works on this database "
        "needs a host name of its own. This worker ends.",
        name,
    )
    os._exit(2)


def _finish(engine: Engine) -> bool:
    """Wait until the work in progress is finished, for about DRAIN_S seconds at most.

    Returns:
        Whether the database responded within DATABASE_TIMEOUT_S seconds. If not, this
        function does not wait for the work in progress.
    """
    logger.info("Finishing the work in progress")
    stop_retrying()
    if not _within(DATABASE_TIMEOUT_S, partial(check_responds, engine)):
        logger.warning(
            "The database does not respond. The next worker repeats the work in "
            "progress."
        )
        return False
    destroy = partial(DBOS.destroy, workflow_completion_timeout_sec=DRAIN_S)
    _within(DRAIN_S + DATABASE_TIMEOUT_S, destroy)
    return True


def _within(seconds: float, call: Callable[[], None]) -> bool:
    """Make a call in a thread; return whether it succeeds within `seconds`.

    The call fails if it raises DatabaseError. A call that takes longer than `seconds`
    continues in its thread.
    """
    returned = []

    def run_call() -> None:
        with suppress(DatabaseError):
            call()
            returned.append(True)

    thread = Thread(target=run_call, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(returned)


def _run_maintenance(
    stop: Stop, settings: Settings, engine: Engine, work: Work, name: str
) -> None:
    """Take over the work of dead workers, and clean up, until `stop` is set.

    There is a round every MAINTENANCE_INTERVAL_S seconds, but not every round cleans
    up. Only the worker with slot number 0 on its machine removes orphans from the
    spool.
    """
    # This journal does not repeat a call if the database fails. Later rounds repeat a
    # task that failed.
    storage, destinations = settings.storage, settings.destinations
    quiet_s = settings.exam.quiet_s
    journal = Journal(engine, storage.directory, destinations, quiet_s=quiet_s)
    is_first, rounds = name.endswith(":0"), 0
    while not stop.wait(MAINTENANCE_INTERVAL_S):
        tasks: list[Callable[[], object]] = [
            partial(requeue_stalled_work, engine, name),
            journal.breaker.maintain,
            journal.deliveries.resume_remaining,
        ]
        if rounds % CLEANUP_EVERY == 0:
            tasks += [
                partial(delete_finished_workflows, journal),
                journal.examinations.request_overdue,
                partial(assign_examinations, journal),
                release_future_workflows_after_clock_change,
                partial(delete_expired_instances, engine, settings),
            ]
        if is_first and rounds % FILES_EVERY == 0:
            tasks.append(partial(remove_files, journal, work.spool))
        for task in tasks:
            _run_task(task)
        rounds += 1


def _run_task(task: Callable[[], object]) -> None:
    """Run a task of the maintenance. If it raises an exception, log its class."""
    try:
        task()
    except Exception as error:  # noqa: BLE001 - a later round repeats the task
        logger.error("The maintenance failed: %s", type(error).__name__)  # noqa: TRY400


def _work(
    settings: Settings,
    engine: Engine,
    on_delivery: Callable[[], None],
    on_moved: Callable[[], None],
) -> Work:
    images = SlowImages()
    pipeline = normal_pipeline(settings, images)
    journal = Journal(
        engine,
        settings.storage.directory,
        settings.destinations,
        retry_until_available,
        quiet_s=settings.exam.quiet_s,
    )
    return Work(
        settings,
        journal,
        Spool(settings.storage),
        pipeline,
        on_delivery,
        on_moved=on_moved,
        # The decoder of the separate lane starts when the lane is first used.
        separate_pipelines=_once(partial(separate_pipelines, pipeline, images)),
        slow_pipeline=partial(slow_pipeline, pipeline),
    )


def _summarizer(settings: Settings, work: Work) -> Summarizer:
    return Summarizer(
        work.journal,
        work.spool,
        settings.storage.directory,
        partial(slow_pipeline, work.pipeline),
        work.on_delivery,
    )


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that returns the result of `make`, and calls `make` only once.

    Several threads may call the returned function. If `make` raises an exception, the
    function raises this exception, and its next call calls `make` again.
    """
    lock, cached = Lock(), cache(make)

    def made() -> T:
        with lock:
            return cached()

    return made


def _config(settings: Settings, name: str) -> DBOSConfig:
    engine_options: dict[str, Any] = {}
    if settings.storage.database:
        engine_options = {
            "connect_args": connect_arguments(),
            "pool_size": DBOS_CONNECTIONS,
        }
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=settings.storage.database_url,
        application_version=VERSION,
        executor_id=name,
        serializer=DBOSPortableJSONSerializer(),
        run_migrations=False,
        db_engine_kwargs=engine_options,
        log_level="WARNING",
        scheduler_polling_interval_sec=3600.0,
    )


def _open_queues(settings: Settings) -> None:
    DBOS.register_queue(
        ANALYZE, worker_concurrency=ANALYSES_AT_ONCE, polling_interval_sec=POLL_S
    )
    # The separate lane takes two instances: while one is decoded, the other waits for
    # the decoder, and not for the next poll.
    ones = (ANALYZE_SEPARATELY, 2), (ANALYZE_SLOWLY, 1), (SUMMARIZE, 1)
    for lane, concurrency in ones:
        DBOS.register_queue(
            lane, worker_concurrency=concurrency, polling_interval_sec=SLOW_POLL_S
        )
    peers = sum(each.peer_count for each in settings.destinations)
    DBOS.register_queue(
        DELIVER,
        partition_worker_concurrency=AT_ONCE,
        worker_concurrency=AT_ONCE * max(peers, 1),
        polling_interval_sec=POLL_S,
    )


@contextmanager
def _slot(folder: Path, slot: int) -> Iterator[None]:
    """Lock the worker slot with the number `slot` while the block runs.

    If another worker of this machine holds the slot, wait until it is free. Two workers
    with the same slot would repeat each other's work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"worker-{slot}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning(
                "Another worker uses slot %s. This worker waits until that one ends.",
                slot,
            )
            # A signal during this wait ends the process: see Stop.
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


if __name__ == "__main__":
    main()
