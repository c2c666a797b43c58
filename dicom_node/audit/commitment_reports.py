"""The audit event of a rejected report on Storage Commitment."""

from dicom_node.audit.event import AuditEvent, AuditEventType
from dicom_node.audit.trail import Tell
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.storage_commitment import OnRefused
from dicom_node.reasons import ReportRefusal


def auditing_refused(tell: Tell) -> OnRefused:
    """Return a function that adds each rejected report to the audit trail."""

    def on_refused(reporter: Reporter, reason: ReportRefusal) -> None:
        who = reporter.ae_title, reporter.address
        tell(AuditEvent(AuditEventType.REPORT_REFUSED, *who, reason.replace("_", " ")))

    return on_refused
