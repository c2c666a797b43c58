"""Sends results by C-STORE, STOW-RS or HL7, and requests Storage Commitment."""
