"""Sends results by C-STORE or STOW-RS, and requests Storage Commitment."""
