"""The listening sockets, plain and TLS, that all receiver processes share."""

import argparse
import logging
import socket
import sys
from collections.abc import Mapping
from ssl import SSLContext

from config.settings import Settings
from dicom_node.network.tls import server_context
from dicom_node.receiver.admission import open_to_anyone
from dicom_node.runtime.process import listen_or_exit

logger = logging.getLogger(__name__)

# The listening sockets, each with the TLS context of its connections. None means that
# the connections are plain text.
Listening = Mapping[socket.socket, SSLContext | None]

# The options that pass a socket on to a process.
FD = "--fd"
TLS_FD = "--tls-fd"


def open_ports(settings: Settings) -> dict[str, socket.socket]:
    """Listen on the ports of the settings, and return the sockets.

    If a port cannot be opened, the process exits with a message. If anybody may send
    instances, a warning is logged.

    Returns:
        The sockets, by the command-line option that passes them to a receiver. FD is
        the plain socket, and is absent if the node accepts only TLS. TLS_FD is the
        socket for TLS, and is absent if the settings have no certificate.
    """
    host, tls = settings.receiver.host, settings.tls
    ports = {} if tls.only else {FD: settings.receiver.port}
    if tls.certificate:
        ports[TLS_FD] = tls.port
    for warning in open_to_anyone(settings):
        logger.warning("%s", warning)
    return {option: listen_or_exit(host, port) for option, port in ports.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options that `listening` reads."""
    parser.add_argument(FD, type=int, help="listening socket to share")
    parser.add_argument(TLS_FD, type=int, help="listening socket for TLS to share")


def listening(arguments: argparse.Namespace, settings: Settings) -> Listening:
    """Return the listening sockets, each with the TLS context of its connections.

    If the supervisor passed no sockets in the arguments, the sockets are opened. The
    process exits with a message if a port cannot be opened, or if a TLS socket was
    passed and the settings have no certificate.
    """
    inherited = {
        option: socket.socket(fileno=number)
        for option, number in ((FD, arguments.fd), (TLS_FD, arguments.tls_fd))
        if number is not None
    }
    sockets = inherited or open_ports(settings)
    if TLS_FD not in sockets:
        return dict.fromkeys(sockets.values())
    if settings.tls.certificate is None:  # the port must not fall back to plain text
        sys.exit("The settings no longer name a certificate. Restart the node.")
    secured = {TLS_FD: server_context(settings.tls)}
    return {each: secured.get(option) for option, each in sockets.items()}
