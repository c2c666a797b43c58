"""Concurrent transactions about one examination cause no deadlock."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.journal.summaries import SummaryAnswer
from dicom_node.patient import Patient
from dicom_node.storage.tables import InstanceState, examination, instance
from inference.finding import ModelIdentity
from tests.support.journals import Receive, destination

pytestmark = pytest.mark.integration

RUNS_S = 2.0
MODEL = ModelIdentity("test", "1", "0" * 64)
ANSWER = SummaryAnswer(None, None, MODEL, "No image was analyzed")
PAGE = StoredResult("exam_summary", "1.2", "2.25.9", "results/page.dcm")
NOTICE = StoredResult("notice", "1.2", "2.25.8", "results/notice.dcm")
ENDED = Conclusion(InstanceState.NOT_ANALYZED, "A chest.", notices=[NOTICE])

Action = Callable[[ReceivedInstance], object]


@dataclass(frozen=True, slots=True)
class Actions:
    """The actions of workers, receivers and users on the images of one examination.

    Attributes:
        engine: The database.
        journal: The journal.
        receive: The fixture.
        images: The images of the examination.
        summary: Id of the examination.
        other: Id of an examination with a later revision of one of the images.
    """

    engine: sa.Engine
    journal: Journal
    receive: Receive
    images: Sequence[ReceivedInstance]
    summary: str
    other: str

    def _run(self, instance_id: str) -> int:
        row = self.journal.load(instance_id)
        assert row is not None
        return row.run

    def end_analysis(self, image: ReceivedInstance) -> None:
        self.journal.analyses.begin(image.id, self._run(image.id))
        self.journal.analyses.conclude(image.id, self._run(image.id), ENDED)

    def summarize(self, _: ReceivedInstance) -> None:
        with self.engine.begin() as connection:
            this = examination.c.id == self.summary
            connection.execute(examination.update().where(this).values(due_at=1.0))
        summaries = self.journal.summaries
        if inputs := summaries.begin(self.summary, self._run(self.summary)):
            summaries.record_summary(inputs, ANSWER, [PAGE], [])

    def pause_and_resume(self, _: ReceivedInstance) -> None:
        deliveries = self.journal.deliveries
        deliveries.pause("pacs")
        for each in (*(image.id for image in self.images), self.summary):
            deliveries.begin(each, "pacs", 1)
        deliveries.resume("pacs")

    def repeat(self, image: ReceivedInstance) -> None:
        uid = image.header.sop_instance_uid
        self.journal.record(self.receive(image.content_digest, sop_instance_uid=uid))

    def assign(self, image: ReceivedInstance) -> None:
        change = instance.update().where(instance.c.id == image.id)
        changes = {"examination_id": None, "received_at": time.time()}
        with self.engine.begin() as connection:
            connection.execute(change.values(**changes))
        self.journal.examinations.assign_missing()

    def all(self) -> Sequence[Action]:
        journal, send_again = self.journal, self.journal.deliveries.send_again
        return (
            *(self.end_analysis, self.end_analysis, self.summarize),
            *(self.pause_and_resume, self.repeat, self.assign),
            lambda image: journal.analyze_again(image.id),
            lambda _: journal.analyze_again(self.summary),
            lambda _: journal.examinations.request_overdue(),
            lambda _: journal.summaries.correct_others(self.other),
            lambda image: send_again(image.id),
            lambda _: send_again(self.summary),
        )


@pytest.fixture
def actions(engine: sa.Engine, tmp_path: Path, receive: Receive) -> Actions:
    pacs = destination(
        "pacs", results=("secondary_capture", "exam_summary"), send_negative=False
    )
    journal = Journal(engine, tmp_path, [pacs], quiet_s=90)
    images = [receive(f"{number}") for number in range(6)]
    for each in images:
        journal.record(each)
    with engine.begin() as connection:
        summary = connection.execute(sa.select(examination.c.id)).scalar_one()
    corrected = receive("6", sop_instance_uid=images[0].header.sop_instance_uid)
    header = replace(corrected.header, patient=Patient("Doe^John", "P2"))
    journal.record(replace(corrected, header=header))
    row = journal.load(corrected.id)
    assert row is not None
    assert row.examination_id not in {None, summary}
    return Actions(engine, journal, receive, images, summary, row.examination_id or "")


def test_concurrent_work_on_an_examination_causes_no_deadlock(actions: Actions) -> None:
    if actions.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    errors: list[Exception] = []
    until = time.monotonic() + RUNS_S

    def work(seed: int, action: Action) -> None:
        choices = random.Random(seed)
        try:
            while time.monotonic() < until:
                action(choices.choice(actions.images))
        except Exception as error:  # noqa: BLE001 - the test fails with it
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(seed, action))
        for seed, action in enumerate(actions.all())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
