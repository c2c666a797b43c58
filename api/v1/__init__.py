"""The API at /api/v1. Pages that show stored instances use only this API."""
