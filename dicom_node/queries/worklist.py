"""Searches and sorts the instances of the worklist, and divides them into pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_node.dataset.attributes import UID_PATTERN
from dicom_node.patient import folded
from dicom_node.storage.database import reading
from dicom_node.storage.records import InstanceRecord
from dicom_node.storage.tables import (
    ANALYZING,
    IS_IMAGE,
    RETURNED,
    DeliveryState,
    InstanceState,
    delivery,
    examination,
    instance,
    patient,
    read_records,
)


class Order(StrEnum):
    """The columns that a worklist can be sorted by."""

    RECEIVED = "received"
    PATIENT = "patient"
    SENDER = "sender"
    STATE = "state"
    PROBABILITY = "probability"
    SECONDS = "seconds"


IS_RETURNED = instance.c.returned.is_not(None)
SECONDS = instance.c.delivered_at - instance.c.received_at
COLUMNS: dict[Order, sa.ColumnElement[Any]] = {
    Order.RECEIVED: instance.c.received_at,
    Order.PATIENT: patient.c.folded,
    Order.SENDER: instance.c.calling_ae_title,
    Order.STATE: instance.c.state,
    Order.PROBABILITY: instance.c.probability,
    Order.SECONDS: SECONDS,
}


@dataclass(frozen=True, slots=True)
class SearchCriteria:
    """The search criteria for instances.

    A criterion that is empty or None matches all instances. `Examinations.page` says
    what the criteria mean in a search for examinations.

    Attributes:
        text: Words of the patient's name, the patient ID or the accession number, in
            any order. Parts of words match, too. Case and accents are ignored. The text
            may also be the complete UID of an instance, a study or a series.
        states: The displayed states of instances that match: see `displayed_state`.
            Results of the node that were sent back to it match only if `states`
            contains RETURNED, if `text` is their SOP Instance UID, or if `ids` is not
            empty.
        points: The operating points of findings that match.
        since: Received at or after this time, in seconds since 1970.
        until: Received before this time, in seconds since 1970.
        sender: AE title of the sender.
        destination: Name of a destination. Instances with a delivery to this
            destination match.
        ids: Ids of the instances that match.
        with_summaries: Whether summaries of examinations match, too.
    """

    text: str = ""
    states: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    sender: str = ""
    destination: str = ""
    ids: tuple[str, ...] = ()
    with_summaries: bool = False


@dataclass(frozen=True, slots=True)
class Sorting:
    """The order of a worklist.

    Instances without a value in the column `by` come last in both directions.

    Attributes:
        by: The column.
        descending: True if the highest value comes first.
    """

    by: Order = Order.RECEIVED
    descending: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistEntry(InstanceRecord):
    """An instance in a worklist.

    Attributes:
        name: The name of the patient as it was sent; None if the journal has no patient
            for the instance.
        patient_id: Patient ID; None as for `name`.
        accession_number: Accession Number; None as for `name`.
        seconds: The turnaround in seconds; None until all destinations have the
            results.
    """

    name: str | None
    patient_id: str | None
    accession_number: str | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a worklist.

    Attributes:
        entries: The instances on this page.
        total: Number of instances on all pages.
    """

    entries: Sequence[WorklistEntry]
    total: int


