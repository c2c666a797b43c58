"""The pipeline from a received instance to its result objects."""
