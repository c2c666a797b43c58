"""The SQL migrations of the database, in order.

A migration removes no tables and no columns, so that the previous release can work on
the same database during an upgrade (see `WORKS_FROM` in migration.py). Comments
document the columns. `;` ends a statement and `--` begins a comment everywhere, also
inside a string.
"""
