"""Searches and sorts examinations, and divides them into pages.

An examination is the images of one patient in one study. Of the revisions of an image
in an examination, only the latest counts. If it has no result of its own because
another revision has the same picture, it counts with the state and the result of that
revision. If a later revision is in another examination, the image counts without an
answer. Results of the node that were sent back to it do not count. Instances for which
nobody expects a result do not count, either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_node.journal.examinations import REASSIGNED
from dicom_node.queries.worklist import (
    NAMED_INSTANCE,
    Order,
    SearchCriteria,
    Sorting,
    is_delivered_to,
    shown_image,
)
from dicom_node.storage.database import reading
from dicom_node.storage.records import ExaminationRecord, InstanceRecord
from dicom_node.storage.tables import (
    IS_IMAGE,
    InstanceState,
    examination,
    instance,
    patient,
    read_records,
)
from inference.finding import OperatingPoint


class ExaminationState(StrEnum):
    """State of an examination: the most urgent state of its images and its summary."""

    NOT_ANALYZED = "not_analyzed"  # no image has an answer
    ANALYZED = "analyzed"  # no destination gets results
    DELIVERED = "delivered"
    DELIVERING = "delivering"
    WAITING = "waiting"  # the summary waits for more images
    ANALYZING = "analyzing"  # the analysis of an image has not ended
    FAILED = "failed"  # an image or the summary failed


URGENCY = tuple(ExaminationState)
"""The states, the least urgent first."""

SERIOUSNESS = OperatingPoint.NONE, OperatingPoint.DOUBTFUL, OperatingPoint.DEFINITE
"""The operating points, the least serious first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminationEntry:
    """An examination in a list.

    Attributes:
        id: Id of the examination.
        study_instance_uid: Study Instance UID of the images; empty if they have none.
        instance_id: Id of the image to show first: the most serious one, or the newest
            one if no image has an answer.
        name: The name of the patient as it was sent; None if it is not known.
        patient_id: Patient ID; None as for `name`.
        accession_numbers: The accession numbers of the images, sorted.
        modalities: The modalities of the images, sorted.
        body_parts: The body parts of the images, sorted.
        senders: The AE titles of the senders of the images, sorted.
        first_received_at: Time at which the first image was received.
        last_received_at: Time at which the last image was received.
        images: Number of images that count: see the docstring of the module.
        answered: Number of these images with an answer.
        probability: Probability of the most serious image. None if no fracture is
            reported and an image has no answer, or if no image counts.
        operating_point: Operating point of the most serious image; None as for
            `probability`.
        state: The most urgent state of the images and the summary.
        reason: The reason of the image, or of the summary, that has this state; may be
            empty. The text may quote a destination.
        is_about_summary: Whether `reason` is about the summary.
        seconds: The longest turnaround of an image in seconds; None if there is none.
        revision: Number of different summaries that were made.
        due_at: Time at which the summary is due; None if no run is scheduled.
        summary: The summary; None if none was requested.
    """

    id: str
    study_instance_uid: str
    instance_id: str
    name: str | None
    patient_id: str | None
    accession_numbers: tuple[str, ...]
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    senders: tuple[str, ...]
    first_received_at: float
    last_received_at: float
    images: int
    answered: int
    probability: float | None
    operating_point: OperatingPoint | None
    state: ExaminationState
    reason: str
    is_about_summary: bool
    seconds: float | None
    revision: int
    due_at: float | None
    summary: InstanceRecord | None


