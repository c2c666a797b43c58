"""Create the audit event of a refused Storage Commitment report."""

from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.audit.trail import RecordEvent
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.storage_commitment import OnRefused
from dicom_node.reasons import ReportRefusal


def auditing_refused(record_event: RecordEvent) -> OnRefused:
    """Return a function that adds each refused report to the audit trail.

    Args:
        record_event: Records an event.
    """

    def on_refused(reporter: Reporter, reason: ReportRefusal) -> None:
        peer, details = (reporter.ae_title, reporter.address), reason.replace("_", " ")
        record_event(AuditEvent(AuditEventType.REPORT_REFUSED, *peer, details))

    return on_refused
