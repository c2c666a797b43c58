"""The program `fracture-node`, which runs the module that belongs to a command.

`fracture-node COMMAND --help` shows the options of a command. This module imports
almost nothing, so that a command starts quickly.
"""

import os
import sys
from importlib.metadata import version

COMMANDS = {
    "serve": ("dicom_node.commands.serve", "run all roles on this machine"),
    "receiver": ("dicom_node.receiver", "run a Storage SCP alone"),
    "worker": ("dicom_node.worker", "run a process that analyzes and delivers"),
    "api": ("api", "run /predict and the web pages alone"),
    "archive": ("dicom_node.demo.archive", "run a small archive that writes files"),
    "demo": ("dicom_node.demo.demo", "send a radiograph through a node"),
    "migrate": ("dicom_node.commands.migrate", "migrate the database to this release"),
    "check": ("dicom_node.commands.check", "validate settings, model, destinations"),
    "token": (
        "dicom_node.commands.token",
        "create a token for the web pages and the API",
    ),
    "status": ("dicom_node.commands.status", "show what happened to instances"),
    "audit": ("dicom_node.commands.audit", "show the audit trail"),
    "retry": ("dicom_node.commands.retry", "retry failed analyses and deliveries"),
    "analyze": ("dicom_node.commands.analyze", "analyze files and folders"),
    "send": ("dicom_node.commands.send", "send DICOM files to an AE"),
    "echo": ("dicom_node.commands.echo", "C-ECHO a destination"),
    "train": ("dicom_node.commands.train", "train weights"),
    "evaluate": (
        "dicom_node.commands.evaluate",
        "evaluate weights on annotated radiographs",
    ),
}


def main() -> None:
    """Run the command that the first argument names, or print the help or the version.

    The command replaces this process (`os.execv`). If the command is unknown, this
    function prints an error and exits with status 2.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
    elif arguments[0] == "--version":
        sys.stdout.write(f"fracture-node {version('fracture-node')}\n")
    elif arguments[0] in COMMANDS:
        module, _ = COMMANDS[arguments[0]]
        # -P: do not import a folder named config in the working directory.
        command = [sys.executable, "-P", "-m", module, *arguments[1:]]
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    else:
        sys.stderr.write(f"Unknown command {arguments[0]!r}.\n\n{_help()}")
        sys.exit(2)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = COMMANDS.items()
    lines = [f"  {name:<{width}}  {description}" for name, (_, description) in commands]
    return (
        "usage: fracture-node COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\n`fracture-node COMMAND --help` shows its options.\n"
    )


if __name__ == "__main__":
    main()
