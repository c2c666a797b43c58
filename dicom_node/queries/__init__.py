"""Queries that read the journal and never change it."""
