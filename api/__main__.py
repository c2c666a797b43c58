"""Run the web process: /predict, the pages, the API and the health checks."""

import argparse
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import torch
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.auth.audit import RecordAccess, with_audit_trail
from api.http.protocol import TimeoutH11Protocol
from config.access import ApiSettings
from config.settings import Settings
from dicom_node.audit.trail import auditing
from dicom_node.decoder.server import use_common_server
from dicom_node.runtime.process import (
    allow_many_threads,
    begin_role,
    load_or_exit,
    role_parser,
    verify_access_or_exit,
)
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import migrate_or_exit, writing_or_exit
from inference.classification import classifier

DRAIN_S = 30
"""Seconds that running requests may take to finish after SIGTERM or Ctrl-C."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C, then end the process with status 0.

    After the signal, running requests have DRAIN_S seconds to finish before they are
    cancelled.
    """
    parser = role_parser("api", __doc__)
    parser.add_argument("--fd", type=int, help="serve on this inherited socket")
    parser.add_argument("--decoders", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = load_or_exit(arguments.config)
    stop = begin_role("api", arguments.supervisor, settings.log.format)
    allow_many_threads()
    verify_access_or_exit(settings.api)
    if arguments.decoders is not None:
        use_common_server(arguments.decoders)
    # torch uses one thread in each process. Thread pools of two processes would slow
    # each other down, because their threads wait busily.
    torch.set_num_threads(1)
    sockets = None if arguments.fd is None else [socket.socket(fileno=arguments.fd)]
    storage, is_standalone = settings.storage, arguments.supervisor is None
    if is_standalone and not storage.database:
        with writing_or_exit(storage):
            migrate_or_exit(storage)
    engine = open_engine(storage.database_url)
    with auditing(settings, engine, "api", by_hand=is_standalone) as record:
        record_access = with_audit_trail(record)
        server = _server(settings, record_access, supervised=not is_standalone)
        # uvicorn handles signals itself, but not those that arrive before it starts.
        Thread(target=_exit_on_stop, args=(stop, server), daemon=True).start()
        stop.ready(DRAIN_S)
        server.run(sockets)
        stop.drained()
    # os._exit ends the process even while a model is loading. A normal exit would wait.
    logging.shutdown()
    os._exit(0)


def preload(weights: str, device: str) -> Callable[[], None]:
    """Load the model in the process that forks the roles (runtime/role_server.py).

    Roles that this process forks later share the memory of the model. In some cases
    nothing is loaded, for example if a GPU may be used: see `classifier.preload`.

    Args:
        weights: The path of the weights file. "" stands for the shipped weights.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or one GPU, such as
            "cuda:1".

    Returns:
        A function that waits until the model has been tested. It raises a ModelError if
            the test fails. If nothing was loaded, it does nothing.

    Raises:
        ModelError: The model cannot be loaded.
    """
    return classifier.preload(Path(weights) if weights else None, device)


def _exit_on_stop(stop: Event, server: uvicorn.Server) -> None:
    stop.wait()
    server.should_exit = True


def _server(
    settings: Settings, record_access: RecordAccess, *, supervised: bool
) -> uvicorn.Server:
    app = create_app(settings, record_access=record_access, supervised=supervised)
    server = uvicorn.Server(_config(settings.api, app))
    app.state.ending = lambda: server.should_exit  # ends open streams at shutdown
    return server


def _config(api: ApiSettings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=api.host,
        port=api.port,
        http=TimeoutH11Protocol,
        ws="none",
        # AuthMiddleware reads the proxy headers, from trusted_proxies only.
        proxy_headers=False,
        log_config=None,
        access_log=False,  # health probes would fill the log
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
    )


if __name__ == "__main__":
    main()
