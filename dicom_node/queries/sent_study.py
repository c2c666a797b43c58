"""Reads the study, the patient and the SOP Classes of results, for the audit trail."""

import sqlalchemy as sa

from dicom_node.audit.event import AuditedPatient
from dicom_node.audit.transfers import SentStudy
from dicom_node.storage.database import reading
from dicom_node.storage.tables import instance, patient, result


def sent_study(engine: sa.Engine, instance_id: str) -> SentStudy:
    """Return the study, the patient and the SOP Classes of the results of an instance.

    If the instance is no longer in the journal, the study and the patient are empty.
    The patient is also empty if the journal has none for the instance.
    """
    query = (
        sa.select(instance.c.study_instance_uid, patient.c.patient_id, patient.c.name)
        .outerjoin_from(instance, patient, patient.c.instance_id == instance.c.id)
        .where(instance.c.id == instance_id)
    )
    made = sa.select(result.c.sop_instance_uid, result.c.sop_class_uid).where(
        result.c.instance_id == instance_id
    )
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
        results = connection.execute(made).all()
    classes = {each.sop_instance_uid: each.sop_class_uid for each in results}
    if row is None:  # deleted under [retention]
        return SentStudy("", AuditedPatient("", ""), classes)
    named = AuditedPatient(row.patient_id or "", row.name or "")
    return SentStudy(row.study_instance_uid, named, classes)
