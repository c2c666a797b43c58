"""Counters and histograms, stored in the database."""