class Worklist:
    """Queries for pages of the worklist, the instances of a study, and the senders."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(
        self, criteria: SearchCriteria, sorting: Sorting, *, number: int, size: int
    ) -> Page:
        """Return one page of the instances that match the criteria.

        Args:
            criteria: The search criteria.
            sorting: The order.
            number: Number of the page, from 1.
            size: Number of instances on a page.
        """
        conditions, order = _conditions(criteria), _order(sorting)
        is_named = criteria.text or sorting.by is Order.PATIENT
        source = NAMED_INSTANCE if is_named else instance
        # The subquery sorts only ids, because it would take longer to sort whole rows.
        # The other columns are read only for the ids of the page.
        ids = sa.select(instance.c.id).select_from(source).where(*conditions)
        ids = ids.order_by(*order).limit(size).offset((number - 1) * size)
        query = _rows().where(instance.c.id.in_(ids)).order_by(*order)
        count = sa.select(sa.func.count()).select_from(source).where(*conditions)
        with reading(self._engine) as connection:
            entries = read_records(WorklistEntry, connection.execute(query))
            return Page(entries, connection.execute(count).scalar_one())

    def study(self, study_instance_uid: str) -> Sequence[WorklistEntry]:
        """Return the instances of a study, in the order of their receipt.

        Results of the node that were sent back to it are omitted, unless the study has
        no other instances. Summaries of examinations are omitted. An image without a
        Study Instance UID is found by its SOP Instance UID.
        """
        c = examination.c
        examined = sa.select(c.id).where(c.study_instance_uid == study_instance_uid)
        of_study = sa.or_(
            instance.c.study_instance_uid == study_instance_uid,
            instance.c.examination_id.in_(examined),
        )
        query = _rows().where(of_study, IS_IMAGE)
        query = query.order_by(instance.c.received_at, instance.c.id)
        with reading(self._engine) as connection:
            entries = read_records(WorklistEntry, connection.execute(query))
        return [each for each in entries if not each.returned] or entries

    def senders(self) -> Sequence[str]:
        """Return the AE titles of all senders of instances, sorted."""
        query = sa.select(instance.c.calling_ae_title).where(IS_IMAGE).distinct()
        with reading(self._engine) as connection:
            return sorted(connection.execute(query).scalars())


def entry_query(instance_id: str) -> sa.Select[Any]:
    """Return the query for the WorklistEntry of one instance or summary."""
    return _rows().where(instance.c.id == instance_id)


NAMED = (patient.c.name, patient.c.patient_id, patient.c.accession_number)
# Instances that were received before the table `patient` existed have no name.
NAMED_INSTANCE = instance.outerjoin(patient, patient.c.instance_id == instance.c.id)


def _rows() -> sa.Select[Any]:
    columns = (instance, *NAMED, SECONDS.label("seconds"))
    return sa.select(*columns).select_from(NAMED_INSTANCE)


def _conditions(criteria: SearchCriteria) -> list[sa.ColumnElement[bool]]:
    one_of = {
        instance.c.id: criteria.ids,
        instance.c.operating_point: criteria.points,
    }
    found: list[sa.ColumnElement[bool]] = [
        column.in_(values) for column, values in one_of.items() if values
    ]
    if criteria.points:
        # An image that is analyzed again keeps its operating point, but has no answer.
        found.append(instance.c.probability.is_not(None))
    if not criteria.with_summaries:
        found.append(IS_IMAGE)
    if criteria.states:
        found.append(_in_state(criteria.states))
    if criteria.destination:
        found.append(is_delivered_to(criteria.destination, instance.c.id))
    if not criteria.ids and RETURNED not in criteria.states:
        found.append(_is_shown(criteria.text.strip()))
    return found + _attribute_conditions(criteria)


def _is_shown(text: str) -> sa.ColumnElement[bool]:
    """Return the SQL condition that an instance is not a returned result.

    A returned result matches, too, if `text` is its SOP Instance UID.
    """
    is_named = instance.c.sop_instance_uid == text
    return sa.or_(~IS_RETURNED, is_named) if text else ~IS_RETURNED


def shown_image(criteria: SearchCriteria) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for images that match the text, the time and the sender.

    Results of the node that were sent back to it match only if `text` is their SOP
    Instance UID. Other criteria are ignored.
    """
    is_shown = _is_shown(criteria.text.strip())
    return [IS_IMAGE, is_shown, *_attribute_conditions(criteria)]


def _attribute_conditions(criteria: SearchCriteria) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the text, the time of receipt and the sender."""
    found: list[sa.ColumnElement[bool]] = []
    if criteria.since is not None:
        found.append(instance.c.received_at >= criteria.since)
    if criteria.until is not None:
        found.append(instance.c.received_at < criteria.until)
    if criteria.sender:
        found.append(instance.c.calling_ae_title == criteria.sender)
    return found + _named(criteria.text.strip())


def displayed_state(record: InstanceRecord) -> str:
    """Return the state that the worklist shows for an instance.

    The worklist shows RETURNED for a result of the node that was sent back to it. It
    shows ANALYZING for an instance in the state RECEIVED after its analysis has begun.
    For all other instances, it shows the InstanceState.
    """
    if record.returned:
        return RETURNED
    has_started = record.state == InstanceState.RECEIVED and record.attempts > 0
    return ANALYZING if has_started else record.state


def _in_state(states: tuple[str, ...]) -> sa.ColumnElement[bool]:
    state, has_started = instance.c.state, instance.c.attempts > 0
    received = sa.and_(state == InstanceState.RECEIVED, ~IS_RETURNED)
    special = {
        InstanceState.RECEIVED: sa.and_(received, sa.not_(has_started)),
        ANALYZING: sa.and_(received, has_started),
        RETURNED: IS_RETURNED,
    }
    others = [each for each in states if each not in special]
    return sa.or_(
        sa.and_(state.in_(others), ~IS_RETURNED),
        *(special[each] for each in states if each in special),
    )


def is_delivered_to(
    destination: str, instance_id: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    """Return the SQL condition that an instance has a delivery to a destination.

    Dropped deliveries do not count.

    Args:
        destination: Name of the destination.
        instance_id: The id of the instance, as an SQL expression.
    """
    return sa.exists().where(
        delivery.c.instance_id == instance_id,
        delivery.c.destination == destination,
        delivery.c.state != DeliveryState.DROPPED,
    )


def _named(text: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for instances that match a search text.

    A text with the form of a UID matches if it is a UID of the instance, its study or
    its series, or if the patient data contains the text. Any other text matches if the
    patient data contains each of its words.
    """
    if "." in text and UID_PATTERN.fullmatch(text):
        c = instance.c
        uids = c.sop_instance_uid, c.study_instance_uid, c.series_instance_uid
        is_in_patient_data = patient.c.folded.contains(text, autoescape=True)
        return [sa.or_(*(uid == text for uid in uids), is_in_patient_data)]
    words = folded(text).split()
    return [patient.c.folded.contains(word, autoescape=True) for word in words]


def _order(sorting: Sorting) -> Sequence[sa.ColumnElement[Any]]:
    column = COLUMNS[sorting.by]
    primary = column.desc() if sorting.descending else column.asc()
    # Rows with equal values are sorted by id, so that pages do not overlap.
    last = instance.c.id.desc() if sorting.descending else instance.c.id.asc()
    has_value = sorting.by is Order.RECEIVED
    return (primary, last) if has_value else (primary.nulls_last(), last)
