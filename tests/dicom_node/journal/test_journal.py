"""The journal records instances, results and deliveries, and enqueues their work."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from sqlalchemy.exc import SQLAlchemyError

from config.destinations import Address, Hl7Destination, SenderDestination
from config.settings import StorageSettings
from dicom_node.errors import SamePictureError
from dicom_node.instance import ReceivedInstance
from dicom_node.journal import deliveries
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.journal.journal import Journal
from dicom_node.journal.retry_delay import RETRY_MAX_DELAY_S, retry_delay_s
from dicom_node.journal.work_queue import (
    ANALYZE,
    ANALYZE_SEPARATELY,
    ANALYZE_SLOWLY,
    LAST,
)
from dicom_node.outcome import Outcome
from dicom_node.patient import Patient
from dicom_node.reasons import Failure, Unanalyzed
from dicom_node.results.overlay_data import overlay_in
from dicom_node.storage import database
from dicom_node.storage.database import open_engine, writing
from dicom_node.storage.migration import WORKS_FROM, SchemaError, check_schema, migrate
from dicom_node.storage.tables import (
    DeliveryState,
    InstanceState,
    delivered_object,
    delivery,
    event,
    finding,
    patient,
)
from tests.support.journals import (
    ANSWER,
    BRIEFLY,
    LOST,
    REFUSED,
    RETRY,
    STORED,
    Receive,
    destination,
    state_of,
    work,
    work_item,
)

pytestmark = pytest.mark.integration

HAND = {"body_part": "HAND", "view_position": "AP", "laterality": "L"}


def events(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        query = sa.select(event.c.kind).order_by(event.c.id)
        return list(connection.execute(query).scalars())


def test_recording_an_instance_enqueues_its_analysis(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance = receive()

    assert journal.record(instance)
    assert work(engine) == [(f"analyze:{instance.id}:1", "ENQUEUED")]
    assert state_of(journal, instance) == InstanceState.RECEIVED


def test_received_instance_is_restored_from_its_row(
    journal: Journal, receive: Receive
) -> None:
    instance = receive(body_part="HAND", laterality="L")
    journal.record(instance)

    row = journal.load(instance.id)

    assert row is not None
    assert journal.received_instance(row) == instance


def test_patients_are_recorded_in_a_separate_table(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    received = receive()
    eva = Patient("Müller^Eva", "4711", "A-7")
    journal.record(replace(received, header=replace(received.header, patient=eva)))

    with engine.connect() as connection:
        (row,) = connection.execute(patient.select()).all()

    assert row == (received.id, "Müller^Eva", "4711", "A-7", "muller eva\n4711\na-7")


def test_drawing_in_the_database_is_that_of_the_last_answer(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    received = receive()
    journal.record(received)
    journal.analyses.record_result(received.id, 1, ANSWER)
    journal.analyze_again(received.id)
    assert ANSWER.drawing is not None
    other = replace(ANSWER, drawing=replace(ANSWER.drawing, definite=0.9))
    journal.analyses.record_result(received.id, 2, other)

    with engine.connect() as connection:
        (row,) = connection.execute(finding.select()).mappings().all()

    drawing = overlay_in(row, 0.75)
    assert (drawing.doubtful, drawing.definite) == (0.25, 0.9)
    assert drawing.levels.tolist() == [[0, 255], [128, 7]]


def test_record_and_work_are_rolled_back_together(
    journal: Journal,
    engine: sa.Engine,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr("dicom_node.journal.work_queue.WorkQueue.analyze", fail)
    instance = receive()

    with pytest.raises(RuntimeError, match="the disk is gone"):
        journal.record(instance)

    assert journal.load(instance.id) is None
    assert work(engine) == []


def test_repeated_instance_is_not_analyzed_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = receive()
    journal.record(first)

    again = receive(sop_instance_uid=first.header.sop_instance_uid)

    assert not journal.record(again)
    assert len(work(engine)) == 1
    assert events(engine) == ["received", "received again"]


def test_repeated_instance_has_its_results_delivered_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = receive()
    journal.record(first)
    journal.analyses.record_result(first.id, 1, ANSWER)
    for each in ("pacs", "backup"):
        journal.deliveries.begin(first.id, each, 1)
        journal.delivery_outcomes.record(
            first.id, destination(each), 1, {"2.25.1": STORED}
        )
    assert state_of(journal, first) == InstanceState.DELIVERED

    journal.record(receive(sop_instance_uid=first.header.sop_instance_uid))

    assert f"deliver:{first.id}:pacs:2" in dict(work(engine))
    assert state_of(journal, first) == InstanceState.DELIVERING


def test_results_go_to_the_last_sender_of_a_repeated_instance(
    journal: Journal, receive: Receive
) -> None:
    first = receive()
    other = replace(
        receive(sop_instance_uid=first.header.sop_instance_uid),
        calling_ae_title="OTHER",
        calling_address="10.0.0.9",
    )
    journal.record(first)
    journal.record(other)
    _, before = journal.sender(first.id)  # `first` has no result yet
    journal.analyses.record_result(first.id, 1, ANSWER)
    for each in ("pacs", "backup"):
        journal.deliveries.begin(first.id, each, 1)
        journal.delivery_outcomes.record(
            first.id, destination(each), 1, {"2.25.1": STORED}
        )

    journal.record(other)

    row = journal.load(first.id)
    assert row is not None
    assert before == first.calling_ae_title
    assert journal.sender(first.id)[1] == "OTHER"
    assert row.calling_address == "10.0.0.9"


@pytest.fixture
def with_sender(engine: sa.Engine, tmp_path: Path) -> Journal:
    """A journal with results for "pacs" and for the sender of each instance."""
    peers = (Address(ae_title="DX_ROOM_1", host="h", port=104),)
    sender = SenderDestination(name="sender", type="sender", peers=peers)
    return Journal(engine, tmp_path, [destination("pacs"), sender])


@pytest.mark.parametrize("is_paused", [False, True])
def test_repeated_instance_goes_to_its_sender_while_another_delivery_waits(
    with_sender: Journal, engine: sa.Engine, receive: Receive, *, is_paused: bool
) -> None:
    journal, first = with_sender, replace(receive(), calling_ae_title="DX_ROOM_1")
    again = receive(sop_instance_uid=first.header.sop_instance_uid)
    journal.record(first)
    journal.analyses.record_result(first.id, 1, ANSWER)
    deliver(journal, first, 1, "2.25.1", "sender")
    if is_paused:
        journal.deliveries.pause("pacs")
    journal.deliveries.begin(first.id, "pacs", 1)
    pacs = state_and_run(engine, first)

    journal.record(replace(again, calling_ae_title="DX_ROOM_2"))

    assert journal.sender(first.id)[1] == "DX_ROOM_2"
    assert state_and_run(engine, first) == pacs
    assert state_and_run(engine, first, "sender") == (DeliveryState.QUEUED, 2)
    assert journal.deliveries.begin(first.id, "sender", 2)
    assert state_of(journal, first) == InstanceState.DELIVERING


@pytest.mark.parametrize(
    ("title", "run"), [("DX_ROOM_1", 2), ("DX_ROOM_2", 3)], ids=["same", "other"]
)
def test_unfinished_delivery_to_the_sender_is_replaced_if_the_sender_changes(
    with_sender: Journal, engine: sa.Engine, receive: Receive, title: str, run: int
) -> None:
    """The delivery to the former sender waits for a later attempt."""
    journal, first = with_sender, replace(receive(), calling_ae_title="DX_ROOM_1")
    again = receive(sop_instance_uid=first.header.sop_instance_uid)
    journal.record(first)
    journal.analyses.record_result(first.id, 1, ANSWER)
    journal.deliveries.begin(first.id, "sender", 1)
    to_sender, failed = destination("sender"), {"2.25.1": BRIEFLY}
    journal.delivery_outcomes.record(first.id, to_sender, 1, failed)

    journal.record(replace(again, calling_ae_title=title))

    assert state_and_run(engine, first, "sender") == (DeliveryState.QUEUED, run)


def test_repeated_instance_drops_no_unfinished_delivery_of_newer_settings(
    journal: Journal, engine: sa.Engine, tmp_path: Path, analyzed: ReceivedInstance
) -> None:
    """After a change of the settings, a receiver may still have the former ones."""
    old = Journal(engine, tmp_path, [destination("backup")])
    again = replace(analyzed, id="2" * 32)
    deliver(journal, analyzed, 1, "2.25.1", "backup")

    old.record(again)

    assert state_and_run(engine, analyzed) == (DeliveryState.QUEUED, 1)
    assert state_and_run(engine, analyzed, "backup") == (DeliveryState.QUEUED, 2)


def test_deliveries_to_each_sender_have_their_own_queue_partition(
    with_sender: Journal, engine: sa.Engine, receive: Receive
) -> None:
    journal = with_sender

    for title in ("DX_ROOM_1", "DX_ROOM_2"):
        one = replace(receive(), calling_ae_title=title)
        journal.record(one)
        journal.analyses.record_result(one.id, 1, ANSWER)

    key = sa.column("queue_partition_key")
    query = sa.select(key).select_from(work_item(engine)).where(key.is_not(None))
    with engine.connect() as connection:
        partitions = set(connection.execute(query).scalars())
    assert partitions == {"pacs", "sender:DX_ROOM_1", "sender:DX_ROOM_2"}


def test_other_bytes_with_the_same_uid_are_a_new_revision(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = receive()
    second = receive("d2", sop_instance_uid=first.header.sop_instance_uid)
    journal.record(first)

    assert journal.record(second)
    row = journal.load(second.id)
    assert row is not None
    assert row.revision == 2
    assert len(work(engine)) == 2


def test_failed_instance_is_analyzed_again_if_received_again(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    first = receive()
    journal.record(first)
    journal.analyses.conclude(first.id, 1, Conclusion(InstanceState.FAILED, "broken"))

    journal.record(receive(sop_instance_uid=first.header.sop_instance_uid))

    assert f"analyze:{first.id}:2" in dict(work(engine))


def test_answer_enqueues_one_delivery_per_destination(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance = receive()
    journal.record(instance)

    assert journal.analyses.record_result(instance.id, 1, ANSWER)
    assert [name for name, _ in work(engine)][1:] == [
        f"deliver:{instance.id}:backup:1",
        f"deliver:{instance.id}:pacs:1",
    ]
    assert state_of(journal, instance) == InstanceState.DELIVERING


def test_a_stale_run_changes_nothing(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    instance = receive()
    journal.record(instance)
    journal.analyze_again(instance.id)
    before = work(engine)

    assert journal.analyses.begin(instance.id, 1) is None
    assert not journal.analyses.record_result(instance.id, 1, ANSWER)
    journal.analyses.conclude(instance.id, 1, Conclusion(InstanceState.FAILED, "stale"))
    assert state_of(journal, instance) == InstanceState.RECEIVED
    assert work(engine) == before


def test_answer_of_a_run_is_recorded_only_once(
    journal: Journal, receive: Receive
) -> None:
    instance = receive()
    journal.record(instance)

    assert journal.analyses.record_result(instance.id, 1, ANSWER)
    assert not journal.analyses.record_result(instance.id, 1, ANSWER)


def test_attempts_and_deaths_of_children_are_counted(
    journal: Journal, receive: Receive
) -> None:
    instance = receive()
    journal.record(instance)

    first = journal.analyses.begin(instance.id, 1)
    second = journal.analyses.begin(instance.id, 1)

    assert first is not None
    assert second is not None
    assert (first.attempts, second.attempts) == (1, 2)
    assert journal.analyses.child_died(instance.id, 1, "killed") == 1
    assert journal.analyses.child_died(instance.id, 1, "killed") == 2


@pytest.fixture
def analyzed(journal: Journal, receive: Receive) -> ReceivedInstance:
    """An analyzed instance with deliveries to two destinations."""
    instance = receive()
    journal.record(instance)
    journal.analyses.record_result(instance.id, 1, ANSWER)
    return instance


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        pytest.param([STORED], DeliveryState.DELIVERED, id="stored"),
        pytest.param([REFUSED], DeliveryState.FAILED, id="refused"),
        pytest.param([RETRY] * 9, DeliveryState.QUEUED, id="retried-for-days"),
        pytest.param([BRIEFLY] * 2, DeliveryState.QUEUED, id="brief-2-tries"),
        pytest.param([BRIEFLY] * 3, DeliveryState.FAILED, id="brief-3-tries"),
        pytest.param(
            [LOST, RETRY, LOST, BRIEFLY, LOST, BRIEFLY],
            DeliveryState.QUEUED,
            id="no-response-is-no-refusal",
        ),
    ],
)
def test_outcomes_determine_the_state_of_a_delivery(
    journal: Journal,
    analyzed: ReceivedInstance,
    outcomes: list[Outcome],
    expected: DeliveryState,
) -> None:
    for run, outcome in enumerate(outcomes, start=1):
        assert journal.deliveries.begin(analyzed.id, "pacs", run) == {
            "2.25.1": "results/a.dcm"
        }
        state = journal.delivery_outcomes.record(
            analyzed.id, destination("pacs"), run, {"2.25.1": outcome}
        )

    assert state == expected


def test_delivery_fails_after_its_retry_days(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    no_days = destination("pacs", retry_days=1e-9)
    journal.deliveries.begin(analyzed.id, "pacs", 1)

    state = journal.delivery_outcomes.record(analyzed.id, no_days, 1, {"2.25.1": RETRY})

    assert state == DeliveryState.FAILED


def test_failed_delivery_has_the_comment_of_the_peer_and_can_be_retried(
    journal: Journal, engine: sa.Engine, analyzed: ReceivedInstance
) -> None:
    for name, outcome in (("pacs", REFUSED), ("backup", STORED)):
        journal.deliveries.begin(analyzed.id, name, 1)
        journal.delivery_outcomes.record(
            analyzed.id, destination(name), 1, {"2.25.1": outcome}
        )
    row = journal.load(analyzed.id)
    assert row is not None
    assert row.state == InstanceState.FAILED
    assert row.reason == "pacs: 0xC000 Cannot Understand"

    journal.deliveries.retry(analyzed.id, "pacs")

    assert f"deliver:{analyzed.id}:pacs:2" in dict(work(engine))
    assert f"deliver:{analyzed.id}:backup:2" not in dict(work(engine))
    assert state_of(journal, analyzed) == InstanceState.DELIVERING


def test_a_paused_destination_holds_its_deliveries_until_it_is_resumed(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    journal.deliveries.pause("pacs")

    assert journal.deliveries.begin(analyzed.id, "pacs", 1) is None
    assert journal.deliveries.begin(analyzed.id, "backup", 1)

    journal.deliveries.resume("pacs")

    assert journal.deliveries.begin(analyzed.id, "pacs", 2)


@pytest.fixture
def paused(journal: Journal, analyzed: ReceivedInstance) -> ReceivedInstance:
    """An analyzed instance with a paused delivery to "pacs"."""
    journal.deliveries.pause("pacs")
    journal.deliveries.begin(analyzed.id, "pacs", 1)
    return analyzed


def test_a_delivery_that_ends_while_its_destination_is_resumed_is_not_sent_again(
    journal: Journal,
    engine: sa.Engine,
    paused: ReceivedInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end_before_lock(connection: sa.Connection, instance_id: str) -> None:
        """End the delivery as if it ended while `lock_instance` waited for a lock."""
        ended = delivery.update().where(of_delivery(delivery, instance_id, "pacs"))
        connection.execute(ended.values(state=DeliveryState.DELIVERED))

    monkeypatch.setattr(deliveries, "lock_instance", end_before_lock)
    journal.deliveries.resume("pacs")

    assert state_and_run(engine, paused) == (DeliveryState.DELIVERED, 1)
    journal.deliveries.retry(paused.id, "pacs")
    assert journal.deliveries.begin(paused.id, "pacs", 2) is not None


def test_the_end_of_a_pause_queues_few_deliveries_in_one_transaction(
    journal: Journal,
    engine: sa.Engine,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other process can write to SQLite during a transaction."""
    monkeypatch.setattr(deliveries, "BATCH", 2)
    images = [receive() for _ in range(3)]
    for name in ("pacs", "backup"):
        journal.deliveries.pause(name)
    for one in images:
        journal.record(one)
        journal.analyses.record_result(one.id, 1, ANSWER)
        for name in ("pacs", "backup"):
            journal.deliveries.begin(one.id, name, 1)

    def queued() -> int:
        queued = delivery.c.state == DeliveryState.QUEUED
        query = sa.select(delivery.c.destination).where(queued)
        with engine.connect() as connection:
            found = list(connection.execute(query).scalars())
        assert "backup" not in found  # it is still paused
        return len(found)

    counts = [queued()]
    journal.deliveries.resume("pacs")
    counts.append(queued())
    for _ in range(2):
        journal.deliveries.resume_remaining()
        counts.append(queued())

    assert counts == [0, 2, 3, 3]


