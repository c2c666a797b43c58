"""Reads the journal: worklist, details, failures, activity. Never writes."""
