"""The API at /api/v1. The review pages use only this API."""
