"""A role with an import that takes until a named pipe is opened for writing."""

import os
from pathlib import Path

Path(os.environ["IMPORT_WAITS_FOR"]).read_text()


def main() -> None:
    """End at once."""
