"""A role whose import waits until a file exists.

The name of the variable begins with PYTHON, so that the first server gets it, too.
"""

import os
import time
from pathlib import Path

while not Path(os.environ["PYTHON_IMPORT_WAITS_FOR"]).exists():
    time.sleep(0.01)


def main() -> None:
    """End at once."""
