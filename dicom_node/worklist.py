"""The worklist: which instances there are, found, sorted and paged by the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_node.attributes import UID_PATTERN
from dicom_node.database import reading
from dicom_node.patient import folded
from dicom_node.tables import (
    ANALYZING,
    RETURNED,
    DeliveryState,
    InstanceState,
    delivery,
    instance,
    patient,
)


class Order(StrEnum):
    """What a worklist may be sorted by."""

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
class Wanted:
    """Which instances are looked for; what is empty or None asks for nothing.

    Attributes:
        text: Words of a name, an ID or an accession number, in any order, parts of
            them too, whatever their case and accents; or a UID, whole.
        states: Of the instances, any of these; "analyzing" and "received" exclude each
            other. Results of ours that came back are "returned", and are found if that
            is asked for, or by their own UID, or by id.
        points: Operating points that the answer reached, any of these.
        since: Received from then on, in seconds since 1970.
        until: Received before then.
        sender: The AE title that sent it.
        destination: Something was to be delivered there.
        ids: Only these instances.
    """

    text: str = ""
    states: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    sender: str = ""
    destination: str = ""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sorting:
    """How a worklist is sorted; what has no value in that column comes last."""

    by: Order = Order.RECEIVED
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a worklist.

    Attributes:
        rows: Of instances, with whose they are: `name`, `patient_id`,
            `accession_number`, and the `seconds` from receipt to delivery.
        total: How many there are on all pages.
    """

    rows: Sequence[sa.Row[Any]]
    total: int


class Worklist:
    """Questions to the journal for many instances at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(self, wanted: Wanted, sorting: Sorting, *, number: int, size: int) -> Page:
        """Look up one page.

        Args:
            wanted: What is looked for.
            sorting: In which order.
            number: Of the page, from 1 on.
            size: How many instances are on a page.
        """
        conditions, order = _conditions(wanted), _order(sorting)
        is_named = wanted.text or sorting.by is Order.PATIENT
        source = NAMED_INSTANCE if is_named else instance
        # Sorted alone, and what else is shown looked up for one page of them: whole
        # rows are many times as much to sort.
        ids = sa.select(instance.c.id).select_from(source).where(*conditions)
        ids = ids.order_by(*order).limit(size).offset((number - 1) * size)
        query = _rows().where(instance.c.id.in_(ids)).order_by(*order)
        count = sa.select(sa.func.count()).select_from(source).where(*conditions)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
            return Page(rows, connection.execute(count).scalar_one())

    def study(self, study_instance_uid: str) -> Sequence[sa.Row[Any]]:
        """Look up the instances of a study, in the order in which they came.

        Results of ours that came back are shown with their sources, and are among these
        only if none of the sources is known.
        """
        query = _rows().where(instance.c.study_instance_uid == study_instance_uid)
        query = query.order_by(instance.c.received_at, instance.c.id)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [row for row in rows if state_shown(row) != RETURNED] or rows

    def senders(self) -> Sequence[str]:
        """List the AE titles that have sent something, to choose from."""
        query = sa.select(instance.c.calling_ae_title).distinct()
        with reading(self._engine) as connection:
            return sorted(connection.execute(query).scalars())


def row_of(instance_id: str) -> sa.Select[Any]:
    """Look up one instance, as a worklist has it."""
    return _rows().where(instance.c.id == instance_id)


NAMED = (patient.c.name, patient.c.patient_id, patient.c.accession_number)
# What came before there was a table of patients has no name.
NAMED_INSTANCE = instance.outerjoin(patient, patient.c.instance_id == instance.c.id)


def _rows() -> sa.Select[Any]:
    columns = (instance, *NAMED, SECONDS.label("seconds"))
    return sa.select(*columns).select_from(NAMED_INSTANCE)


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    one_of = {
        instance.c.id: wanted.ids,
        instance.c.operating_point: wanted.points,
    }
    found: list[sa.ColumnElement[bool]] = [
        column.in_(values) for column, values in one_of.items() if values
    ]
    if wanted.states:
        found.append(_in_state(wanted.states))
    if wanted.since is not None:
        found.append(instance.c.received_at >= wanted.since)
    if wanted.until is not None:
        found.append(instance.c.received_at < wanted.until)
    if wanted.sender:
        found.append(instance.c.calling_ae_title == wanted.sender)
    if wanted.destination:
        found.append(_goes_to(wanted.destination))
    text = wanted.text.strip()
    if not wanted.ids and RETURNED not in wanted.states:
        is_named = instance.c.sop_instance_uid == text
        found.append(sa.or_(~IS_RETURNED, is_named) if text else ~IS_RETURNED)
    return found + _named(text)


def state_shown(row: sa.Row[Any]) -> str:
    """Name the state of an instance; the row is as a worklist has it."""
    if row.returned:
        return RETURNED
    is_begun = row.state == InstanceState.RECEIVED and row.attempts > 0
    return ANALYZING if is_begun else str(row.state)


def _in_state(states: tuple[str, ...]) -> sa.ColumnElement[bool]:
    state, is_begun = instance.c.state, instance.c.attempts > 0
    received = sa.and_(state == InstanceState.RECEIVED, ~IS_RETURNED)
    special = {
        InstanceState.RECEIVED: sa.and_(received, sa.not_(is_begun)),
        ANALYZING: sa.and_(received, is_begun),
        RETURNED: IS_RETURNED,
    }
    others = [each for each in states if each not in special]
    return sa.or_(
        sa.and_(state.in_(others), ~IS_RETURNED),
        *(special[each] for each in states if each in special),
    )


def _goes_to(destination: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        delivery.c.instance_id == instance.c.id,
        delivery.c.destination == destination,
        delivery.c.state != DeliveryState.DROPPED,
    )


def _named(text: str) -> list[sa.ColumnElement[bool]]:
    """Find who is meant: by UID, else by all words of the text."""
    if "." in text and UID_PATTERN.fullmatch(text):
        c = instance.c
        uids = c.sop_instance_uid, c.study_instance_uid, c.series_instance_uid
        known_as = patient.c.folded.contains(text, autoescape=True)
        return [sa.or_(*(uid == text for uid in uids), known_as)]
    words = folded(text).split()
    return [patient.c.folded.contains(word, autoescape=True) for word in words]


def _order(sorting: Sorting) -> Sequence[sa.ColumnElement[Any]]:
    column = COLUMNS[sorting.by]
    way = column.desc() if sorting.descending else column.asc()
    # The second one tells rows of equal value apart, so that pages do not overlap.
    last = instance.c.id.desc() if sorting.descending else instance.c.id.asc()
    has_value = sorting.by is Order.RECEIVED
    return (way, last) if has_value else (way.nulls_last(), last)
