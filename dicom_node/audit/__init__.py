"""The audit trail: who did or saw what, as rows and as DICOM audit messages."""
