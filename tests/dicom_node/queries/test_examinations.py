"""Examinations: which images count, the most serious answer, the state, and filters."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.examinations import REASSIGNED
from dicom_node.journal.journal import Journal
from dicom_node.patient import Patient
from dicom_node.queries.examinations import (
    ExaminationEntry,
    Examinations,
    ExaminationState,
)
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting
from dicom_node.storage.database import NO_LIMITS, open_engine
from dicom_node.storage.tables import (
    DeliveryState,
    InstanceState,
    delivery,
    examination,
    instance,
    patient,
)
from tests.dicom_node.queries.test_worklist import row_like
from tests.support.databases import create_migrated
from tests.support.examination_rows import examine, summarize
from tests.support.journals import ANSWER, STORED, Receive, destination
from tests.support.numbered_rows import digits, insert_for_each, numbered

pytestmark = pytest.mark.integration

DAY = datetime(2026, 1, 2, tzinfo=UTC)
ANNA = Patient("Schmidt^Anna", "4711", "A-1")
BEN = Patient("Doe^Ben", "0815", "A-2")


@pytest.fixture
def examinations(engine: sa.Engine) -> Examinations:
    return Examinations(engine)


Image = Callable[..., ReceivedInstance]


@pytest.fixture
def image(journal: Journal, receive: Receive, engine: sa.Engine) -> Image:
    """A function that records an image, and returns the received instance.

    `columns` are values in the row of the image.
    """
    number = iter(range(1000))

    def make(
        patient: Patient = ANNA, *, sender: str = "ROOM1", **columns: object
    ) -> ReceivedInstance:
        header = {"modality": "DX", "body_part": "HAND"}
        header |= {key: str(columns.pop(key)) for key in header if key in columns}
        received = receive(digest=f"d{next(number)}", **header)
        received = replace(
            received,
            header=replace(received.header, patient=patient),
            received_at=DAY + timedelta(minutes=next(number)),
            calling_ae_title=sender,
        )
        journal.record(received)
        if columns:
            change = instance.update().where(instance.c.id == received.id)
            with engine.begin() as connection:
                connection.execute(change.values(columns))
        return received

    return make


def listed(
    examinations: Examinations,
    criteria: SearchCriteria = SearchCriteria(),  # noqa: B008 - frozen
    sorting: Sorting = Sorting(),  # noqa: B008 - frozen
) -> list[ExaminationEntry]:
    page = examinations.page(criteria, sorting, number=1, size=10)
    assert page.total == len(page.entries)
    return list(page.entries)


def ids(entries: Sequence[ExaminationEntry]) -> list[str]:
    return [each.id for each in entries]


ANSWERED = {"state": InstanceState.DELIVERED}
NEGATIVE = ANSWERED | {"probability": 0.1, "operating_point": "none"}
DOUBTFUL = ANSWERED | {"probability": 0.4, "operating_point": "doubtful"}
DEFINITE = ANSWERED | {"probability": 0.9, "operating_point": "definite"}
REFUSED = {"state": InstanceState.NOT_ANALYZED, "reason": "This is a chest."}


def test_examination_has_the_most_serious_answer_and_the_values_of_its_images(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    first = image(**NEGATIVE, body_part="WRIST")
    serious = image(replace(ANNA, accession_number="A-9"), sender="ROOM2", **DEFINITE)
    last = image(**REFUSED)
    examination_id = examine(engine, [first.id, serious.id, last.id])

    (found,) = listed(examinations)

    assert (found.id, found.instance_id) == (examination_id, serious.id)
    assert (found.probability, found.operating_point) == (0.9, "definite")
    assert (found.images, found.answered) == (3, 2)
    assert (found.name, found.patient_id) == ("Schmidt^Anna", "4711")
    assert found.accession_numbers == ("A-1", "A-9")
    assert found.body_parts == ("HAND", "WRIST")
    assert (found.modalities, found.senders) == (("DX",), ("ROOM1", "ROOM2"))
    assert found.first_received_at == first.received_at.timestamp()
    assert found.last_received_at == last.received_at.timestamp()
    assert (found.study_instance_uid, found.summary) == ("1.2.3", None)


@pytest.mark.parametrize(
    ("images", "point"),
    [
        ([NEGATIVE, NEGATIVE], "none"),
        ([NEGATIVE, REFUSED], None),
        ([NEGATIVE, {}], None),
        ([DOUBTFUL, REFUSED], "doubtful"),
        ([REFUSED], None),
        ([NEGATIVE, REFUSED | {"not_meant": 1}], "none"),
    ],
)
def test_examination_is_negative_only_if_each_image_has_an_answer(
    engine: sa.Engine,
    examinations: Examinations,
    image: Image,
    images: list[dict[str, object]],
    point: str | None,
) -> None:
    examination_id = examine(engine, [image(**columns).id for columns in images])

    (found,) = listed(examinations)

    assert found.operating_point == point
    assert (found.probability is None) == (point is None)
    matching = listed(examinations, SearchCriteria(points=("none",)))
    assert ids(matching) == ([examination_id] if point == "none" else [])


@pytest.mark.parametrize(
    ("images", "summary", "state"),
    [
        ([{}, DEFINITE], None, "analyzing"),
        ([REFUSED, REFUSED], None, "not_analyzed"),
        ([REFUSED, NEGATIVE], None, "delivered"),
        ([{"state": "analyzed", "probability": 0.1}], None, "analyzed"),
        ([{"state": "analyzed", "probability": 0.1}], "delivered", "delivered"),
        ([DEFINITE], "received", "waiting"),
        ([{}, DEFINITE], "received", "analyzing"),
        ([DEFINITE], "delivering", "delivering"),
        ([DEFINITE | {"state": "delivering"}], "delivered", "delivering"),
        ([DEFINITE], "failed", "failed"),
        ([{}, {"state": "failed"}], "received", "failed"),
        ([REFUSED], "not_analyzed", "not_analyzed"),
    ],
)
def test_state_is_the_most_urgent_of_images_and_summary(  # noqa: PLR0913, PLR0917
    engine: sa.Engine,
    examinations: Examinations,
    image: Image,
    images: list[dict[str, object]],
    summary: str | None,
    state: str,
) -> None:
    examination_id = examine(engine, [image(**columns).id for columns in images])
    if summary:
        summarize(engine, examination_id, summary)

    (found,) = listed(examinations)

    assert found.state == state
    assert (found.summary is None) == (summary is None)
    for each in ExaminationState:
        matching = listed(examinations, SearchCriteria(states=(each,)))
        assert ids(matching) == ([examination_id] if each == state else [])


def test_reason_is_that_of_the_most_urgent_image_or_of_the_summary(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    failed = {"state": InstanceState.FAILED, "reason": "It cannot be decoded."}
    examination_id = examine(engine, [image(**REFUSED).id, image(**failed).id])

    (by_image,) = listed(examinations)
    with engine.begin() as connection:
        connection.execute(
            instance.update().where(instance.c.state == "failed").values(NEGATIVE)
        )
    summarize(engine, examination_id, "failed", reason="pacs: 0xC000")
    (by_summary,) = listed(examinations)

    assert by_image.reason == "It cannot be decoded."
    assert not by_image.is_about_summary
    assert (by_summary.reason, by_summary.is_about_summary) == ("pacs: 0xC000", True)


def test_each_image_counts_once(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    uid = {"sop_instance_uid": "1.2.3.4"}
    old = image(**uid, revision=1, **DEFINITE)
    new = image(**uid, revision=2, **NEGATIVE)
    came_back = image(**DEFINITE, returned=1, sender="PACS")
    not_meant = image(**REFUSED, not_meant=1)
    examination_id = examine(engine, [old.id, new.id, came_back.id, not_meant.id])
    summarize(engine, examination_id, "delivered", probability=0.9)

    (found,) = listed(examinations)

    assert (found.images, found.answered, found.instance_id) == (1, 1, new.id)
    assert (found.operating_point, found.senders) == ("none", ("ROOM1",))


def test_revision_in_another_examination_replaces_no_image(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    uid = {"sop_instance_uid": "1.2.3.4"}
    examine(engine, [image(**uid, revision=1, **DEFINITE).id])
    examine(engine, [image(BEN, **uid, revision=2, **NEGATIVE).id])

    assert [each.images for each in listed(examinations)] == [1, 1]


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        (DEFINITE, "not_analyzed"),
        (DEFINITE | {"state": "failed", "reason": "pacs"}, "not_analyzed"),
        ({}, "analyzing"),
    ],
)
def test_image_with_a_later_revision_in_another_examination_has_no_answer(
    engine: sa.Engine,
    examinations: Examinations,
    image: Image,
    columns: dict[str, object],
    state: str,
) -> None:
    uid = {"sop_instance_uid": "1.2.3.4"}
    old = examine(engine, [image(**uid, revision=1, **columns).id])
    examine(engine, [image(BEN, **uid, revision=2, **NEGATIVE).id])
    examine(engine, [image(BEN, **uid, revision=3, **NEGATIVE).id])

    (details,) = examinations.details([old])

    entry, unanswered = details.entry, details.unanswered
    assert (entry.images, entry.answered, entry.probability) == (1, 0, None)
    assert entry.state == state
    reasons = [REASSIGNED] if state == "not_analyzed" else []
    assert [each.reason for each in unanswered] == reasons
    assert entry.reason == "".join(reasons)


def test_operating_point_decides_before_the_probability(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    # The images were analyzed by models with different thresholds.
    definite = image(**DEFINITE | {"probability": 0.3})
    examine(engine, [definite.id, image(**DOUBTFUL).id])

    (found,) = listed(examinations)

    assert (found.instance_id, found.operating_point) == (definite.id, "definite")
    assert found.probability == 0.3


def test_revision_with_the_same_picture_has_the_answer_of_the_earlier_one(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    uid = {"sop_instance_uid": "1.2.3.4"}
    old = image(**uid, revision=1, **DEFINITE)
    new = image(**uid, revision=2, **REFUSED, same_picture_as=old.id)
    examine(engine, [old.id, new.id])

    (found,) = listed(examinations)

    assert (found.images, found.answered, found.state) == (1, 1, "delivered")
    assert (found.probability, found.reason) == (0.9, "")


def test_examination_of_returned_results_is_omitted_but_not_one_of_other_objects(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    examine(engine, [image(returned=1).id])
    other = examine(engine, [image(**REFUSED, not_meant=1).id])
    image(examination_id=None)  # received by an earlier release

    (found,) = listed(examinations)

    assert (found.id, found.images, found.state) == (other, 0, "not_analyzed")


@pytest.fixture
def two(engine: sa.Engine, image: Image) -> dict[str, str]:
    """The ids of two examinations: "anna" and "ben".

    Anna has a definite and a negative image, and Ben has a doubtful one. Two deliveries
    are queued: of Ben's summary to "pacs", and of Anna's negative image to "backup".
    """
    of_anna = [image(**DEFINITE).id, image(sender="ROOM2", **NEGATIVE).id]
    of_ben = [image(BEN, **DOUBTFUL).id]
    found = {"anna": examine(engine, of_anna), "ben": examine(engine, of_ben)}
    summarize(engine, found["ben"], "delivering")
    for name, instance_id in (("pacs", found["ben"]), ("backup", of_anna[1])):
        row = {"instance_id": instance_id, "destination": name, "attempts": 0}
        row |= {"state": DeliveryState.QUEUED, "run": 1, "asked_at": 1, "next_at": 1}
        with engine.begin() as connection:
            connection.execute(delivery.insert().values(row))
    return found


@pytest.mark.parametrize(
    ("criteria", "names"),
    [
        (SearchCriteria(), "ben anna"),
        (SearchCriteria(text="schmidt"), "anna"),
        (SearchCriteria(text="0815"), "ben"),
        (SearchCriteria(text="1.2.3"), "ben anna"),  # Study Instance UID
        (SearchCriteria(text="nobody"), ""),
        (SearchCriteria(sender="ROOM2"), "anna"),
        (SearchCriteria(sender="ROOM2", text="ben"), ""),
        (SearchCriteria(destination="pacs"), "ben"),  # the summary
        (SearchCriteria(destination="backup"), "anna"),
        (SearchCriteria(points=("none",)), ""),  # Anna's other image is more serious
        (SearchCriteria(points=("none", "definite")), "anna"),
        (SearchCriteria(points=("doubtful",)), "ben"),
        (SearchCriteria(since=(DAY + timedelta(minutes=4)).timestamp()), "ben"),
        (SearchCriteria(until=(DAY + timedelta(minutes=3)).timestamp()), "anna"),
        (SearchCriteria(states=("delivered",)), "anna"),
    ],
)
def test_examination_matches_if_one_of_its_images_matches(
    examinations: Examinations,
    two: dict[str, str],
    criteria: SearchCriteria,
    names: str,
) -> None:
    assert ids(listed(examinations, criteria)) == [two[each] for each in names.split()]


def test_ids_are_those_of_examinations_or_images(
    examinations: Examinations, two: dict[str, str]
) -> None:
    image_id = listed(examinations, SearchCriteria(text="anna"))[0].instance_id

    assert ids(listed(examinations, SearchCriteria(ids=(image_id,)))) == [two["anna"]]
    assert ids(listed(examinations, SearchCriteria(ids=(two["ben"],)))) == [two["ben"]]


@pytest.mark.parametrize(
    ("by", "descending", "names"),
    [
        (Order.RECEIVED, False, "anna ben"),
        (Order.PATIENT, True, "anna ben"),
        (Order.SENDER, True, "ben anna"),  # both ROOM1, so by id
        (Order.STATE, True, "ben anna"),  # delivering before delivered
        (Order.PROBABILITY, True, "anna ben"),
        (Order.PROBABILITY, False, "ben anna"),
    ],
)
def test_examinations_are_sorted(
    examinations: Examinations,
    two: dict[str, str],
    by: Order,
    descending: bool,  # noqa: FBT001
    names: str,
) -> None:
    shown = ids(listed(examinations, sorting=Sorting(by, descending)))

    expected = [two[each] for each in names.split()]
    assert shown == (sorted(shown)[::-1] if by is Order.SENDER else expected)


@pytest.mark.parametrize("descending", [False, True])
def test_examination_without_an_answer_is_last_in_both_orders(
    engine: sa.Engine,
    examinations: Examinations,
    image: Image,
    descending: bool,  # noqa: FBT001
) -> None:
    examine(engine, [image(**DEFINITE).id])
    unanswered = examine(engine, [image(**REFUSED).id])

    shown = listed(examinations, sorting=Sorting(Order.PROBABILITY, descending))

    assert [each.id for each in shown][1] == unanswered


def test_examinations_are_sorted_by_the_longest_turnaround(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    made = {}
    for name, delays in (("slow", (1, 9)), ("quick", (2, 3)), ("open", ())):
        images = [image(**DEFINITE) for _ in range(2)]
        made[name] = examine(engine, [each.id for each in images])
        for each, delay in zip(images, delays, strict=False):
            at = each.received_at.timestamp() + delay
            change = instance.update().where(instance.c.id == each.id)
            with engine.begin() as connection:
                connection.execute(change.values(delivered_at=at))

    found = listed(examinations, sorting=Sorting(Order.SECONDS))

    assert ids(found) == [made["slow"], made["quick"], made["open"]]
    assert [each.seconds for each in found] == [9, 3, None]


def test_pages_contain_each_examination_once(
    examinations: Examinations, two: dict[str, str]
) -> None:
    for criteria in (SearchCriteria(), SearchCriteria(text="1.2.3")):
        pages = [
            examinations.page(criteria, Sorting(), number=number, size=1)
            for number in (1, 2, 3)
        ]

        assert [ids(page.entries) for page in pages] == [
            [two["ben"]],
            [two["anna"]],
            [],
        ]
        assert {page.total for page in pages} == {2}


def test_details_list_the_images_without_an_answer(
    engine: sa.Engine, examinations: Examinations, image: Image
) -> None:
    refused, open_ = image(**REFUSED), image()
    not_sent = image(**DEFINITE | {"state": InstanceState.FAILED, "reason": "pacs"})
    not_meant = image(**REFUSED, not_meant=1)
    images = [refused.id, not_sent.id, open_.id, not_meant.id]
    examination_id = examine(engine, images)

    (details,) = examinations.details([examination_id])

    assert details.entry.id == examination_id
    assert [each.instance_id for each in details.unanswered] == [refused.id]
    assert details.unanswered[0].reason == "This is a chest."


def test_journal_and_queries_agree_about_an_answer(
    engine: sa.Engine, examinations: Examinations, journal: Journal, image: Image
) -> None:
    received, chest = image(), image()
    examine(engine, [received.id, chest.id])
    journal.analyses.record_result(received.id, 1, ANSWER)
    ended = Conclusion(InstanceState.NOT_ANALYZED, "This is a chest.")
    journal.analyses.conclude(chest.id, 1, ended)
    for name in ("pacs", "backup"):
        journal.deliveries.begin(received.id, name, 1)
        outcomes = {"2.25.1": STORED}
        journal.delivery_outcomes.record(received.id, destination(name), 1, outcomes)

    (found,) = listed(examinations)

    assert (found.images, found.answered, found.state) == (2, 1, "delivered")
    assert (found.probability, found.operating_point) == (0.75, "definite")


def test_the_same_images_count_as_in_the_summary(
    engine: sa.Engine, examinations: Examinations, receive: Receive, tmp_path: Path
) -> None:
    pacs = destination("pacs", results=("exam_summary",))
    journal = Journal(engine, tmp_path, [pacs], quiet_s=90)
    analyses, ended = journal.analyses, InstanceState.NOT_ANALYZED
    uid = {"sop_instance_uid": "1.2.3.4"}
    old, same = receive("d1", **uid), receive("d2", **uid)
    chest, processing, outdated, newest = (receive(f"d{n}") for n in range(3, 7))
    header = replace(newest.header, sop_instance_uid=outdated.header.sop_instance_uid)
    newest = replace(newest, header=header)
    wrong, corrected = (receive(f"d{n}", sop_instance_uid="1.2.3.5") for n in (7, 8))
    header = replace(corrected.header, patient=BEN)
    corrected = replace(corrected, header=header)
    for each in (old, same, chest, processing, outdated, newest, wrong, corrected):
        journal.record(each)
    analyses.record_result(old.id, 1, ANSWER)
    analyses.conclude(same.id, 1, Conclusion(ended, "", same_picture_as=old.id))
    analyses.conclude(chest.id, 1, Conclusion(ended, "This is a chest."))
    not_expected = Conclusion(ended, "Another image is analyzed.", is_expected=False)
    analyses.conclude(processing.id, 1, not_expected)
    for each in (outdated, newest, wrong, corrected):
        analyses.record_result(each.id, 1, replace(ANSWER, picture_digest=each.id))

    (found,) = (each for each in listed(examinations) if each.name != BEN.name)
    assert found.summary is not None
    with engine.begin() as connection:
        connection.execute(examination.update().values(due_at=1.0))
    inputs = journal.summaries.begin(found.id, found.summary.run)

    assert inputs is not None
    counted = {each.record.id: each for each in inputs.images}
    assert counted.keys() == {old.id, chest.id, newest.id, wrong.id}
    answered = [
        each.record.id
        for each in inputs.images
        if each.record.probability is not None and not each.is_reassigned
    ]
    assert (found.images, found.answered) == (len(counted), len(answered)) == (4, 2)


@pytest.mark.alone
@pytest.mark.parametrize(
    "criteria",
    [
        pytest.param(SearchCriteria(), id="all"),
        pytest.param(SearchCriteria(text="patient 9"), id="name"),
        pytest.param(SearchCriteria(states=("failed",)), id="state"),
        pytest.param(SearchCriteria(points=("definite",)), id="answer"),
    ],
)
def test_first_page_of_100_000_images_is_fast(
    many: sa.Engine, criteria: SearchCriteria
) -> None:
    examinations = Examinations(many)
    times = {}
    # The first query of each order also compiles the statements.
    for by in (Order.RECEIVED, Order.PROBABILITY) * 2:
        began = time.monotonic()
        page = examinations.page(criteria, Sorting(by), number=1, size=50)
        times[by] = time.monotonic() - began
        assert page.total >= 100

    assert max(times.values()) < 1  # other orders and conditions have no index
    if criteria == SearchCriteria():
        assert times[Order.RECEIVED] < 0.2


@pytest.fixture(scope="module")
def many(
    create: Callable[[], StorageSettings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    """A database with 33,334 examinations and 100,000 images.

    100 of the images failed.
    """
    storage = create()
    create_migrated(storage)
    engine = open_engine(storage.database_url, NO_LIMITS)  # a slow machine needs long
    row = row_like(tmp_path_factory.mktemp("many"))
    numbers = numbered(100_000)
    n = numbers.c.n
    # The last image of each examination, for which there is one row of the examination.
    last = sa.select(n).where((n % 3 == 2) | (n == 99_999)).subquery()
    images = row | {
        "id": "1" + sa.func.substr(digits(n), 2, type_=sa.Text),
        "sop_instance_uid": "1.2.3." + sa.cast(n, sa.Text),
        "study_instance_uid": "1.2." + sa.cast(n // 3, sa.Text),
        "state": sa.case((n % 1000 == 0, "failed"), else_="delivered"),
        "received_at": row["received_at"] + n,
        "probability": n % 1000 / 1000.0,
        "operating_point": sa.case((n % 100 > 80, "definite"), else_="none"),
        "examination_id": digits(n // 3),
    }
    name = sa.cast(n // 3 % 1000, sa.Text)
    number = "a" + sa.cast(n, sa.Text)
    patients = {
        "instance_id": images["id"],
        "name": "Patient^" + name,
        "patient_id": name,
        "accession_number": sa.func.upper(number),
        "folded": "patient " + name + "\n" + name + "\n" + number,
    }
    examined = {
        "id": digits(last.c.n // 3),
        "study_instance_uid": "1.2." + sa.cast(last.c.n // 3, sa.Text),
        "patient_key": sa.cast(last.c.n // 3 % 1000, sa.Text),
        "first_received_at": row["received_at"] + last.c.n,
        "last_received_at": row["received_at"] + last.c.n,
        "runs": 0,
        "revision": 0,
        "inputs": "",
        "objects": "[]",
        "predecessors": "[]",
    }
    with engine.begin() as connection:
        insert_for_each(connection, last, examination, examined)
        insert_for_each(connection, numbers, instance, images)
        insert_for_each(connection, numbers, patient, patients)
        # The autovacuum of PostgreSQL does the same some time later.
        connection.execute(sa.text("ANALYZE"))
    yield engine
    engine.dispose()
