"""HTTP requests in general: bodies, uploads, time limits, headers, errors, queues."""
