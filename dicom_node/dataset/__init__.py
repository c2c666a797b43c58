"""Reads, checks and converts DICOM datasets and files; opens no connections."""
