"""Reads the audit trail."""

import sqlalchemy as sa

from dicom_node.storage.database import reading
from dicom_node.storage.records import AuditRecord
from dicom_node.storage.tables import audit, read_records


def newest_records(engine: sa.Engine, limit: int) -> list[AuditRecord]:
    """Return the last `limit` records of the audit trail, the newest first."""
    query = audit.select().order_by(audit.c.at.desc()).limit(limit)
    with reading(engine) as connection:
        return read_records(AuditRecord, connection.execute(query))
