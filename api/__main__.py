"""The web side as a process: /predict, the page, health."""

import socket

import torch
import uvicorn

from api.app import create_app
from api.connection import PunctualProtocol
from dicom_node.process import begin_role, load_or_exit, role_parser, settled_or_exit

DRAIN_S = 30
"""How long running requests may take to finish after SIGTERM."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then is finished."""
    parser = role_parser("api", __doc__)
    parser.add_argument("--fd", type=int, help="serve on this inherited socket")
    given = parser.parse_args()
    settings = load_or_exit(given.config)
    stop = begin_role("api", given.supervisor, settings.log.format)
    settled_or_exit(settings.api)
    # One team of threads a process: busy-waiting, two of them slow each other down.
    torch.set_num_threads(1)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.api.host,
        port=settings.api.port,
        http=PunctualProtocol,
        ws="none",
        proxy_headers=False,  # ours are believed from trusted_proxies only: proxy.py
        log_config=None,
        access_log=False,  # health probes would drown what matters
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
    )
    sockets = None if given.fd is None else [socket.socket(fileno=given.fd)]
    if not stop.is_set():
        # uvicorn stops on these signals by itself, and passes them on when it has.
        uvicorn.Server(config).run(sockets)


if __name__ == "__main__":
    main()
