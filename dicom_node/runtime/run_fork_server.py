"""Imports the module of a fork server without garbage collections, and runs it.

The first argument is the name of the module. The function `main` of that module gets
the other arguments. See runtime/fork_server.py.
"""

import gc
import importlib
import sys
from typing import Any


def main() -> None:
    """Import the module that the command line names, and run its `main`."""
    gc.disable()
    module: Any = importlib.import_module(sys.argv.pop(1))
    module.main()


if __name__ == "__main__":
    main()
