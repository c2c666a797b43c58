"""Serves the web application: `python -P -m api --config FILE [--fd N]`."""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

import torch
import uvicorn

from api.app import create_app
from config.settings import SettingsError, load
from dicom_node.process import configure_logging, die_with_parent

DRAIN_S = 30
"""Seconds that running requests have to finish after SIGTERM."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Returns:
        The exit status: 0 after a stop that was asked for, 2 when the settings cannot
        be used.
    """
    parser = argparse.ArgumentParser(prog="fracture-node api", description=__doc__)
    parser.add_argument("--config", type=Path, help="settings; default: node.toml")
    parser.add_argument("--fd", type=int, help="a listening socket to serve on")
    given = parser.parse_args(arguments)
    configure_logging("api")
    if given.fd is not None:  # the supervisor's, which must not be held after it
        die_with_parent()
    try:
        settings = load(given.config)
    except SettingsError as error:
        logging.getLogger(__name__).critical("%s", error)
        return 2
    # One busy team of threads a process: two of them halve each other's speed.
    torch.set_num_threads(1)
    # uvicorn drains, then passes the signal on to whoever had it before: a stop that
    # was asked for is a success.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.api.host,
            port=settings.api.port,
            log_config=None,
            access_log=False,  # health probes would drown what matters
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    server.run(None if given.fd is None else [socket.socket(fileno=given.fd)])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
