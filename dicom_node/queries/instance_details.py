"""All that the journal knows about one instance."""

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
        row: Its row, as in a worklist.
        drawing: The drawing of its answer; None if there is no answer, or if its files
            were removed.
        results: Its result objects.
        deliveries: The delivery to each destination, with its state.
        objects: The delivery of each object, with its state.
        events: Its events, oldest first.
    """

    row: sa.Row[Any]
    drawing: OverlayData | None
    results: Rows
    deliveries: Rows
    objects: Rows
    events: Rows


def instance_details(engine: sa.Engine, instance_id: str) -> InstanceDetails | None:
    """Return the details of an instance; None if the instance does not exist."""

    def of_it(table: sa.Table, *order: sa.Column[Any]) -> sa.Select[Any]:
        mine = table.select().where(table.c.instance_id == instance_id)
        return mine.order_by(*order)

    with reading(engine) as connection:
        row = connection.execute(row_of(instance_id)).one_or_none()
        if row is None:
            return None
        drawn = connection.execute(of_it(finding)).one_or_none()
        objects = delivered_object.c
        return InstanceDetails(
            row=row,
            drawing=overlay_in(drawn) if drawn else None,
            results=connection.execute(of_it(result, result.c.kind)).all(),
            deliveries=connection.execute(
                of_it(delivery, delivery.c.destination)
            ).all(),
            objects=connection.execute(
                of_it(delivered_object, objects.destination, objects.sop_instance_uid)
            ).all(),
            events=connection.execute(of_it(event, event.c.id)).all(),
        )
