"""The audit trail: who did what, as rows and as DICOM audit messages."""
