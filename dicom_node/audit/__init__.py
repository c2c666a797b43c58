"""The audit trail: who did what, as rows of a table and as DICOM audit messages."""
