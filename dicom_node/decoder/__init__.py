"""The confined child process that reads bytes from untrusted sources."""
