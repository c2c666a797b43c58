"""DICOM networking for the receiver and the delivery: sockets, TLS, PDUs, messages."""
