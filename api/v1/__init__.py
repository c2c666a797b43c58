"""The API of the review page, which uses nothing else: /api/v1."""
