"""Makes the transitions of the table in journal/states.py.

No other module writes a column `state`, or inserts or deletes rows of the tables
`instance`, `delivery` and `delivered_object`. A statement of this module changes a row
only if the state of the row is one of `Transition.before`.
"""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from dicom_node.journal.delivery_conditions import of_delivery
from dicom_node.journal.events import note
from dicom_node.journal.states import (
    DeliveryTrigger,
    InstanceTrigger,
    ObjectTrigger,
    Transition,
    Trigger,
    only_transition,
    transition_for,
)
from dicom_node.journal.work_queue import WorkQueue
from dicom_node.metrics.counters import increment
from dicom_node.storage.database import upsert_statement
from dicom_node.storage.records import DeliveryRecord, InstanceRecord
from dicom_node.storage.tables import (
    DeliveryState,
    delivered_object,
    delivery,
    instance,
    read_one,
)
from dicom_node.storage.tally import write

ENDED = (DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.DROPPED)
NO_VALUES: Mapping[str, Any] = MappingProxyType({})
_TABLES: Mapping[type[Trigger], sa.Table] = MappingProxyType(
    {
        InstanceTrigger: instance,
        DeliveryTrigger: delivery,
        ObjectTrigger: delivered_object,
    }
)


class StateMachine:
    """The state machine, which makes transitions of instances and deliveries.

    The same transaction writes the event and the counter of a transition, and queues
    its work.
    """

    def __init__(self, work: WorkQueue) -> None:
        self._work = work

    def create_instance(
        self,
        connection: sa.Connection,
        values: Mapping[str, Any],
        detail: str,
        delay_s: float,
    ) -> None:
        """Insert a received instance, and queue its analysis.

        Args:
            connection: Connection in a transaction.
            values: The values of all columns except the state.
            detail: Text of the event.
            delay_s: Seconds to wait before the analysis.
        """
        transition = transition_for(InstanceTrigger.RECEIVED, None)
        insert = instance.insert().values(state=transition.after, **values)
        rows = _execute(connection, transition.trigger, insert.returning(instance))
        record = InstanceRecord(**rows.mappings().one())
        _record(connection, transition, record.id, detail)
        self._queue_analysis(connection, transition, record, delay_s)

    def change_instance(  # noqa: PLR0913 - the change, and what its event says
        self,
        connection: sa.Connection,
        trigger: InstanceTrigger,
        which: sa.ColumnElement[bool],
        values: Mapping[str, Any] = NO_VALUES,
        *,
        detail: str = "",
        label: str = "",
    ) -> InstanceRecord | None:
        """Make a transition of one instance.

        Args:
            connection: Connection in a transaction.
            trigger: The trigger of the transition.
            which: The SQL condition that selects the instance.
            values: New values of other columns, by name.
            detail: Text of the event.
            label: Value of the counter's label.

        Returns:
            The changed instance. None if `which` selects no instance in one of the
            states `Transition.before`. Then nothing is changed.
        """
        transition = only_transition(trigger)
        update = _update(transition, which).values(**values).returning(instance)
        record = read_one(InstanceRecord, _execute(connection, trigger, update))
        if record is not None:
            _record(connection, transition, record.id, detail, label)
            self._queue_analysis(connection, transition, record)
        return record

    def request_summary(
        self,
        connection: sa.Connection,
        examination_id: str,
        new: Mapping[str, Any],
        changes: Mapping[str, Any],
        delay_s: float,
    ) -> None:
        """Queue a new run of the summary of an examination.

        The row of the summary is created if it does not exist.

        Args:
            connection: Connection in a transaction that has locked the examination.
            examination_id: Id of the examination.
            new: Values of a new row, except for id and state.
            changes: New values of an existing row, except for the state.
            delay_s: Seconds to wait before the run.
        """
        transition = only_transition(InstanceTrigger.SUMMARY_REQUESTED)
        key = {"id": examination_id}
        rows = _update_or_insert(connection, transition, key, new, changes)
        record = InstanceRecord(**rows.mappings().one())
        self._work.summarize(connection, record.id, record.run, delay_s)

    def request_delivery(
        self,
        connection: sa.Connection,
        trigger: DeliveryTrigger,
        instance_id: str,
        destination: str,
    ) -> DeliveryRecord | None:
        """Queue a new run of a delivery.

        A delivery that does not exist is created, unless the trigger is RESUMED.

        Args:
            connection: Connection in a transaction that has locked the instance.
            trigger: The trigger of the transition.
            instance_id: Id of the instance.
            destination: Name of the destination.

        Returns:
            The delivery. None if the trigger cannot happen in the state of the
            delivery. Then nothing is changed.
        """
        transition, now = only_transition(trigger), time.time()
        reset = {
            "attempts": 0,
            "asked_at": now,
            "next_at": now,
            "finished_at": None,
            "waits_for": None,
        }
        key = {"instance_id": instance_id, "destination": destination}
        changes = {"run": delivery.c.run + 1} | reset
        rows = _update_or_insert(
            connection, transition, key, {"run": 1} | reset, changes
        )
        row = read_one(DeliveryRecord, rows)
        if row is not None:
            self._apply_effects(connection, transition, row)
        return row

    def change_delivery(  # noqa: PLR0913 - the change, and what its event says
        self,
        connection: sa.Connection,
        trigger: DeliveryTrigger,
        row: DeliveryRecord,
        values: Mapping[str, Any] = NO_VALUES,
        *,
        reason: str = "",
        delay_s: float = 0,
    ) -> None:
        """Make a transition of a delivery.

        The state in `row` determines the transition. If the transition queues work, the
        work is a new run. If another transaction has since changed the delivery to a
        state that is not in `Transition.before`, nothing changes.

        Args:
            connection: Connection in a transaction.
            trigger: The trigger of the transition.
            row: The delivery, as it was read in this transaction.
            values: New values of other columns, by name.
            reason: Text of the event after the name of the destination; empty if the
                event has only the name.
            delay_s: Seconds to wait before the new run.

        Raises:
            KeyError: The trigger cannot happen in the state of the delivery.
        """
        transition, now = transition_for(trigger, DeliveryState(row.state)), time.time()
        changes = dict(values)
        if transition.queues:
            changes |= {"run": row.run + 1, "next_at": now + delay_s, "waits_for": None}
        if transition.after in ENDED:
            changes |= {"finished_at": now, "waits_for": None}
        which = of_delivery(delivery, row.instance_id, row.destination)
        update = _update(transition, which).values(**changes).returning(delivery)
        changed = read_one(DeliveryRecord, _execute(connection, trigger, update))
        if changed is not None:
            self._apply_effects(connection, transition, changed, reason, delay_s)

    def _queue_analysis(
        self,
        connection: sa.Connection,
        transition: Transition,
        record: InstanceRecord,
        delay_s: float = 0,
    ) -> None:
        if lane := transition.queues:
            self._work.analyze(connection, record.id, record.run, lane, delay_s)

    def _apply_effects(
        self,
        connection: sa.Connection,
        transition: Transition,
        row: DeliveryRecord,
        reason: str = "",
        delay_s: float = 0,
    ) -> None:
        detail = f"{row.destination}: {reason}" if reason else row.destination
        _record(connection, transition, row.instance_id, detail, row.destination)
        if transition.queues:
            key = (row.instance_id, row.destination)
            self._work.deliver(connection, key, row.run, delay_s)


