"""Reads one instance with its results, deliveries and events from the journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.queries.worklist import WorklistEntry, entry_query
from dicom_node.results.overlay_data import OverlayData, overlay_in
from dicom_node.storage.database import reading
from dicom_node.storage.records import (
    DeliveredObjectRecord,
    DeliveryRecord,
    EventRecord,
    ResultRecord,
)
from dicom_node.storage.tables import (
    delivered_object,
    delivery,
    event,
    finding,
    read_one,
    read_records,
    result,
)


@dataclass(frozen=True, slots=True, eq=False)
class InstanceDetails:
    """One instance or summary, with its results and its history.

    Attributes:
        entry: The instance, as in the worklist.
        drawing: The parts of the last finding that the study page draws. If
            `entry.probability` is None, they are from an earlier analysis and no longer
            valid. None if there was no finding, or if the files of the instance were
            removed.
        results: The result objects.
        deliveries: The delivery to each destination.
        objects: The state of the delivery of each object to each destination.
        events: The events, the oldest first.
    """

    entry: WorklistEntry
    drawing: OverlayData | None
    results: Sequence[ResultRecord]
    deliveries: Sequence[DeliveryRecord]
    objects: Sequence[DeliveredObjectRecord]
    events: Sequence[EventRecord]


def instance_details(engine: sa.Engine, instance_id: str) -> InstanceDetails | None:
    """Return the details of an instance; None if the instance does not exist."""

    def rows_of(table: sa.Table, *order: sa.Column[Any]) -> sa.CursorResult[Any]:
        query = table.select().where(table.c.instance_id == instance_id)
        return connection.execute(query.order_by(*order))

    with reading(engine) as connection:
        entry = read_one(WorklistEntry, connection.execute(entry_query(instance_id)))
        if entry is None:
            return None
        drawing = rows_of(finding).mappings().one_or_none()
        results = rows_of(result, result.c.kind)
        deliveries = rows_of(delivery, delivery.c.destination)
        columns = delivered_object.c
        objects = rows_of(
            delivered_object, columns.destination, columns.sop_instance_uid
        )
        return InstanceDetails(
            entry=entry,
            drawing=overlay_in(drawing, entry.probability) if drawing else None,
            results=read_records(ResultRecord, results),
            deliveries=read_records(DeliveryRecord, deliveries),
            objects=read_records(DeliveredObjectRecord, objects),
            events=read_records(EventRecord, rows_of(event, event.c.id)),
        )
