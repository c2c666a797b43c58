"""A role whose import waits until a file exists."""

import os
import time
from pathlib import Path

while not Path(os.environ["IMPORT_WAITS_FOR"]).exists():
    time.sleep(0.01)


def main() -> None:
    """End at once."""
