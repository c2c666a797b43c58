"""A role that runs Python code and writes standard error to an inherited file.

Its command line has the code itself, the working directory, the arguments of the code,
and the two options that `RoleServer` adds: --log and --supervisor.
"""

import os
import sys


def main() -> None:
    """Run the script in its working directory, with its arguments and --supervisor.

    Standard error goes to the inherited file. Standard output is discarded.
    """
    script, folder, *arguments, log, supervisor = sys.argv[1:]
    descriptor = int(log.removeprefix("--log="))
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    os.chdir(folder)
    sys.argv = ["role", *arguments, supervisor]
    exec(script, {"__name__": "__main__"})  # noqa: S102 - a script of a test
