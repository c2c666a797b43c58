"""What both directions of DICOM networking share: sockets, TLS, PDUs, commitment."""