def request_object(
    connection: sa.Connection, instance_id: str, destination: str, uid: str
) -> None:
    """Make the next attempt of a delivery send an object.

    The row of the object at the destination is created if it does not exist.
    """
    reset = {"status": None, "comment": "", "attempts": 0, "brief_refusals": 0}
    key = {
        "instance_id": instance_id,
        "destination": destination,
        "sop_instance_uid": uid,
    }
    requested = only_transition(ObjectTrigger.REQUESTED)
    _update_or_insert(connection, requested, key, reset, reset)


def change_objects(
    connection: sa.Connection,
    trigger: ObjectTrigger,
    which: sa.ColumnElement[bool],
    values: Mapping[str, Any] = NO_VALUES,
) -> Sequence[str]:
    """Make a transition of objects of one delivery.

    The caller writes the event, because one event describes several objects.

    Args:
        connection: Connection in a transaction.
        trigger: The trigger of the transition.
        which: The SQL condition that selects the objects. An object changes only if
            its state is in `Transition.before`.
        values: New values of other columns, by name.

    Returns:
        The SOP Instance UIDs of the changed objects.
    """
    update = _update(only_transition(trigger), which).values(**values)
    changed = update.returning(delivered_object.c.sop_instance_uid)
    return _execute(connection, trigger, changed).scalars().all()


def delete_rows(
    connection: sa.Connection, trigger: Trigger, which: sa.ColumnElement[bool]
) -> int:
    """Delete rows, and return their number.

    The type of `trigger` determines the table. A row that `which` selects is deleted
    only if its state is in `Transition.before`.
    """
    transition = only_transition(trigger)
    table = _TABLES[type(trigger)]
    delete = table.delete().where(which, _is_before(table, transition))
    return _execute(connection, trigger, delete).rowcount


def _update(transition: Transition, which: sa.ColumnElement[bool]) -> sa.Update:
    table = _TABLES[type(transition.trigger)]
    update = table.update().where(which, _is_before(table, transition))
    return update.values(state=transition.after)


def _update_or_insert(
    connection: sa.Connection,
    transition: Transition,
    key: Mapping[str, Any],
    new: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> sa.CursorResult[Any]:
    """Change the row with the primary key `key`, or insert it; return the row.

    A row changes only if its state is in `Transition.before`. If there is no row, and
    `Transition.before` contains None, the row is inserted. Otherwise nothing is
    changed, and no row is returned.

    Args:
        connection: Connection in a transaction.
        transition: The transition.
        key: The primary key.
        new: The other values of a new row.
        changes: New values of an existing row.
    """
    table, trigger = _TABLES[type(transition.trigger)], transition.trigger
    if None not in transition.before:
        which = sa.and_(*(table.c[name] == value for name, value in key.items()))
        update = _update(transition, which).values(**changes)
        return _execute(connection, trigger, update.returning(table))
    state = {"state": transition.after}
    statement = upsert_statement(
        connection.dialect,
        table,
        {**key, **state, **new},
        {**state, **changes},
        where=_is_before(table, transition),
    )
    return _execute(connection, trigger, statement)


def _record(
    connection: sa.Connection,
    transition: Transition,
    instance_id: str,
    detail: str,
    label: str = "",
) -> None:
    """Write the event of a transition, and increment its counter.

    A transition may have no event or no counter.
    """
    if transition.event:
        note(connection, instance_id, transition.event, detail)
    if transition.counter:
        write(connection, increment(transition.counter, label))


def _is_before(table: sa.Table, transition: Transition) -> sa.ColumnElement[bool]:
    return table.c.state.in_([each for each in transition.before if each])


def _execute(
    connection: sa.Connection, _trigger: Trigger, statement: sa.Executable
) -> sa.CursorResult[Any]:
    """Execute a statement that changes states, and return its result.

    This function executes all such statements, so that a test can observe them.
    """
    return connection.execute(statement)