def test_a_delivery_that_is_queued_while_stale_work_begins_is_not_paused(
    journal: Journal, engine: sa.Engine, analyzed: ReceivedInstance
) -> None:
    journal.deliveries.pause("pacs")
    begin = partial(journal.deliveries.begin, analyzed.id, "pacs", 1)
    with ThreadPoolExecutor(1) as pool:
        with writing(engine) as connection:
            queued = delivery.update().where(of_delivery(delivery, analyzed.id, "pacs"))
            connection.execute(queued.values(run=2))
            begun = pool.submit(begin)
            wait([begun], 0.5)  # until it waits for the end of this transaction
        assert begun.result() is None

    assert state_and_run(engine, analyzed) == (DeliveryState.QUEUED, 2)


def state_and_run(
    engine: sa.Engine, one: ReceivedInstance, name: str = "pacs"
) -> tuple[str, int]:
    """Return the state and the run of the delivery of an instance to `name`."""
    query = sa.select(delivery.c.state, delivery.c.run)
    query = query.where(of_delivery(delivery, one.id, name))
    with engine.connect() as connection:
        state, run = connection.execute(query).one()
    return state, run


def test_giving_up_a_delivery_does_not_change_other_destinations(
    journal: Journal, engine: sa.Engine, analyzed: ReceivedInstance
) -> None:
    journal.delivery_outcomes.fail_permanently(
        analyzed.id, "pacs", 1, "not in the settings"
    )

    query = sa.select(delivered_object.c.destination, delivered_object.c.state)
    with engine.connect() as connection:
        states = {row[0]: row[1] for row in connection.execute(query)}
    assert states == {"pacs": DeliveryState.FAILED, "backup": DeliveryState.QUEUED}


