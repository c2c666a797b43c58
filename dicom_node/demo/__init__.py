"""The demonstration of `make run`: phantoms, a small archive and a small HL7 server."""
