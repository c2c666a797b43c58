"""How the shipped weights were made, and how to make better ones."""
