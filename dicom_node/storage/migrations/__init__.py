"""The schema of the journal, in numbered steps."""
