"""The worker process: runs the durable workflows, and cleans up."""
