"""A role that waits during its import until a file exists.

The environment variable PYTHON_IMPORT_WAITS_FOR has the path of the file. The name of
the variable begins with PYTHON, because the first server of roles gets only some
variables (`PASSED_PREFIXES` in role_server).
"""

import os
import time
from pathlib import Path

while not Path(os.environ["PYTHON_IMPORT_WAITS_FOR"]).exists():
    time.sleep(0.01)


def main() -> None:
    """End at once."""
