"""The DICOM objects that an analysis becomes, one file per object."""
