"""The demonstration that `make run` starts: a small archive, and phantoms to send."""