@dataclass(frozen=True, slots=True)
class ExaminationPage:
    """A part of a list of examinations.

    Attributes:
        entries: The examinations on this page.
        total: Number of examinations on all pages.
    """

    entries: Sequence[ExaminationEntry]
    total: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An image without an answer, after the end of its analysis.

    Attributes:
        instance_id: Id of the image.
        state: NOT_ANALYZED or FAILED.
        reason: Why there is no answer.
    """

    instance_id: str
    state: InstanceState
    reason: str


@dataclass(frozen=True, slots=True)
class ExaminationDetails:
    """An examination, and its images without an answer.

    Attributes:
        entry: The examination, as in a list.
        unanswered: The images that count and have no answer after the end of their
            analysis, in the order of their receipt.
    """

    entry: ExaminationEntry
    unanswered: Sequence[Unanswered]


class Examinations:
    """Queries for pages of examinations, and for the details of some examinations."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(
        self, criteria: SearchCriteria, sorting: Sorting, *, number: int, size: int
    ) -> ExaminationPage:
        """Return one page of the examinations that match the criteria.

        An examination matches if all of these conditions are true:

        - One of its images matches the text, the time and the sender.
        - One of its images, or its summary, has a delivery to the destination.
        - The ids contain the id of the examination or of one of its images.
        - The state of the examination is one of the states (ExaminationState).
        - The examination has an answer, and its operating point is one of the points.

        Conditions on empty criteria are ignored. An examination is omitted if all its
        images are results of the node that were sent back to it.

        Args:
            criteria: The search criteria.
            sorting: The order.
            number: Number of the page, from 1.
            size: Number of examinations on a page.
        """
        conditions, column = _conditions(criteria), COLUMNS[sorting.by]
        all_ids = sa.select(examination.c.id).where(*conditions)
        count = sa.select(sa.func.count()).select_from(all_ids.subquery())
        if sorting.by in _OF_TOTALS:
            all_ids = all_ids.join(TOTALS, TOTALS.c.id == examination.c.id)
        is_found_by_index = criteria == SearchCriteria() and column is _BY_ARRIVAL
        # Conditions on all images are slow. Therefore they are evaluated only once.
        total = sa.null() if is_found_by_index else sa.func.count().over()
        query = all_ids.add_columns(total).order_by(*_order(sorting))
        query = query.limit(size).offset((number - 1) * size)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
            if is_found_by_index or not rows:
                number_of_all = connection.execute(count).scalar_one()
            else:
                number_of_all = rows[0][1]
            entries = _entries(connection, [row[0] for row in rows])
            return ExaminationPage(entries, number_of_all)

    def details(self, ids: Sequence[str]) -> Sequence[ExaminationDetails]:
        """Return the details of the examinations with these ids, in the order of `ids`.

        An id is ignored if the examination does not exist, or if all its images are
        results of the node that were sent back to it.
        """
        c = OUTCOMES.c
        ended = c.state.in_([InstanceState.NOT_ANALYZED, InstanceState.FAILED])
        query = sa.select(c.examination_id, c.id, c.state, c.reason).where(
            c.examination_id.in_(ids), c.counts == 1, c.probability.is_(None), ended
        )
        with reading(self._engine) as connection:
            entries = _entries(connection, ids)
            rows = connection.execute(query.order_by(c.received_at, c.id)).all()
        unanswered: dict[str, list[Unanswered]] = {each.id: [] for each in entries}
        for of, instance_id, state, reason in rows:
            unanswered[of].append(Unanswered(instance_id, InstanceState(state), reason))
        return [ExaminationDetails(each, unanswered[each.id]) for each in entries]


def summary_state(record: InstanceRecord) -> ExaminationState:
    """Return the ExaminationState that pages show for a summary."""
    if record.state == InstanceState.RECEIVED:
        return ExaminationState.WAITING
    return ExaminationState(record.state)


_IMAGE, _SAME, _NEWER, _ELSEWHERE = (
    instance.alias(name) for name in ("image", "same", "newer", "elsewhere")
)


def _outcome(name: str) -> sa.ColumnElement[Any]:
    """Return the column `name` of the outcome of an image.

    If another revision with the same picture has the result (`same_picture_as`), the
    value is from that revision; otherwise it is from the image itself.
    """
    has_other = _SAME.c.id.is_not(None)
    return sa.case((has_other, _SAME.c[name]), else_=_IMAGE.c[name])


