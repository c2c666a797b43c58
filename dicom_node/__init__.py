"""Everything that speaks DICOM: receive, decode, encode, deliver."""
