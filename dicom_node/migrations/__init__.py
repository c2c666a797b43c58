"""The journal's schema, in numbered steps."""
