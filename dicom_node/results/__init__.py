"""Makes the DICOM objects and HL7 messages that the node sends to destinations."""
