"""The audit trail: records of who did or saw what, as rows and DICOM audit messages."""
