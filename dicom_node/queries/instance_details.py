"""Reads the row, results, deliveries and events of one instance from the journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.queries.worklist import row_of
from dicom_node.results.overlay_data import OverlayData, overlay_in
from dicom_node.storage.database import reading
from dicom_node.storage.tables import delivered_object, delivery, event, finding, result

Rows = Sequence[sa.Row[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class InstanceDetails:
    """One instance and its history.

    Attributes:
        row: Row of the instance, with the columns of a worklist.
        drawing: The parts of the finding that the review page draws; None if there is
            no result, or if the files of the instance were removed.
        results: Rows of the result objects.
        deliveries: Rows with the state of the delivery to each destination.
        objects: Rows with the state of each object at each destination.
        events: Rows of the events, the oldest first.
    """

    row: sa.Row[Any]
    drawing: OverlayData | None
    results: Rows
    deliveries: Rows
    objects: Rows
    events: Rows


def instance_details(engine: sa.Engine, instance_id: str) -> InstanceDetails | None:
    """Return the details of an instance; None if the instance does not exist."""

    def rows_of(table: sa.Table, *order: sa.Column[Any]) -> sa.Select[Any]:
        query = table.select().where(table.c.instance_id == instance_id)
        return query.order_by(*order)

    with reading(engine) as connection:
        row = connection.execute(row_of(instance_id)).one_or_none()
        if row is None:
            return None
        drawing_row = connection.execute(rows_of(finding)).mappings().one_or_none()
        objects = delivered_object.c
        return InstanceDetails(
            row=row,
            drawing=overlay_in(drawing_row) if drawing_row else None,
            results=connection.execute(rows_of(result, result.c.kind)).all(),
            deliveries=connection.execute(
                rows_of(delivery, delivery.c.destination)
            ).all(),
            objects=connection.execute(
                rows_of(delivered_object, objects.destination, objects.sop_instance_uid)
            ).all(),
            events=connection.execute(rows_of(event, event.c.id)).all(),
        )
