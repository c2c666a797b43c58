"""The SQL migrations of the database, in order."""
