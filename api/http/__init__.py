"""HTTP in general: bodies, uploads, time limits, headers, errors, queues."""
