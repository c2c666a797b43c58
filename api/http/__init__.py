"""Handling of HTTP for all routes: bodies, time limits, headers, errors, queues."""
