"""Runs all roles on one machine.

The server of the receivers (runtime/role_server.py) imports libraries for more than a
second. The supervisor (commands/node.py) imports libraries for some tenths of a second.
To let the two import at the same time, this module imports almost nothing itself. It
starts the server, and then imports the supervisor.
"""

import argparse
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.toml_file import TomlError, read_toml
from dicom_node.commands.role_modules import RECEIVER
from dicom_node.runtime.role_server import RoleServer


def main() -> None:
    """Run the node until SIGTERM or Ctrl-C, then finish the work in progress."""
    server = begin_server()
    gc.disable()  # see runtime/fork_server.py
    from dicom_node.commands.node import run  # noqa: PLC0415 - see the module

    gc.freeze()
    gc.enable()
    try:
        run(server)
    finally:
        if server is not None:
            server.close()


def begin_server() -> RoleServer | None:
    """Start the server of the receivers without waiting for it.

    The settings are not validated yet. The supervisor uses the server only if it suits
    the settings: see `RoleServer.suits`.

    Returns:
        The server. None in four cases, which the supervisor handles: the command line
        has anything except `--config` and a path; the settings file cannot be read as
        TOML; the log format is neither "text" nor "json"; or the process of the server
        cannot be created.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        arguments, others = parser.parse_known_args()
        tables = {} if arguments.config is None else read_toml(arguments.config)
        log_format = _log_format(tables)
        if others or str(log_format) not in {"text", "json"}:
            return None
        return RoleServer.begin_start(
            frozenset(_variables(tables)), str(log_format), imports=[RECEIVER]
        )
    except (argparse.ArgumentError, TomlError, OSError):
        return None


def _variables(value: Any) -> Iterator[str]:  # noqa: ANN401 - any TOML value
    """Yield the value of each key that ends with "env", if the value is a text.

    The value of such a key is the name of an environment variable.

    Args:
        value: A table or a list of the settings file, or any value in it.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            if key.endswith("env") and isinstance(each, str):
                yield each
            yield from _variables(each)
    elif isinstance(value, list):
        for each in value:
            yield from _variables(each)


def _log_format(tables: dict[str, Any]) -> object:
    table = tables.get("log")
    written = table.get("format", "text") if isinstance(table, dict) else "text"
    return os.environ.get("FRACTURE_NODE__LOG__FORMAT", written)


if __name__ == "__main__":
    main()
