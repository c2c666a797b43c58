"""Reads, checks and converts DICOM datasets and files. It does not use the network."""
