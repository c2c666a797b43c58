"""Bytes and DICOM elements: headers, Part 10 files, transfer syntaxes. No network."""
