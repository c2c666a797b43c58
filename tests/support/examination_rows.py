"""Examinations and summaries for tests, written directly to the tables.

In a node, the journal assigns received images to examinations by patient and study, and
a worker makes the summaries. Tests of queries need only the rows, and they choose the
images of an examination.
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from dicom_node.storage.tables import examination, instance, patient


def examine(engine: sa.Engine, images: Sequence[str], **changes: object) -> str:
    """Create an examination, and move images to it; return its id.

    Args:
        engine: Engine of the journal.
        images: Ids of the images, which must be in the journal.
        changes: Values of columns of the examination, instead of the defaults below.
    """
    of_images = instance.c.id.in_(images)
    examination_id = uuid4().hex
    received = instance.c.received_at
    query = sa.select(
        sa.func.min(received).label("first_received_at"),
        sa.func.max(received).label("last_received_at"),
        sa.func.max(instance.c.study_instance_uid).label("study_instance_uid"),
    )
    with engine.begin() as connection:
        known = connection.execute(query.where(of_images)).mappings().one()
        row: dict[str, Any] = dict(known) | {
            "id": examination_id,
            "patient_key": uuid4().hex,
            "due_at": None,
            "runs": 0,
            "revision": 0,
            "inputs": "",
            "objects": "[]",
            "predecessors": "[]",
        }
        connection.execute(examination.insert(), row | changes)
        assigned = instance.update().where(of_images)
        connection.execute(assigned.values(examination_id=examination_id))
    return examination_id


def summarize(
    engine: sa.Engine, examination_id: str, state: str = "received", **changes: object
) -> None:
    """Write the summary of an examination that has images.

    The patient, if there is one, and other columns are copied from one of the images.

    Args:
        engine: Engine of the journal.
        examination_id: Id of the examination.
        state: State of the summary.
        changes: Values of columns of the summary, instead of the defaults below.
    """
    of_images = instance.c.examination_id == examination_id
    with engine.begin() as connection:
        image = (
            connection.execute(instance.select().where(of_images)).mappings().first()
        )
        assert image is not None
        row = dict(image) | dict.fromkeys(("reason", "path", "body_part"), "")
        row |= dict.fromkeys(("probability", "operating_point", "not_meant"))
        row |= dict.fromkeys(("analyzed_at", "delivered_at", "ended_at", "returned"))
        row |= {
            "id": examination_id,
            "sop_instance_uid": f"summary-{examination_id}",
            "content_digest": examination_id,
            "state": state,
            "run": 1,
            "attempts": 0,
            "is_summary": 1,
        }
        connection.execute(instance.insert(), row | changes)
        named = patient.select().where(patient.c.instance_id == image["id"])
        of_patient = connection.execute(named).mappings().one_or_none()
        if of_patient:
            connection.execute(
                patient.insert(), dict(of_patient) | {"instance_id": examination_id}
            )