def test_reason_of_a_given_up_delivery_replaces_the_last_comment(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    for name, outcome in (("pacs", RETRY), ("backup", STORED)):
        journal.deliveries.begin(analyzed.id, name, 1)
        journal.delivery_outcomes.record(
            analyzed.id, destination(name), 1, {"2.25.1": outcome}
        )

    journal.delivery_outcomes.fail_permanently(
        analyzed.id, "pacs", 2, "not in the settings"
    )

    row = journal.load(analyzed.id)
    assert row is not None
    assert row.reason == "pacs: not in the settings"


def test_giving_up_a_finished_delivery_changes_nothing(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    for name in ("pacs", "backup"):
        journal.deliveries.begin(analyzed.id, name, 1)
        journal.delivery_outcomes.record(
            analyzed.id, destination(name), 1, {"2.25.1": STORED}
        )

    journal.delivery_outcomes.fail_permanently(
        analyzed.id, "pacs", 1, "not in the settings"
    )

    assert state_of(journal, analyzed) == InstanceState.DELIVERED


def test_failure_of_a_removed_destination_does_not_prevent_the_delivered_state(
    journal: Journal, engine: sa.Engine, analyzed: ReceivedInstance, receive: Receive
) -> None:
    for name, outcome in (("pacs", REFUSED), ("backup", STORED)):
        journal.deliveries.begin(analyzed.id, name, 1)
        journal.delivery_outcomes.record(
            analyzed.id, destination(name), 1, {"2.25.1": outcome}
        )
    directory = analyzed.path.parents[1]
    renamed = Journal(engine, directory, [destination("archive")])
    uid = analyzed.header.sop_instance_uid

    renamed.record(receive(sop_instance_uid=uid))
    renamed.deliveries.begin(analyzed.id, "archive", 1)
    renamed.delivery_outcomes.record(
        analyzed.id, destination("archive"), 1, {"2.25.1": STORED}
    )

    assert state_of(renamed, analyzed) == InstanceState.DELIVERED

    journal.record(receive(sop_instance_uid=uid))

    assert dict(work(engine))[f"deliver:{analyzed.id}:pacs:2"] == "ENQUEUED"
    assert journal.deliveries.begin(analyzed.id, "pacs", 2)


def test_answer_without_results_for_a_destination_ends_its_delivery(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    heatmaps = destination("heatmaps", results=("heatmap",))
    journal = Journal(engine, tmp_path, [heatmaps])
    instance = receive()
    journal.record(instance)
    stored = StoredResult("heatmap", "1.2", "2.25.1", "results/a.dcm")
    journal.analyses.record_result(instance.id, 1, replace(ANSWER, results=[stored]))
    assert state_of(journal, instance) == InstanceState.DELIVERING

    journal.analyze_again(instance.id)
    journal.analyses.record_result(instance.id, 2, replace(ANSWER, results=[]))

    assert state_of(journal, instance) == InstanceState.ANALYZED
    assert journal.deliveries.begin(instance.id, "heatmaps", 1) is None


def with_pacs(engine: sa.Engine, folder: Path, **changes: object) -> Journal:
    """Return a journal with a PACS as its only destination."""
    return Journal(engine, folder, [destination("pacs", **changes)])


def stored(kind: str, uid: str) -> AnalysisResult:
    return replace(ANSWER, results=[StoredResult(kind, "1.2", uid, "results/a.dcm")])


def deliver(
    journal: Journal, instance: ReceivedInstance, run: int, uid: str, name: str = "pacs"
) -> None:
    assert journal.deliveries.begin(instance.id, name, run)
    journal.delivery_outcomes.record(instance.id, destination(name), run, {uid: STORED})


NEGATIVE = replace(ANSWER.finding, probability=0.01)


def test_repeated_instance_is_analyzed_again_if_the_form_of_results_has_changed(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    before = with_pacs(engine, tmp_path)
    one = receive()
    before.record(one)
    before.analyses.record_result(one.id, 1, ANSWER)
    before.deliveries.begin(one.id, "pacs", 1)
    before.delivery_outcomes.record(one.id, destination("pacs"), 1, {"2.25.1": REFUSED})
    after = with_pacs(engine, tmp_path, modality="source")

    after.record(receive(sop_instance_uid=one.header.sop_instance_uid))

    assert f"analyze:{one.id}:2" in dict(work(engine))
    after.analyses.record_result(
        one.id, 2, stored("secondary_capture-source", "2.25.9")
    )
    deliver(after, one, 2, "2.25.9")
    assert state_of(after, one) == InstanceState.DELIVERED


@pytest.mark.parametrize("outcome", [STORED, REFUSED], ids=["delivered", "failed"])
@pytest.mark.parametrize("had_heatmap", [False, True], ids=["added", "removed"])
def test_stored_report_is_sent_again_after_heatmap_was_added_or_removed(
    engine: sa.Engine,
    tmp_path: Path,
    receive: Receive,
    had_heatmap: bool,  # noqa: FBT001
    outcome: Outcome,
) -> None:
    """The results of the destination in the settings change, so another kind is wanted.

    The answer is negative, so the report is the only object.
    """
    without, with_map = ["structured_report"], ["structured_report", "heatmap"]
    settings = (with_map, without) if had_heatmap else (without, with_map)
    before, after = (with_pacs(engine, tmp_path, results=each) for each in settings)
    kind = "structured_report-heatmap" if had_heatmap else "structured_report"
    one = receive()
    before.record(one)
    answer = replace(stored(kind, "2.25.9"), finding=NEGATIVE)
    before.analyses.record_result(one.id, 1, answer)
    before.deliveries.begin(one.id, "pacs", 1)
    before.delivery_outcomes.record(one.id, destination("pacs"), 1, {"2.25.9": outcome})

    for run, chosen in enumerate(["pacs", None], start=2):
        assert after.deliveries.send_again(one.id, chosen)
        assert after.deliveries.begin(one.id, "pacs", run) == {
            "2.25.9": "results/a.dcm"
        }
    assert state_of(after, one) == InstanceState.DELIVERING


def test_analysis_without_an_answer_ends_deliveries_in_progress(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    journal.replace_lost_results(analyzed.id)

    conclusion = Conclusion(InstanceState.NOT_ANALYZED, "unlike")
    journal.analyses.conclude(analyzed.id, 2, conclusion)

    assert journal.deliveries.begin(analyzed.id, "pacs", 1) is None
    assert state_of(journal, analyzed) == InstanceState.NOT_ANALYZED
    row = journal.load(analyzed.id)
    assert row
    assert row.reason == "unlike"


def test_negative_answer_is_delivered_only_after_a_notice(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    journal = with_pacs(engine, tmp_path, send_negative=False)
    first, second = receive("d1"), receive("d2")
    for each in (first, second):
        journal.record(each)
    negative = replace(ANSWER, finding=NEGATIVE)
    notice = StoredResult("notice", "1.2", "2.25.7", "results/n.dcm")
    failed = Conclusion(InstanceState.FAILED, "broken", notices=[notice])

    journal.analyses.record_result(first.id, 1, negative)
    journal.analyses.conclude(second.id, 1, failed)
    deliver(journal, second, 1, "2.25.7")
    journal.analyze_again(second.id)
    journal.analyses.record_result(second.id, 2, negative)

    assert state_of(journal, first) == InstanceState.ANALYZED
    assert state_of(journal, second) == InstanceState.DELIVERING
    deliver(journal, second, 2, "2.25.1")
    assert state_of(journal, second) == InstanceState.DELIVERED


def test_negative_answer_is_delivered_after_a_partial_delivery(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    kinds = ("secondary_capture", "structured_report")
    journal = with_pacs(engine, tmp_path, send_negative=False, results=kinds)
    one = receive()
    journal.record(one)
    report = StoredResult("structured_report", "1.3", "2.25.2", "results/r.dcm")
    both = replace(ANSWER, results=[*ANSWER.results, report])
    journal.analyses.record_result(one.id, 1, both)
    journal.deliveries.begin(one.id, "pacs", 1)
    half = {"2.25.1": STORED, "2.25.2": LOST}
    journal.delivery_outcomes.record(one.id, destination("pacs"), 1, half)

    journal.analyze_again(one.id)
    journal.analyses.record_result(one.id, 2, replace(both, finding=NEGATIVE))

    assert state_of(journal, one) == InstanceState.DELIVERING


@pytest.mark.parametrize("previous_release", [False, True])
@pytest.mark.parametrize("cause", ["repeated", "send again", "analyzed again"])
def test_negative_answer_that_replaces_a_positive_one_is_never_dropped(
    engine: sa.Engine,
    tmp_path: Path,
    receive: Receive,
    cause: str,
    previous_release: bool,  # noqa: FBT001
) -> None:
    journal = with_pacs(engine, tmp_path, send_negative=False)
    one = receive()
    journal.record(one)
    journal.analyses.record_result(one.id, 1, ANSWER)
    deliver(journal, one, 1, "2.25.1")
    if previous_release:
        with engine.begin() as connection:
            connection.execute(delivery.update().values(stored_at=None))
    journal.analyze_again(one.id)
    negative = replace(ANSWER, finding=NEGATIVE)
    journal.analyses.record_result(one.id, 2, negative)  # has not arrived

    if cause == "repeated":
        journal.deliveries.begin(one.id, "pacs", 2)
        journal.delivery_outcomes.record(
            one.id, destination("pacs"), 2, {"2.25.1": REFUSED}
        )
        journal.record(receive(sop_instance_uid=one.header.sop_instance_uid))
    elif cause == "send again":
        assert journal.deliveries.send_again(one.id)
    else:
        journal.analyze_again(one.id)
        journal.analyses.record_result(one.id, 3, negative)

    assert state_of(journal, one) == InstanceState.DELIVERING
    with engine.connect() as connection:
        run = connection.execute(sa.select(delivery.c.run)).scalar_one()
    assert journal.deliveries.begin(one.id, "pacs", run) == {"2.25.1": "results/a.dcm"}


@pytest.mark.parametrize("outcome", [None, LOST], ids=["in-flight", "no-response"])
def test_negative_answer_follows_a_positive_one_that_may_have_been_stored(
    engine: sa.Engine, tmp_path: Path, receive: Receive, outcome: Outcome | None
) -> None:
    journal = with_pacs(engine, tmp_path, send_negative=False)
    one, pacs = receive(), destination("pacs")
    journal.record(one)
    journal.analyses.record_result(one.id, 1, ANSWER)
    journal.deliveries.begin(one.id, "pacs", 1)
    if outcome:
        journal.delivery_outcomes.record(one.id, pacs, 1, {"2.25.1": outcome})

    journal.analyze_again(one.id)
    negative = replace(ANSWER, finding=NEGATIVE)
    journal.analyses.record_result(one.id, 2, negative)

    assert state_of(journal, one) == InstanceState.DELIVERING
    run = state_and_run(engine, one)[1]
    assert journal.deliveries.begin(one.id, "pacs", run) == {"2.25.1": "results/a.dcm"}


@pytest.mark.parametrize(
    ("outcome", "patient_id"),
    [
        (STORED, "P1"),
        (STORED, "P2"),
        (RETRY, "P1"),  # may still arrive
        (None, "P1"),  # the first answer is negative, too
    ],
)
def test_negative_answer_follows_the_objects_of_an_earlier_revision(
    engine: sa.Engine,
    tmp_path: Path,
    receive: Receive,
    outcome: Outcome | None,
    patient_id: str,
) -> None:
    journal = with_pacs(engine, tmp_path, send_negative=False)
    first = receive("d1")
    uid = first.header.sop_instance_uid
    second = of(receive("d2", sop_instance_uid=uid), patient_id)
    negative = replace(ANSWER, finding=NEGATIVE, picture_digest="q" * 64)
    journal.record(of(first, "P1"))
    answer = ANSWER if outcome else replace(negative, picture_digest="p" * 64)
    journal.analyses.record_result(first.id, 1, answer)
    if outcome:
        journal.deliveries.begin(first.id, "pacs", 1)
        pacs = destination("pacs")
        journal.delivery_outcomes.record(first.id, pacs, 1, {"2.25.1": outcome})

    journal.record(second)
    journal.analyses.record_result(second.id, 1, negative)

    expected = InstanceState.DELIVERING if outcome else InstanceState.ANALYZED
    assert state_of(journal, second) == expected
    journal.record(of(receive("d2", sop_instance_uid=uid), patient_id))  # repeated
    assert state_of(journal, second) == expected


def of(received: ReceivedInstance, patient_id: str) -> ReceivedInstance:
    """Return a copy of the instance for the patient with this Patient ID."""
    header = replace(received.header, patient=Patient("Doe", patient_id))
    return replace(received, header=header)


def test_instance_with_only_an_hl7_message_is_not_outdated(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    """The PACS gets nothing about an image without a result. The RIS gets a message."""
    ris = Hl7Destination(name="ris", type="hl7", per="image", host="ris", port=2575)
    journal = Journal(engine, tmp_path, [destination("pacs"), ris])
    one = receive()
    journal.record(one)
    message = StoredResult("hl7_message", "", "2.25.7", "results/m.hl7")
    ended = Conclusion(InstanceState.NOT_ANALYZED, "A chest.", notices=[message])
    journal.analyses.conclude(one.id, 1, ended)

    journal.record(receive(sop_instance_uid=one.header.sop_instance_uid))

    row = journal.load(one.id)
    assert row
    assert (row.state, row.run) == (InstanceState.NOT_ANALYZED, 1)
    assert journal.deliveries.begin(one.id, "ris", 1) == {"2.25.7": "results/m.hl7"}


def test_repeated_instance_keeps_the_unfinished_delivery_of_its_notice(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    both = [destination(name, send_negative=False) for name in ("pacs", "backup")]
    journal, one = Journal(engine, tmp_path, both), receive()
    again = receive(sop_instance_uid=one.header.sop_instance_uid)
    journal.record(one)
    notice = StoredResult("notice", "1.2", "2.25.7", "results/n.dcm")
    ended = Conclusion(InstanceState.NOT_ANALYZED, "A chest.", notices=[notice])
    journal.analyses.conclude(one.id, 1, ended)
    deliver(journal, one, 1, "2.25.7", "backup")
    journal.deliveries.begin(one.id, "pacs", 1)
    journal.delivery_outcomes.record(
        one.id, destination("pacs"), 1, {"2.25.7": BRIEFLY}
    )
    waiting = state_and_run(engine, one)

    journal.record(again)

    assert waiting == (DeliveryState.QUEUED, 2)
    assert state_and_run(engine, one) == waiting
    assert state_and_run(engine, one, "backup") == (DeliveryState.QUEUED, 2)


def test_delivered_hl7_message_is_sent_again_only_if_a_user_requests_it(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    ris = Hl7Destination(name="ris", type="hl7", per="image", host="ris", port=2575)
    journal = Journal(engine, tmp_path, [ris])
    one = receive()
    journal.record(one)
    message = StoredResult("hl7_message", "", "2.25.7", "results/m.hl7")
    journal.analyses.record_result(one.id, 1, replace(ANSWER, results=[message]))
    journal.deliveries.begin(one.id, "ris", 1)
    journal.delivery_outcomes.record(one.id, ris, 1, {"2.25.7": STORED})

    journal.record(receive(sop_instance_uid=one.header.sop_instance_uid))

    assert journal.deliveries.begin(one.id, "ris", 2) is None
    assert state_of(journal, one) == InstanceState.DELIVERED
    assert journal.deliveries.send_again(one.id)
    assert journal.deliveries.begin(one.id, "ris", 2) == {"2.25.7": "results/m.hl7"}


def test_reason_mentions_an_undelivered_notice_until_it_is_delivered(
    engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    journal = with_pacs(engine, tmp_path, send_negative=False)
    one = receive()
    journal.record(one)
    notice = StoredResult("notice", "1.2", "2.25.7", "results/n.dcm")
    ended = Conclusion(InstanceState.NOT_ANALYZED, "A chest.", notices=[notice])
    journal.analyses.conclude(one.id, 1, ended)

    journal.deliveries.begin(one.id, "pacs", 1)
    journal.delivery_outcomes.record(
        one.id, destination("pacs"), 1, {"2.25.7": REFUSED}
    )
    refused = journal.load(one.id)
    journal.deliveries.retry(one.id, "pacs")
    deliver(journal, one, 2, "2.25.7")
    arrived = journal.load(one.id)

    assert refused
    assert arrived
    assert refused.reason == (
        "A chest. The notice of it has not arrived: pacs: 0xC000 Cannot Understand"
    )
    assert arrived.reason == "A chest."


def test_delivery_without_missing_objects_ends_at_once(
    journal: Journal, analyzed: ReceivedInstance
) -> None:
    journal.deliveries.begin(analyzed.id, "pacs", 1)
    journal.delivery_outcomes.record(
        analyzed.id, destination("pacs"), 1, {"2.25.1": STORED}
    )
    journal.deliveries.retry(analyzed.id, "pacs")

    assert journal.deliveries.begin(analyzed.id, "pacs", 2) == {}
    state = journal.delivery_outcomes.record(analyzed.id, destination("pacs"), 2, {})

    assert state == DeliveryState.DELIVERED


def test_repeated_instance_replaces_a_missing_file(
    journal: Journal, receive: Receive
) -> None:
    first = receive()
    journal.record(first)
    again = receive(sop_instance_uid=first.header.sop_instance_uid)

    first.path.unlink()
    again.path.write_bytes(b"the same bytes")

    assert journal.record(again)
    assert first.path.read_bytes() == b"the same bytes"


def test_repeated_instance_completes_uids_that_an_older_release_truncated(
    journal: Journal, receive: Receive
) -> None:
    uid = "1.2." + "9" * 63
    first = receive(study_instance_uid=uid[:64], series_instance_uid=uid[:64])
    journal.record(first)
    sop_instance_uid = first.header.sop_instance_uid

    journal.record(
        receive(
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=uid,
            series_instance_uid=uid,
        )
    )

    row = journal.load(first.id)
    assert row is not None
    assert (row.study_instance_uid, row.series_instance_uid) == (uid, uid)


def test_assumptions_about_the_header_are_events(
    journal: Journal, receive: Receive, engine: sa.Engine
) -> None:
    received = receive()
    header = replace(received.header, assumptions=("A.", "B."))

    journal.record(replace(received, header=header))

    assert events(engine) == ["received", "assumption", "assumption"]


def test_picture_that_has_an_answer_under_the_same_uid_is_refused(
    journal: Journal, analyzed: ReceivedInstance, receive: Receive
) -> None:
    uid = analyzed.header.sop_instance_uid
    other = receive("d2", sop_instance_uid=uid)
    unrelated = receive("d3")
    journal.record(other)
    journal.record(unrelated)
    row, unrelated_row = (journal.load(each.id) for each in (other, unrelated))
    assert row is not None
    assert unrelated_row is not None
    refuse = journal.analyses.refuse_analyzed

    with pytest.raises(SamePictureError, match=r"revision 1\. The results") as refusal:
        refuse(row, ANSWER.picture_digest, ANSWER.identity_digest)

    assert refusal.value.known == analyzed.id
    refuse(row, "q" * 64, ANSWER.identity_digest)
    refuse(unrelated_row, ANSWER.picture_digest, ANSWER.identity_digest)


def test_digest_of_an_earlier_release_is_compared_with_the_first_part(
    journal: Journal, analyzed: ReceivedInstance, receive: Receive
) -> None:
    other = receive("d2", sop_instance_uid=analyzed.header.sop_instance_uid)
    journal.record(other)
    row = journal.load(other.id)
    assert row is not None
    picture, earlier = ANSWER.picture_digest, ANSWER.identity_digest
    assert len(earlier) == 64

    with pytest.raises(SamePictureError):
        journal.analyses.refuse_analyzed(row, picture, earlier + "n" * 64)

    journal.analyses.refuse_analyzed(row, picture, "j" * 64 + "n" * 64)


@pytest.mark.parametrize("sender", ["MODALITY", "ROOM2"])
def test_each_sender_gets_results_if_results_return_to_senders(
    journal: Journal, engine: sa.Engine, tmp_path: Path, receive: Receive, sender: str
) -> None:
    address = Address(ae_title="ROOM2", host="localhost", port=104)
    back = SenderDestination(name="back", type="sender", peers=(address,))
    journal = Journal(engine, tmp_path, [back])
    first = receive()
    journal.record(first)
    assert journal.analyses.record_result(first.id, 1, ANSWER)
    uid = first.header.sop_instance_uid
    second = replace(receive("d2", sop_instance_uid=uid), calling_ae_title=sender)
    journal.record(second)
    row = journal.load(second.id)
    assert row is not None
    known = ANSWER.picture_digest, ANSWER.identity_digest

    if sender == "MODALITY":
        with pytest.raises(SamePictureError):
            journal.analyses.refuse_analyzed(row, *known)
    else:
        journal.analyses.refuse_analyzed(row, *known)
        assert journal.analyses.record_result(second.id, 1, ANSWER)


def test_known_picture_gets_an_answer_if_a_user_requests_the_analysis(
    journal: Journal, analyzed: ReceivedInstance, receive: Receive
) -> None:
    other = receive("d2", sop_instance_uid=analyzed.header.sop_instance_uid)
    journal.record(other)
    journal.analyze_again(other.id)
    row = journal.load(other.id)
    assert row is not None

    journal.analyses.refuse_analyzed(row, ANSWER.picture_digest, ANSWER.identity_digest)

    assert journal.analyses.record_result(other.id, 2, ANSWER)


ACQUIRED = HAND | {"acquisition": "20260102030405"}
OF_THE_SOURCE = {"source_uids": "1.2.9"}


@pytest.mark.parametrize(
    ("presentation", "belongs_together"),
    [
        pytest.param(OF_THE_SOURCE, True, id="names-its-source"),
        pytest.param({"source_uids": "1.2.99"}, False, id="names-another"),
        pytest.param(
            ACQUIRED | {"source_uids": "1.2.99"}, False, id="same-and-names-another"
        ),
        pytest.param(ACQUIRED, True, id="same-acquisition"),
        pytest.param(ACQUIRED | {"view_position": ""}, True, id="less-labels"),
        pytest.param(HAND, False, id="same-labels"),
        pytest.param(
            ACQUIRED | {"acquisition": "20260102030406"}, False, id="other-acquisition"
        ),
        *(
            pytest.param(given | changed, False, id=f"{label}-{name}")
            for label, given in (
                ("named", OF_THE_SOURCE | HAND),
                ("acquired", ACQUIRED),
            )
            for name, changed in (
                ("other-acquisition", {"acquisition": "20260102030406"}),
                ("other-view", {"view_position": "PA"}),
                ("other-part", {"body_part": "FOOT"}),
                ("other-side", {"laterality": "R"}),
                ("other-study", {"study_instance_uid": "1.2.4"}),
                ("capture", {"sop_class_uid": SecondaryCaptureImageStorage}),
                ("other-patient", {"patient_id": "4712"}),
                ("other-name", {"name": "Doe^Jack"}),
                ("other-sender", {"calling_ae_title": "STRANGER"}),
                ("other-address", {"calling_address": "127.0.0.2"}),
                ("unanswered", {"unanswered": "yes"}),
            )
        ),
    ],
)
def test_for_processing_image_is_delayed_and_finds_its_for_presentation_image(
    journal: Journal,
    engine: sa.Engine,
    receive: Receive,
    presentation: dict[str, str],
    belongs_together: bool,  # noqa: FBT001
) -> None:
    raw = receive(
        sop_class_uid=DigitalXRayImageStorageForProcessing,
        sop_instance_uid="1.2.9",
        **ACQUIRED,
    )
    journal.record(named(raw, {}))
    given = dict(presentation)
    sources = tuple(given.pop("source_uids", "").split())
    is_answered = not given.pop("unanswered", "")
    header = {key: given.pop(key) for key in [*given] if key in HEADER}
    for_presentation = named(receive("d2", **header), given)
    header_ = replace(for_presentation.header, source_sop_instance_uids=sources)
    for_presentation = replace(for_presentation, header=header_)
    journal.record(for_presentation)
    if is_answered:
        assert journal.analyses.record_result(for_presentation.id, 1, ANSWER)
    row = journal.load(raw.id)
    assert row is not None

    found = journal.analyses.find_for_presentation_image(row)

    assert dict(work(engine))[f"analyze:{raw.id}:1"] == "DELAYED"
    assert found == (
        for_presentation.header.sop_instance_uid if belongs_together else None
    )


HEADER = (*ACQUIRED, "study_instance_uid", "sop_class_uid")


def named(received: ReceivedInstance, given: dict[str, str]) -> ReceivedInstance:
    """Return an instance with changed patient and sender.

    `given` has fields of Patient and of ReceivedInstance. The default patient is
    Doe^Jane with the id 4711.
    """
    identity = {"patient_id": "4711", "name": "Doe^Jane"}
    identity |= {key: given[key] for key in identity if key in given}
    sender = {key: value for key, value in given.items() if key not in identity}
    header = replace(received.header, patient=Patient(**identity))
    return replace(received, header=header, **sender)


@pytest.mark.parametrize("known", [{}, HAND])
def test_images_without_a_known_acquisition_do_not_belong_together(
    journal: Journal, receive: Receive, known: dict[str, str]
) -> None:
    raw = receive(sop_class_uid=DigitalXRayImageStorageForProcessing, **known)
    journal.record(raw)
    for_presentation = receive("d2", **known)
    journal.record(for_presentation)
    assert journal.analyses.record_result(for_presentation.id, 1, ANSWER)
    row = journal.load(raw.id)
    assert row is not None

    assert journal.analyses.find_for_presentation_image(row) is None


@pytest.mark.usefixtures("analyzed")
@pytest.mark.parametrize(
    ("sop_class_uid", "is_return"),
    [
        (DigitalXRayImageStorageForPresentation, False),
        (SecondaryCaptureImageStorage, True),
    ],
)
def test_only_a_capture_with_the_uid_of_a_result_is_a_returned_result(
    journal: Journal,
    receive: Receive,
    sop_class_uid: str,
    is_return: bool,  # noqa: FBT001
) -> None:
    same = receive("d9", sop_instance_uid="2.25.1", sop_class_uid=sop_class_uid)

    journal.record(same)

    row = journal.load(same.id)
    assert row is not None
    assert bool(row.returned) is is_return


@pytest.mark.usefixtures("analyzed")
@pytest.mark.parametrize(
    ("reason", "is_return"),
    [(Unanalyzed.OWN_RESULT, True), (Unanalyzed.AGE, False), (Failure.BROKEN, False)],
)
def test_only_an_own_result_stays_a_returned_result_after_its_analysis(
    journal: Journal,
    receive: Receive,
    reason: Unanalyzed | Failure,
    is_return: bool,  # noqa: FBT001
) -> None:
    capture = SecondaryCaptureImageStorage
    same = receive("d9", sop_instance_uid="2.25.1", sop_class_uid=capture)
    journal.record(same)
    state = InstanceState.NOT_ANALYZED
    ended = Conclusion(state, "why", counted_as=reason)

    journal.analyses.conclude(same.id, 1, ended)

    row = journal.load(same.id)
    assert row is not None
    assert bool(row.returned) is is_return


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """Start all tasks at the same moment, each in its thread; return their results."""
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        start.wait(30)
        return task()

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(run, tasks))


def test_two_deliveries_that_end_at_the_same_moment_leave_the_instance_delivered(
    journal: Journal, receive: Receive
) -> None:
    for _ in range(10):
        one = receive()
        journal.record(one)
        journal.analyses.record_result(one.id, 1, ANSWER)
        for name in ("pacs", "backup"):
            journal.deliveries.begin(one.id, name, 1)
        record = journal.delivery_outcomes.record
        stored = {"2.25.1": STORED}

        at_once(
            *(
                partial(record, one.id, destination(name), 1, stored)
                for name in ("pacs", "backup")
            )
        )

        assert state_of(journal, one) == InstanceState.DELIVERED


def test_the_same_instance_from_many_senders_at_the_same_moment_is_recorded_once(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    for _ in range(10):
        uid = generate_uid()
        copies = [receive(sop_instance_uid=uid) for _ in range(4)]

        are_new = at_once(*(partial(journal.record, each) for each in copies))

        assert sorted(are_new) == [False, False, False, True]
    assert len(work(engine)) == 10


def test_revisions_that_come_at_the_same_moment_have_different_numbers(
    journal: Journal, receive: Receive
) -> None:
    for _ in range(10):
        uid = generate_uid()
        copies = [receive(f"d{n}", sop_instance_uid=uid) for n in range(4)]

        at_once(*(partial(journal.record, each) for each in copies))

        rows = [journal.load(each.id) for each in copies]
        assert sorted(row.revision for row in rows if row) == [1, 2, 3, 4]


def test_simultaneous_answers_to_one_picture_are_recorded_once(
    journal: Journal, receive: Receive
) -> None:
    def answer(each: ReceivedInstance) -> str:
        try:
            journal.analyses.record_result(each.id, 1, ANSWER)
        except SamePictureError as error:
            return error.known
        return ""

    for _ in range(10):
        uid = generate_uid()
        copies = [receive(f"d{n}", sop_instance_uid=uid) for n in range(2)]
        for each in copies:
            journal.record(each)

        known = at_once(*(partial(answer, each) for each in copies))

        assert sorted(map(bool, known)) == [False, True]
        assert copies[known.index("")].id in known


def test_a_delivery_that_begins_while_its_destination_is_resumed_is_not_held_forever(
    journal: Journal, receive: Receive
) -> None:
    begin, resume = journal.deliveries.begin, journal.deliveries.resume
    for _ in range(10):
        one = receive()
        journal.record(one)
        journal.analyses.record_result(one.id, 1, ANSWER)
        journal.deliveries.pause("pacs")

        at_once(partial(begin, one.id, "pacs", 1), partial(resume, "pacs"))

        assert any(begin(one.id, "pacs", run) for run in (1, 2))


def test_sqlite_writer_waits_for_other_threads_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    engine = open_engine(f"sqlite:///{tmp_path / 'journal.db'}")
    begun: list[sa.Connection] = []
    sa.event.listen(engine, "begin", begun.append)

    def write() -> None:
        with writing(engine):
            pass

    with ThreadPoolExecutor(1) as pool, writing(engine):
        with pytest.raises(SQLAlchemyError, match="busy"):
            pool.submit(write).result()
        assert len(begun) == 1
    with pytest.raises(ZeroDivisionError), writing(engine):
        _ = 1 / 0

    write()
    assert len(begun) == 3
    engine.dispose()


def test_processes_may_migrate_at_the_same_moment(
    create: Callable[[], StorageSettings],
) -> None:
    storage = create()

    at_once(*[partial(migrate, storage)] * 3)

    engine = open_engine(storage.database_url)
    check_schema(engine)
    engine.dispose()


def test_migrate_waits_until_another_process_has_written(tmp_path: Path) -> None:
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)
    file = storage.database_url.removeprefix("sqlite:///")
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE written (number INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    commit = threading.Timer(0.5, other.execute, ["COMMIT"])
    commit.start()

    migrate(storage)

    commit.join()
    other.close()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_size_of_the_largest_allowed_instance_can_be_recorded(
    journal: Journal, receive: Receive
) -> None:
    large = replace(receive(), size=4096 * 1_000_000)

    journal.record(large)

    row = journal.load(large.id)
    assert row is not None
    assert row.size == 4_096_000_000


def test_unreachable_database_is_not_reported_as_outdated(tmp_path: Path) -> None:
    engine = open_engine(f"postgresql+psycopg://nobody@/none?host={tmp_path}")

    with pytest.raises(SchemaError, match=r"cannot be opened: .*No such file"):
        check_schema(engine)


def test_pauses_double_up_to_a_bound() -> None:
    for attempts, longest in [
        (1, 2),
        (2, 4),
        (5, 32),
        (9, RETRY_MAX_DELAY_S),
        (500, 300),
    ]:
        assert longest / 2 <= retry_delay_s(attempts) <= longest


def test_unmigrated_database_is_refused_and_migrate_can_be_repeated(
    create: Callable[[], StorageSettings],
) -> None:
    storage = create()
    engine = open_engine(storage.database_url)
    with pytest.raises(SchemaError, match=r"schema 0.*fracture-node migrate"):
        check_schema(engine)

    migrate(storage)
    migrate(storage)

    check_schema(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("works_from", "is_known"), [("NULL", False), ("{n}", True), ("{n} + 1", False)]
)
def test_a_newer_database_is_refused_unless_it_knows_this_release(
    engine: sa.Engine, works_from: str, *, is_known: bool
) -> None:
    values = works_from.format(n="(SELECT MAX(version) FROM journal_version)")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO journal_version (version, works_from) SELECT 999, {values}"
        )

    try:
        if is_known:
            check_schema(engine)
            return
        with pytest.raises(SchemaError, match=r"schema 999.*Install the release"):
            check_schema(engine)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM journal_version WHERE version=999")


def test_schema_names_the_oldest_release_that_works_with_it(
    engine: sa.Engine,
) -> None:
    with engine.connect() as connection:
        newest = connection.exec_driver_sql(
            "SELECT version, works_from FROM journal_version ORDER BY version DESC"
        ).first()

    assert newest is not None
    assert newest.works_from == WORKS_FROM <= newest.version


def test_the_addresses_that_send_images_take_turns_in_each_lane(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    images = [
        replace(receive(digest=str(number)), calling_address=address)
        for number, address in enumerate(["10.0.0.1"] * 3 + ["10.0.0.2"])
    ]
    for each in images:
        journal.record(each)
        journal.analyses.continue_separately(each.id, 1, "It may be slow.")
        journal.analyses.continue_slowly(each.id, 1, "The decoder was killed.")
    table = work_item(engine)
    expected = [images[0].id, images[3].id, images[1].id, images[2].id]

    for lane in (ANALYZE, ANALYZE_SEPARATELY, ANALYZE_SLOWLY):
        query = sa.select(table.c.workflow_uuid).where(table.c.queue_name == lane)
        query = query.order_by(table.c.priority, sa.column("created_at"))
        with engine.connect() as connection:
            order = connection.execute(query).scalars().all()
        assert [each.split(":")[1] for each in order] == expected


def test_images_that_were_analyzed_do_not_delay_the_next_one_of_their_address(
    journal: Journal, engine: sa.Engine, tmp_path: Path, receive: Receive
) -> None:
    """Two processes queue images. Only the second one sees that no image waits."""
    other = Journal(engine, tmp_path, [])
    digests = map(str, range(20))

    def priority(process: Journal, address: str) -> int:
        received = replace(receive(next(digests)), calling_address=address)
        process.record(received)
        row = work_item(engine).c
        query = sa.select(row.priority)
        query = query.where(row.workflow_uuid == f"analyze:{received.id}:1")
        with engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    assert [priority(journal, "10.0.0.1") for _ in range(3)] == [1, 2, 3]
    with engine.begin() as connection:
        connection.execute(work_item(engine).update().values(status="SUCCESS"))
    assert [priority(other, "10.0.0.2") for _ in range(5)] == [1, 2, 3, 4, 5]

    assert [priority(journal, "10.0.0.1") for _ in range(3)] == [1, 2, 3]


def test_images_that_come_last_are_behind_all_others_of_the_separate_lane(
    journal: Journal, engine: sa.Engine, receive: Receive
) -> None:
    images = [
        replace(receive(digest=str(number)), calling_address=address)
        for number, address in enumerate(["10.0.0.1"] * 3 + ["10.0.0.2", "10.0.0.3"])
    ]
    for number, each in enumerate(images):
        journal.record(each)
        journal.analyses.continue_separately(
            each.id, 1, "It may be slow.", comes_last=number < 4
        )
    table = work_item(engine)
    query = sa.select(table.c.workflow_uuid, table.c.priority)
    query = query.where(table.c.queue_name == ANALYZE_SEPARATELY)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(table.c.priority)).all()

    order = [row.workflow_uuid.split(":")[1] for row in rows]
    assert order[0] == images[4].id
    assert [row.priority for row in rows] == [1, *(LAST + n for n in (1, 1, 2, 3))]
    assert set(order[1:3]) == {images[0].id, images[3].id}
    assert order[3:] == [images[1].id, images[2].id]
