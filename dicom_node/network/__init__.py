"""Networking for the receiver and the delivery: sockets, TLS, DICOM and MLLP (HL7)."""
