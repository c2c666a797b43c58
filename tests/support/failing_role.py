"""A role that fails at its start."""

import sys


def main() -> None:
    """End with status 1."""
    sys.exit(1)
