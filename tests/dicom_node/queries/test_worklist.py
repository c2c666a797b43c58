"""The worklist: filters, order and pages; and the details of an instance."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult
from dicom_node.journal.journal import Journal
from dicom_node.patient import Patient
from dicom_node.queries.instance_details import instance_details
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting, Worklist
from dicom_node.storage.database import NO_LIMITS, open_engine
from dicom_node.storage.tables import delivery, instance, patient
from tests.support.databases import create_migrated
from tests.support.journals import ANSWER, STORED, Receive, destination
from tests.support.numbered_rows import digits, insert_for_each, numbered

pytestmark = pytest.mark.integration

DAY = datetime(2026, 1, 2, tzinfo=UTC)
ANNA, BEN, EVA = (
    Patient("Schmidt^Anna", "4711", "A-1"),
    Patient("Doe^Ben", "0815", "A-2"),
    Patient("Müller^Eva", "100%", "A_3"),
)


@pytest.fixture
def worklist(engine: sa.Engine) -> Worklist:
    return Worklist(engine)


@pytest.fixture
def three(journal: Journal, receive: Receive) -> dict[str, ReceivedInstance]:
    """Three instances by accession number.

    Anna's (A-1) is positive and delivered. Ben's (A-2) is negative, and its deliveries
    are queued. Eva's (A_3) is not analyzed yet.
    """
    received_by_number: dict[str, ReceivedInstance] = {}
    for hour, person in enumerate((ANNA, BEN, EVA)):
        received = receive(study_instance_uid=f"1.2.{hour}", modality="DX")
        header = replace(received.header, patient=person)
        at = DAY + timedelta(hours=hour)
        received_by_number[person.accession_number] = dated = replace(
            received, header=header, received_at=at, calling_ae_title=f"ROOM{hour}"
        )
        journal.record(dated)
    anna, ben = received_by_number["A-1"], received_by_number["A-2"]
    journal.analyses.record_result(anna.id, 1, ANSWER)
    for name in ("pacs", "backup"):
        journal.deliveries.begin(anna.id, name, 1)
        journal.delivery_outcomes.record(
            anna.id, destination(name), 1, {"2.25.1": STORED}
        )
    journal.analyses.record_result(ben.id, 1, negative(0.25))
    return received_by_number


def negative(probability: float) -> AnalysisResult:
    finding = replace(ANSWER.finding, probability=probability)
    return replace(ANSWER, finding=finding, picture_digest="q" * 64)


def found(
    worklist: Worklist, wanted: SearchCriteria, sorting: Sorting | None = None
) -> str:
    """Return the accession numbers of all found instances, separated by spaces.

    Raise AssertionError if more than ten instances are found.
    """
    page = worklist.page(wanted, sorting or Sorting(), number=1, size=10)
    assert page.total == len(page.entries)
    return " ".join(row.accession_number for row in page.entries)


def test_an_image_that_is_analyzed_again_has_no_answer(
    worklist: Worklist, journal: Journal, three: dict[str, ReceivedInstance]
) -> None:
    journal.analyze_again(three["A-1"].id)

    assert found(worklist, SearchCriteria(points=("definite", "none"))) == "A-2"


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (SearchCriteria(), "A_3 A-2 A-1"),
        (SearchCriteria(text="schmidt"), "A-1"),
        (SearchCriteria(text="anna SCHM"), "A-1"),
        (SearchCriteria(text="muller"), "A_3"),
        (SearchCriteria(text="47"), "A-1"),
        (SearchCriteria(text="a-2"), "A-2"),
        (SearchCriteria(text="%"), "A_3"),  # no wildcard
        (SearchCriteria(text="A_"), "A_3"),
        (SearchCriteria(text="nobody"), ""),
        (SearchCriteria(text="1.2.1"), "A-2"),  # Study Instance UID
        (SearchCriteria(text="1.2"), ""),  # a part of a UID does not match
        (SearchCriteria(states=("received",)), "A_3"),
        (SearchCriteria(states=("received", "delivered")), "A_3 A-1"),
        (SearchCriteria(points=("definite",)), "A-1"),
        (SearchCriteria(points=("none",)), "A-2"),
        (SearchCriteria(sender="ROOM1"), "A-2"),
        (SearchCriteria(destination="pacs"), "A-2 A-1"),
        (SearchCriteria(destination="other"), ""),
        (SearchCriteria(since=(DAY + timedelta(hours=1)).timestamp()), "A_3 A-2"),
        (SearchCriteria(until=(DAY + timedelta(hours=1)).timestamp()), "A-1"),
        (SearchCriteria(text="e", states=("received",), sender="ROOM2"), "A_3"),
    ],
)
@pytest.mark.usefixtures("three")
def test_worklist_filters(
    worklist: Worklist, wanted: SearchCriteria, numbers: str
) -> None:
    assert found(worklist, wanted) == numbers


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("by", "descending", "numbers"),
    [
        (Order.RECEIVED, False, "A-1 A-2 A_3"),
        (Order.PATIENT, False, "A-2 A_3 A-1"),  # doe, muller, schmidt
        (Order.SENDER, True, "A_3 A-2 A-1"),
        (Order.STATE, False, "A-1 A-2 A_3"),  # delivered, delivering, received
        (Order.PROBABILITY, True, "A-1 A-2 A_3"),
        (
            Order.PROBABILITY,
            False,
            "A-2 A-1 A_3",
        ),  # an instance without a probability is last in both orders
        (Order.SECONDS, True, "A-1 A_3 A-2"),
    ],
)
def test_worklist_sorts(
    worklist: Worklist,
    by: Order,
    descending: bool,  # noqa: FBT001
    numbers: str,
) -> None:
    shown = found(worklist, SearchCriteria(), Sorting(by, descending))

    # Instances without a value are last, in a random order.
    expected = numbers.split() if by is not Order.SECONDS else numbers.split()[:1]
    assert shown.split()[: len(expected)] == expected


def test_worklist_filters_by_ids_and_state(
    worklist: Worklist, three: dict[str, ReceivedInstance]
) -> None:
    wanted = SearchCriteria(
        ids=(three["A-1"].id, three["A_3"].id), states=("received",)
    )

    assert found(worklist, wanted) == "A_3"


@pytest.mark.usefixtures("three")
def test_pages_contain_each_instance_once(worklist: Worklist) -> None:
    pages = [
        worklist.page(
            SearchCriteria(), Sorting(Order.PROBABILITY), number=number, size=2
        )
        for number in (1, 2, 3)
    ]

    shown = [[row.accession_number for row in page.entries] for page in pages]
    assert [len(each) for each in shown] == [2, 1, 0]
    assert sorted(chain.from_iterable(shown)) == ["A-1", "A-2", "A_3"]
    assert {page.total for page in pages} == {3}


def test_study_lists_its_instances_in_order_of_arrival(
    worklist: Worklist, journal: Journal, receive: Receive
) -> None:
    first, second = receive(), receive()
    journal.record(replace(first, received_at=DAY))
    journal.record(replace(second, received_at=DAY + timedelta(seconds=1)))
    journal.record(receive(study_instance_uid="1.2.9"))

    assert [row.id for row in worklist.study("1.2.3")] == [first.id, second.id]


def test_image_without_a_study_is_found_by_its_own_uid(
    worklist: Worklist, journal: Journal, receive: Receive
) -> None:
    received = receive(study_instance_uid="", sop_instance_uid="1.2.3.4")
    journal.record(received)
    journal.record(receive(study_instance_uid=""))

    assert [row.id for row in worklist.study("1.2.3.4")] == [received.id]


@pytest.mark.usefixtures("three")
def test_senders_are_listed(worklist: Worklist) -> None:
    assert worklist.senders() == ["ROOM0", "ROOM1", "ROOM2"]


def test_details_contain_all_data_of_an_instance(
    engine: sa.Engine, three: dict[str, ReceivedInstance]
) -> None:
    known = instance_details(engine, three["A-1"].id)

    assert known is not None
    assert known.entry.name == "Schmidt^Anna"
    assert known.entry.seconds > 0
    assert known.drawing is not None
    assert known.drawing.levels.tolist() == [[0, 255], [128, 7]]
    assert [row.kind for row in known.results] == ["secondary_capture"]
    assert [row.destination for row in known.deliveries] == ["backup", "pacs"]
    assert [row.state for row in known.objects] == ["delivered", "delivered"]
    kinds = [row.kind for row in known.events]
    assert kinds == ["received", "analyzed", "delivered", "delivered"]
    assert instance_details(engine, "nobody") is None


@pytest.mark.alone
@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(SearchCriteria(), id="all"),
        pytest.param(SearchCriteria(text="patient 9"), id="name"),
        pytest.param(SearchCriteria(states=("failed",)), id="state"),
        pytest.param(SearchCriteria(destination="pacs"), id="destination"),
    ],
)
def test_first_page_of_100_000_instances_takes_less_than_200_ms(
    many: sa.Engine, wanted: SearchCriteria
) -> None:
    worklist = Worklist(many)
    times = {by: duration(worklist, wanted, by) for by in Order}

    assert times[Order.RECEIVED] < 0.2
    assert max(times.values()) < 0.5  # other orders have no index


def duration(worklist: Worklist, wanted: SearchCriteria, by: Order) -> float:
    began = time.monotonic()
    page = worklist.page(wanted, Sorting(by), number=1, size=50)
    seconds = time.monotonic() - began
    assert page.total >= 1000
    return seconds


@pytest.fixture(scope="module")
def many(
    create: Callable[[], StorageSettings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    """A database with 100,000 instances of 1,000 patients.

    1 of 100 instances failed, and 99 of 100 are delivered.
    """
    storage = create()
    create_migrated(storage)
    engine = open_engine(storage.database_url, NO_LIMITS)  # a slow machine needs long
    numbers = numbered(100_000)
    n = numbers.c.n
    identity = digits(n)
    received_at = DAY.timestamp() + n
    varied = {
        "id": identity,
        "sop_instance_uid": "1.2.3." + sa.cast(n, sa.Text),
        "state": sa.case((n % 100 == 0, "failed"), else_="delivered"),
        "received_at": received_at,
        "delivered_at": received_at + 2 + n % 7,
        "probability": n % 1000 / 1000.0,
    }
    own = sa.cast(n % 1000, sa.Text)
    name = {
        "instance_id": identity,
        "name": "Patient^" + own,
        "patient_id": own,
        "accession_number": "A" + sa.cast(n, sa.Text),
        "folded": "patient " + own + "\n" + own + "\na" + sa.cast(n, sa.Text),
    }
    sent = {
        "instance_id": identity,
        "destination": "pacs",
        "state": varied["state"],
        "run": 1,
        "attempts": 1,
        "asked_at": received_at,
        "next_at": received_at,
        "finished_at": varied["delivered_at"],
    }
    row = row_like(tmp_path_factory.mktemp("many"))
    with engine.begin() as connection:
        for table, values in (
            (instance, row | varied),
            (patient, name),
            (delivery, sent),
        ):
            insert_for_each(connection, numbers, table, values)
        # The autovacuum of PostgreSQL does the same some time later.
        connection.execute(sa.text("ANALYZE"))
    yield engine
    engine.dispose()


def row_like(folder: Path) -> dict[str, Any]:
    """Return a row of an instance with default values.

    Columns without a default value are None.
    """
    return dict.fromkeys(instance.columns.keys()) | {
        "content_digest": "d",
        "revision": 1,
        "path": str(folder),
        "size": 1,
        "sop_class_uid": "1.2",
        "transfer_syntax_uid": "1.2",
        "study_instance_uid": "1.2",
        "series_instance_uid": "1.2",
        "modality": "DX",
        "study_date": "20260101",
        "body_part": "HAND",
        "view_position": "PA",
        "laterality": "L",
        "source_uids": "",
        "calling_ae_title": "ROOM",
        "calling_address": "127.0.0.1",
        "received_at": DAY.timestamp(),
        "reason": "",
        "run": 1,
        "attempts": 1,
        "child_deaths": 0,
    }
