"""The DICOM objects that report the result of an analysis, one file per object."""
