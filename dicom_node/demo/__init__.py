"""The demonstration of `make run`: a small archive, and the phantom as an instance."""