def _urgency(state: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
    """Return the index in URGENCY of the state of an image or a summary."""
    on, at = ExaminationState, InstanceState
    is_summary = _IMAGE.c.is_summary.is_not(None)
    waits = sa.case(
        (is_summary, URGENCY.index(on.WAITING)), else_=URGENCY.index(on.ANALYZING)
    )
    same = {state: URGENCY.index(on(state)) for state in at if state != at.RECEIVED}
    return sa.case({**same, at.RECEIVED: waits}, value=state)


def _is_latest_elsewhere() -> sa.ColumnElement[bool]:
    """Return the SQL condition that _ELSEWHERE is a later revision of _IMAGE.

    It is the latest one in another examination, so an image has at most one. The
    function `reassigned` in journal/examinations.py selects the same images.
    """
    is_later = _is_later_elsewhere(_ELSEWHERE, _IMAGE.c.revision)
    latest = ~sa.exists().where(_is_later_elsewhere(_NEWER, _ELSEWHERE.c.revision))
    return sa.and_(is_later, latest)


def _is_later_elsewhere(
    row: sa.FromClause, revision: sa.ColumnElement[int]
) -> sa.ColumnElement[bool]:
    return sa.and_(
        row.c.sop_instance_uid == _IMAGE.c.sop_instance_uid,
        row.c.revision > revision,
        row.c.revision > 1,  # so that PostgreSQL reads only the few later revisions
        row.c.examination_id != _IMAGE.c.examination_id,
        row.c.returned.is_(None),
    )


def _outcomes() -> sa.Subquery:
    """Return the subquery for the outcomes of images and summaries.

    Earlier revisions in the same examination, and results of the node that were sent
    back to it, are omitted. `counts` is 1 for images that count, else 0. Instances for
    which nobody expects a result do not count, but are included, because an examination
    may have no other images. Then its state depends on them.
    """
    probability = _outcome("probability")
    point = sa.case(
        {point: index for index, point in enumerate(SERIOUSNESS)},
        value=_outcome("operating_point"),
    )
    is_counted = sa.and_(_IMAGE.c.is_summary.is_(None), _outcome("not_meant").is_(None))
    newer = sa.exists().where(
        _NEWER.c.sop_instance_uid == _IMAGE.c.sop_instance_uid,
        _NEWER.c.revision > _IMAGE.c.revision,
        _NEWER.c.revision > 1,  # as in `_is_later_elsewhere`
        _NEWER.c.examination_id == _IMAGE.c.examination_id,
    )
    is_image = _IMAGE.c.is_summary.is_(None)
    is_reassigned = _ELSEWHERE.c.id.is_not(None)
    has_answer = sa.and_(is_image, probability.is_not(None), ~is_reassigned)
    lacks_answer = sa.and_(is_reassigned, _outcome("state") != InstanceState.RECEIVED)
    state = sa.case((lacks_answer, InstanceState.NOT_ANALYZED), else_=_outcome("state"))
    reason = sa.case((lacks_answer, REASSIGNED), else_=_outcome("reason"))
    return (
        sa.select(
            _IMAGE.c.examination_id,
            _IMAGE.c.id,
            _IMAGE.c.study_instance_uid,
            _IMAGE.c.received_at,
            _IMAGE.c.is_summary,
            state.label("state"),
            reason.label("reason"),
            sa.case((is_counted, 1), else_=0).label("counts"),
            sa.case((has_answer, probability)).label("probability"),
            sa.case((has_answer, point)).label("seriousness"),
            _urgency(state).label("urgency"),
            sa.case(
                (is_image, _outcome("delivered_at") - _outcome("received_at"))
            ).label("seconds"),
        )
        .select_from(
            _IMAGE.outerjoin(_SAME, _SAME.c.id == _IMAGE.c.same_picture_as).outerjoin(
                _ELSEWHERE, _is_latest_elsewhere()
            )
        )
        # For this form of the condition, SQLite does not use the index of the worklist.
        # With that index, it would read all images.
        .where(sa.func.coalesce(_IMAGE.c.returned, 0) == 0, ~newer)
        .subquery("outcome")
    )


OUTCOMES = _outcomes()


def _totals() -> sa.Select[Any]:
    """Return the query for the totals of the images and summary of each examination.

    The totals are the numbers of images and of answers, and the highest urgency,
    seriousness, probability and turnaround. Seriousness and probability are NULL if the
    examination has no answer.
    """
    c = OUTCOMES.c
    images, answered = sa.func.sum(c.counts), sa.func.count(c.probability)
    seriousness = sa.func.max(c.seriousness)
    has_fracture = seriousness > SERIOUSNESS.index(OperatingPoint.NONE)
    has_answer = sa.or_(has_fracture, answered == images)
    return (
        sa.select(
            c.examination_id.label("id"),
            images.label("images"),
            answered.label("answered"),
            sa.func.max(c.urgency).label("urgency"),
            sa.case((has_answer, seriousness)).label("seriousness"),
            sa.case((has_answer, sa.func.max(c.probability))).label("probability"),
            sa.func.max(c.seconds).label("seconds"),
        )
        .where(c.examination_id.is_not(None))
        .group_by(c.examination_id)
    )


TOTALS = _totals().subquery("total")


def _of_images(column: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """Return the query for the lowest value of a column in an examination's images."""
    query = sa.select(sa.func.min(column)).select_from(NAMED_INSTANCE)
    of_examination = instance.c.examination_id == examination.c.id
    return query.where(of_examination, IS_IMAGE).scalar_subquery()


_BY_ARRIVAL = examination.c.last_received_at
_OF_TOTALS = {Order.STATE, Order.PROBABILITY, Order.SECONDS}
COLUMNS: dict[Order, sa.ColumnElement[Any]] = {
    Order.RECEIVED: _BY_ARRIVAL,
    Order.PATIENT: _of_images(patient.c.folded),
    Order.SENDER: _of_images(instance.c.calling_ae_title),
    Order.STATE: TOTALS.c.urgency,
    Order.PROBABILITY: TOTALS.c.probability,
    Order.SECONDS: TOTALS.c.seconds,
}


def _order(sorting: Sorting) -> Sequence[sa.ColumnElement[Any]]:
    column, last = COLUMNS[sorting.by], examination.c.id
    primary = column.desc() if sorting.descending else column.asc()
    if column is not _BY_ARRIVAL:  # which always has a value
        primary = primary.nulls_last()
    return primary, last.desc() if sorting.descending else last.asc()


def _conditions(criteria: SearchCriteria) -> list[sa.ColumnElement[bool]]:
    c, found = examination.c, _has_image(criteria)
    if criteria.ids:
        of_images = sa.select(instance.c.examination_id)
        of_images = of_images.where(instance.c.id.in_(criteria.ids))
        found.append(sa.or_(c.id.in_(criteria.ids), c.id.in_(of_images)))
    if criteria.destination:
        found.append(_is_sent_to(criteria.destination))
    if criteria.states:
        found.append(_is_one_of(TOTALS.c.urgency, URGENCY, criteria.states))
    if criteria.points:
        found.append(_is_one_of(TOTALS.c.seriousness, SERIOUSNESS, criteria.points))
    return found


def _has_image(criteria: SearchCriteria) -> list[sa.ColumnElement[bool]]:
    """Return one or two conditions on the images of an examination.

    The first condition is that the examination has an image that is no result of the
    node. The second condition is that the text, the time and the sender in `criteria`
    match an image. This image may be a result that was sent back, if the text is the
    SOP Instance UID of the result. If these criteria are empty, there is no second
    condition.
    """
    images = sa.select(instance.c.examination_id)
    of_examination = instance.c.examination_id == examination.c.id
    received = images.where(of_examination, IS_IMAGE, instance.c.returned.is_(None))
    found: list[sa.ColumnElement[bool]] = [received.exists()]
    has_time = criteria.since is not None or criteria.until is not None
    if criteria.text or criteria.sender or has_time:
        source = NAMED_INSTANCE if criteria.text else instance
        images = images.select_from(source).where(*shown_image(criteria))
        found.append(examination.c.id.in_(images))
    return found


def _is_sent_to(destination: str) -> sa.ColumnElement[bool]:
    # The summary has the id of the examination.
    of_image = is_delivered_to(destination, instance.c.id)
    images = sa.select(instance.c.examination_id).where(of_image)
    return examination.c.id.in_(images)


def _is_one_of(
    column: sa.ColumnElement[int], order: Sequence[str], names: Sequence[str]
) -> sa.ColumnElement[bool]:
    indexes = [order.index(each) for each in names]
    return examination.c.id.in_(sa.select(TOTALS.c.id).where(column.in_(indexes)))


def _entries(
    connection: sa.Connection, ids: Sequence[str]
) -> Sequence[ExaminationEntry]:
    """Return the examinations with these ids, in the order of `ids`.

    An id is ignored if the examination does not exist, or if all its images are results
    of the node that were sent back to it.
    """
    of = OUTCOMES.c.examination_id.in_(ids)
    totals = {row.id: row for row in connection.execute(_totals().where(of))}
    known = connection.execute(examination.select().where(examination.c.id.in_(ids)))
    records = {each.id: each for each in read_records(ExaminationRecord, known)}
    query = instance.select().where(instance.c.id.in_(ids), ~IS_IMAGE)
    rows = read_records(InstanceRecord, connection.execute(query))
    summaries = {each.id: each for each in rows}
    first = _first(connection, ids, _MOST_SERIOUS)
    urgent = _first(connection, ids, _MOST_URGENT)
    values = _values(connection, ids)
    return [
        _entry(
            records[each],
            totals[each],
            first[each],
            urgent[each],
            values[each],
            summaries.get(each),
        )
        for each in ids
        # Retention may have removed all images between two of the queries.
        if all(each in of for of in (records, totals, first, urgent, values))
    ]


_MOST_SERIOUS = (
    OUTCOMES.c.is_summary.asc().nulls_first(),
    OUTCOMES.c.counts.desc(),
    OUTCOMES.c.seriousness.desc().nulls_last(),
    OUTCOMES.c.probability.desc().nulls_last(),
    OUTCOMES.c.received_at.desc(),
    OUTCOMES.c.id,
)
_MOST_URGENT = (
    OUTCOMES.c.urgency.desc(),
    OUTCOMES.c.counts.desc(),
    OUTCOMES.c.received_at,
    OUTCOMES.c.id,
)


def _first(
    connection: sa.Connection,
    ids: Sequence[str],
    order: Sequence[sa.ColumnElement[Any]],
) -> dict[str, sa.Row[Any]]:
    """Return each examination's first outcome in `order`, by examination id.

    The outcome is that of an image or of the summary. Each row also contains the name
    and ID of the patient.
    """
    of = OUTCOMES.c.examination_id
    place = sa.func.row_number().over(partition_by=of, order_by=order).label("place")
    placed = sa.select(OUTCOMES, place).where(of.in_(ids)).subquery("placed")
    query = sa.select(placed, patient.c.name, patient.c.patient_id)
    named = patient.c.instance_id == placed.c.id
    query = query.outerjoin_from(placed, patient, named).where(placed.c.place == 1)
    return {row.examination_id: row for row in connection.execute(query)}


def _values(
    connection: sa.Connection, ids: Sequence[str]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the sorted values of four attributes of the images of examinations.

    The outer keys are ids of examinations, the inner keys are fields of
    ExaminationEntry. Empty values are omitted.
    """
    columns = {
        "accession_numbers": patient.c.accession_number,
        "modalities": instance.c.modality,
        "body_parts": instance.c.body_part,
        "senders": instance.c.calling_ae_title,
    }
    of = instance.c.examination_id
    query = sa.select(of, *columns.values()).select_from(NAMED_INSTANCE).distinct()
    query = query.where(of.in_(ids), IS_IMAGE, instance.c.returned.is_(None))
    found: dict[str, dict[str, set[str]]] = {}
    for examination_id, *values in connection.execute(query):
        known = found.setdefault(examination_id, {name: set() for name in columns})
        for name, value in zip(columns, values, strict=True):
            if value:
                known[name].add(value)
    return {
        examination_id: {name: tuple(sorted(some)) for name, some in known.items()}
        for examination_id, known in found.items()
    }


def _entry(  # noqa: PLR0913, PLR0917 - one for each query
    record: ExaminationRecord,
    totals: sa.Row[Any],
    first: sa.Row[Any],
    urgent: sa.Row[Any],
    values: Mapping[str, tuple[str, ...]],
    summary: InstanceRecord | None,
) -> ExaminationEntry:
    serious = totals.seriousness
    return ExaminationEntry(
        id=record.id,
        study_instance_uid=first.study_instance_uid,
        instance_id=first.id,
        name=first.name,
        patient_id=first.patient_id,
        **values,
        first_received_at=record.first_received_at,
        last_received_at=record.last_received_at,
        images=int(totals.images),
        answered=totals.answered,
        probability=None if serious is None else first.probability,
        operating_point=None if serious is None else SERIOUSNESS[serious],
        state=URGENCY[totals.urgency],
        reason=urgent.reason,
        is_about_summary=urgent.is_summary is not None,
        seconds=totals.seconds,
        revision=record.revision,
        due_at=record.due_at,
        summary=summary,
    )
