"""The pipeline from an instance or a file to DICOM objects or a picture."""
