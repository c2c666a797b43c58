"""Retention removes expired files and rows of finished instances, and no others."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import RetentionSettings, load
from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.instance import ReceivedInstance
from dicom_node.journal import retention
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.journal.reader_feedback import Feedback, Judgement
from dicom_node.journal.retention import DAY_S, Deleted, delete_expired
from dicom_node.storage.tables import (
    DeliveryState,
    InstanceState,
    audit,
    commitment,
    delivered_object,
    delivery,
    event,
    feedback,
    finding,
    instance,
    patient,
    result,
)
from tests.support.journals import (
    ANSWER,
    REFUSED,
    RETRY,
    STORED,
    Receive,
    destination,
    state_of,
)

pytestmark = pytest.mark.integration

KEPT = RetentionSettings(
    delivered_days=7, failed_days=30, journal_days=365, audit_days=2190
)
UNANALYZED = Conclusion(InstanceState.NOT_ANALYZED, "a chest")
BROKEN = Conclusion(InstanceState.FAILED, "broken")
LEAVES = (commitment, delivered_object, delivery, result, event, feedback, finding)
TABLES = (*LEAVES, patient, instance)


def row(event: AuditEvent) -> dict[str, object]:
    details = {"who": event.user_id, "address": event.address, "about": event.details}
    return {"what": event.event_type, **details, "role": "api", "times": 1}


class Keeper:
    """A journal and its files.

    `pass_days` lets instances age, and `sweep` removes expired files and rows.
    """

    def __init__(self, engine: sa.Engine, journal: Journal, folder: Path) -> None:
        self.engine, self.journal, self.folder = engine, journal, folder
        (folder / "results").mkdir()

    def receive(self, received: ReceivedInstance) -> ReceivedInstance:
        received.path.write_bytes(b"pixels")
        assert self.journal.record(received)
        return received

    def answer(self, received: ReceivedInstance) -> str:
        """Record an analysis with one result; return the path of the result."""
        path, uid = f"results/{received.id}.dcm", f"2.25.{int(received.id, 16)}"
        (self.folder / path).write_bytes(b"arrow")
        stored = StoredResult("secondary_capture", "1.2", uid, path)
        answer = replace(ANSWER, results=[stored])
        row = self.journal.load(received.id)
        assert row is not None
        assert self.journal.analyses.record_result(received.id, row.run, answer)
        return path

    def record_outcomes(self, received: ReceivedInstance, **outcomes: object) -> None:
        uid = f"2.25.{int(received.id, 16)}"
        for name, outcome in outcomes.items():
            row = self.delivery(received, name)
            self.journal.deliveries.begin(received.id, name, row.run)
            by_uid = {uid: outcome}
            self.journal.delivery_outcomes.record(
                received.id,
                destination(name),
                row.run,
                by_uid,  # type: ignore[arg-type]
            )

    def delivered(self, received: ReceivedInstance) -> str:
        self.receive(received)
        path = self.answer(received)
        self.record_outcomes(received, pacs=STORED, backup=STORED)
        assert state_of(self.journal, received) == InstanceState.DELIVERED
        return path

    def delivery(self, received: ReceivedInstance, name: str) -> sa.Row[tuple[object]]:
        query = delivery.select().where(
            delivery.c.instance_id == received.id, delivery.c.destination == name
        )
        with self.engine.connect() as connection:
            return connection.execute(query).one()

    def pass_days(self, days: float) -> None:
        """Move the ends of instances and the times of events `days` into the past."""
        with self.engine.begin() as connection:
            for column in (instance.c.ended_at, event.c.at):
                earlier = {column: column - days * DAY_S}
                connection.execute(sa.update(column.table).values(earlier))

    def sweep(self, kept: RetentionSettings = KEPT) -> Deleted:
        return delete_expired(self.engine, self.folder, kept)

    def rows(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {
                table.name: connection.execute(
                    sa.select(sa.func.count()).select_from(table)
                ).scalar_one()
                for table in TABLES
            }


@pytest.fixture
def keeper(engine: sa.Engine, journal: Journal, tmp_path: Path) -> Keeper:
    return Keeper(engine, journal, tmp_path)


def test_default_retention_is_7_days_and_longer_for_failures_and_rows() -> None:
    assert load(None, {}).retention == KEPT


def test_delivered_instance_is_removed_with_its_results_after_its_days(
    keeper: Keeper, receive: Receive
) -> None:
    one = receive()
    path = keeper.delivered(one)
    keeper.pass_days(6.9)

    assert keeper.sweep() == Deleted(files=0, rows=0)
    assert one.path.exists()
    assert (keeper.folder / path).exists()
    keeper.pass_days(0.2)
    assert keeper.sweep() == Deleted(files=1, rows=0)
    assert not one.path.exists()
    assert not (keeper.folder / path).exists()
    assert state_of(keeper.journal, one) == InstanceState.DELIVERED
    assert keeper.rows()["finding"] == 0  # has the drawing over the image
    assert keeper.rows()["patient"] == 1
    assert keeper.sweep() == Deleted(files=0, rows=0)


def test_failed_instances_are_kept_longer(keeper: Keeper, receive: Receive) -> None:
    broken, refused, other = (keeper.receive(receive()) for _ in range(3))
    keeper.journal.analyses.conclude(broken.id, 1, BROKEN)
    keeper.answer(refused)
    keeper.record_outcomes(refused, pacs=STORED, backup=REFUSED)
    keeper.journal.analyses.conclude(other.id, 1, UNANALYZED)
    keeper.pass_days(29)

    assert keeper.sweep() == Deleted(files=1, rows=0)
    assert not other.path.exists()
    keeper.pass_days(2)
    assert keeper.sweep() == Deleted(files=2, rows=0)
    assert not broken.path.exists()
    assert not refused.path.exists()


@pytest.mark.parametrize("state", ["received", "queued", "paused", "committing"])
def test_unfinished_instance_is_kept_at_any_age(
    state: str, keeper: Keeper, receive: Receive
) -> None:
    one = keeper.receive(receive())
    if state != "received":
        keeper.answer(one)
        keeper.record_outcomes(one, pacs=STORED)
    if state == "paused":
        keeper.journal.deliveries.pause("backup")
        keeper.journal.deliveries.begin(one.id, "backup", 1)
    if state == "queued":
        keeper.record_outcomes(one, backup=RETRY)
    if state == "committing":
        with keeper.engine.begin() as connection:
            selected = delivery.c.destination == "backup"
            values = {"state": DeliveryState.COMMITTING}
            connection.execute(delivery.update().where(selected).values(values))
    with keeper.engine.begin() as connection:
        connection.execute(instance.update().values(received_at=0.0))
    keeper.pass_days(10_000)

    assert keeper.sweep() == Deleted(files=0, rows=0)
    assert one.path.exists()
    assert keeper.rows()["instance"] == 1


def test_unanalyzed_instance_is_kept_until_its_notice_is_finished(
    keeper: Keeper, receive: Receive
) -> None:
    journal = Journal(
        keeper.engine, keeper.folder, [destination("pacs", send_negative=False)]
    )
    one = keeper.receive(receive())
    notice = StoredResult("notice", "1.2", "2.25.7", "results/n.dcm")
    journal.analyses.conclude(one.id, 1, replace(UNANALYZED, notices=[notice]))
    keeper.pass_days(10_000)

    assert state_of(journal, one) == InstanceState.NOT_ANALYZED
    assert keeper.sweep() == Deleted(files=0, rows=0)
    journal.delivery_outcomes.fail_permanently(one.id, "pacs", 1, "away")
    keeper.pass_days(29)
    # The delivery of the notice failed, and can be retried.
    assert keeper.sweep() == Deleted(files=0, rows=0)
    keeper.pass_days(2)
    assert keeper.sweep().files == 1


def test_retry_and_repeated_analysis_restart_the_retention_time(
    keeper: Keeper, receive: Receive
) -> None:
    retried, analyzed = receive(), receive()
    for each in (retried, analyzed):
        keeper.receive(each)
        keeper.answer(each)
        keeper.record_outcomes(each, pacs=STORED, backup=REFUSED)
    keeper.pass_days(10_000)

    assert keeper.journal.deliveries.retry(retried.id, "backup")
    assert keeper.journal.analyze_again(analyzed.id)
    assert keeper.sweep() == Deleted(files=0, rows=0)
    keeper.record_outcomes(retried, backup=STORED)
    keeper.pass_days(6)
    assert keeper.sweep() == Deleted(files=0, rows=0)


def test_retry_and_analysis_are_refused_after_the_files_are_removed(
    keeper: Keeper, receive: Receive
) -> None:
    one = keeper.receive(receive())
    keeper.answer(one)
    keeper.record_outcomes(one, pacs=STORED, backup=REFUSED)
    keeper.pass_days(31)
    keeper.sweep()

    assert not keeper.journal.analyze_again(one.id)
    assert not keeper.journal.deliveries.retry(one.id, "backup")
    assert state_of(keeper.journal, one) == InstanceState.FAILED


def test_instance_received_again_after_its_removal_is_analyzed_again(
    keeper: Keeper, receive: Receive
) -> None:
    one = receive()
    keeper.delivered(one)
    keeper.pass_days(8)
    keeper.sweep()
    again = receive(sop_instance_uid=one.header.sop_instance_uid)
    again.path.write_bytes(b"pixels again")

    assert keeper.journal.record(again)
    assert one.path.read_bytes() == b"pixels again"
    assert not again.path.exists()
    row = keeper.journal.load(one.id)
    assert row is not None
    assert (row.state, row.run, row.ended_at) == (InstanceState.RECEIVED, 2, None)
    assert keeper.journal.stored_instances([one.id]) == {one.id}
    keeper.pass_days(10_000)
    assert keeper.sweep() == Deleted(files=0, rows=0)


def test_repeated_revision_is_analyzed_if_its_file_and_shared_results_are_removed(
    keeper: Keeper, receive: Receive
) -> None:
    first = receive()
    keeper.delivered(first)
    second = receive("d2", sop_instance_uid=first.header.sop_instance_uid)
    keeper.receive(second)
    same = replace(UNANALYZED, same_picture_as=first.id)
    keeper.journal.analyses.conclude(second.id, 1, same)
    keeper.pass_days(8)
    assert keeper.sweep().files == 2
    again = receive("d2", sop_instance_uid=first.header.sop_instance_uid)

    assert keeper.journal.record(again)

    assert state_of(keeper.journal, second) == InstanceState.RECEIVED
    assert state_of(keeper.journal, first) == InstanceState.DELIVERED


def test_repeated_revision_with_a_file_is_analyzed_if_shared_results_are_removed(
    keeper: Keeper, receive: Receive
) -> None:
    first = receive()
    keeper.delivered(first)
    keeper.pass_days(8)
    second = receive("d2", sop_instance_uid=first.header.sop_instance_uid)
    keeper.receive(second)
    same = replace(UNANALYZED, same_picture_as=first.id)
    keeper.journal.analyses.conclude(second.id, 1, same)
    assert keeper.sweep().files == 1
    again = receive("d2", sop_instance_uid=first.header.sop_instance_uid)

    assert not keeper.journal.record(again)

    assert state_of(keeper.journal, second) == InstanceState.RECEIVED
    assert state_of(keeper.journal, first) == InstanceState.DELIVERED


def test_journal_does_not_know_files_that_are_recorded_as_removed(
    keeper: Keeper, receive: Receive
) -> None:
    one = receive()
    path = keeper.delivered(one)
    other = keeper.delivered(receive())
    assert keeper.journal.needed_result_files([path, other, "results/x"]) == {
        path,
        other,
    }
    with keeper.engine.begin() as connection:
        selected = instance.c.id == one.id
        connection.execute(
            instance.update().where(selected).values(files_removed_at=1.0)
        )

    assert keeper.journal.stored_instances([one.id]) == set()
    assert keeper.journal.needed_result_files([path, other]) == {other}


def test_rows_of_all_tables_are_removed_after_their_files(
    keeper: Keeper, receive: Receive
) -> None:
    one = receive()
    keeper.delivered(one)
    keeper.journal.deliveries.pause("pacs")
    keeper.journal.deliveries.resume("pacs")
    with keeper.engine.begin() as connection:
        row = connection.execute(delivery.select()).first()
        assert row is not None
        keys = {"instance_id": row.instance_id, "destination": row.destination}
        times = {"asked_at": 1.0, "closed_at": 2.0}
        connection.execute(
            commitment.insert().values(transaction_uid="2.25.1", **keys, **times)
        )
    keeper.pass_days(364)

    assert Feedback(keeper.engine).record(one.id, "anna", Judgement.AGREE)
    assert all(keeper.rows().values())
    assert keeper.sweep() == Deleted(files=1, rows=0)
    keeper.pass_days(2)
    assert keeper.sweep() == Deleted(files=0, rows=1)
    assert not any(keeper.rows().values())


def test_all_revisions_of_a_uid_are_removed_together(
    keeper: Keeper, receive: Receive
) -> None:
    old = receive()
    keeper.delivered(old)
    keeper.pass_days(400)
    young = receive("d2", sop_instance_uid=old.header.sop_instance_uid)
    keeper.receive(young)
    same = replace(UNANALYZED, same_picture_as=old.id)
    keeper.journal.analyses.conclude(young.id, 1, same)
    keeper.pass_days(8)

    assert keeper.sweep() == Deleted(files=2, rows=0)
    keeper.pass_days(400)
    assert keeper.sweep() == Deleted(files=0, rows=2)


def test_audit_trail_has_its_own_retention_time(keeper: Keeper) -> None:
    event = AuditEvent(AuditEventType.VIEWED, "anna", details="/")
    with keeper.engine.begin() as connection:
        for days in (2189, 2191):
            at = time.time() - days * DAY_S
            connection.execute(audit.insert().values(**row(event), at=at))

    keeper.sweep()

    with keeper.engine.connect() as connection:
        (left,) = connection.execute(audit.select())
    assert left.at > time.time() - 2190 * DAY_S


def test_zero_days_keep_instances_forever(keeper: Keeper, receive: Receive) -> None:
    keeper.delivered(receive())
    keeper.journal.analyses.conclude(keeper.receive(receive()).id, 1, BROKEN)
    keeper.pass_days(10_000)
    zero = RetentionSettings(
        delivered_days=0, failed_days=0, journal_days=0, audit_days=0
    )

    assert keeper.sweep(zero) == Deleted(files=0, rows=0)
    assert keeper.sweep(zero.model_copy(update={"failed_days": 1})).files == 1
    assert keeper.rows()["instance"] == 2


def test_one_sweep_removes_several_batches(
    keeper: Keeper, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        keeper.journal.analyses.conclude(keeper.receive(receive()).id, 1, UNANALYZED)
    keeper.pass_days(400)

    assert keeper.sweep() == Deleted(files=5, rows=5)


def test_file_that_cannot_be_removed_stays_known_to_the_journal(
    keeper: Keeper, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = receive()
    keeper.delivered(one)
    keeper.pass_days(8)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(PermissionError):
            keeper.sweep()
    assert keeper.journal.stored_instances([one.id]) == {one.id}
    assert keeper.sweep() == Deleted(files=1, rows=0)


def test_instance_received_during_the_removal_of_its_file_has_a_file(
    keeper: Keeper, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = receive()
    keeper.delivered(one)
    keeper.pass_days(8)
    again = receive(sop_instance_uid=one.header.sop_instance_uid)
    again.path.write_bytes(b"again")
    unlink = Path.unlink
    recording = threading.Thread(target=keeper.journal.record, args=(again,))

    def slowly(path: Path, *, missing_ok: bool = False) -> None:
        if path == one.path and not recording.is_alive():
            recording.start()
            recording.join(0.2)  # the thread waits for this transaction
            assert recording.is_alive()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slowly)
    assert keeper.sweep() == Deleted(files=1, rows=0)
    recording.join()

    assert one.path.read_bytes() == b"again"
    assert state_of(keeper.journal, one) == InstanceState.RECEIVED


@pytest.mark.parametrize("days", [8, 400])
def test_simultaneous_sweeps_remove_each_file_and_row_once(
    days: int, keeper: Keeper, receive: Receive
) -> None:
    for _ in range(20):
        keeper.journal.analyses.conclude(keeper.receive(receive()).id, 1, UNANALYZED)
    keeper.pass_days(days)
    done: list[Deleted] = []

    def sweep() -> None:
        done.append(keeper.sweep())

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sum(each.files for each in done) == 20
    assert sum(each.rows for each in done) == (20 if days == 400 else 0)
