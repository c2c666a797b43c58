"""The DICOM node: receives images, analyzes them and delivers the results."""
