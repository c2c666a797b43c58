"""Reading, checking and conversion of DICOM datasets and files, without a network."""
