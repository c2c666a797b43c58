"""The format of log lines, and their context: the instance that is processed."""
