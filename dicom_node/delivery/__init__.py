"""Sends results: C-STORE, Storage Commitment and STOW-RS, chosen by destination."""
