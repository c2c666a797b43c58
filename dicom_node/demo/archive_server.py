"""The network side of the small archive, which accepts every storage class."""

import threading
from collections.abc import Callable
from socketserver import TCPServer

from pynetdicom import (
    AE,
    AllStoragePresentationContexts,
    VerificationPresentationContexts,
    evt,
)
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import ThreadedAssociationServer

LARGEST_PDU = 131072
MOST_ASSOCIATIONS = 100
POLL_S = 0.1  # maximum seconds until the server notices the order to stop
STORAGE_CLASSES = frozenset(c.abstract_syntax for c in AllStoragePresentationContexts)


class _Server(ThreadedAssociationServer):
    request_queue_size = 128  # many clients may connect at once


class _Connections:
    """The open connections of a server.

    pynetdicom leaves a connection open if the peer closes it first. `closed` closes it.
    """

    def __init__(self) -> None:
        self._close: dict[object, Callable[[], None]] = {}

    def opened(self, event: evt.Event) -> None:
        connection = event.assoc.dul.socket
        if connection is not None and connection.socket is not None:
            self._close[event.assoc] = connection.socket.close

    def closed(self, event: evt.Event) -> None:
        self._close.pop(event.assoc, lambda: None)()


def listen(
    ae_title: str, address: tuple[str, int], on_store: Callable[[evt.Event], int]
) -> ThreadedAssociationServer:
    """Start a server of C-STORE and C-ECHO in background threads, and return it.

    Args:
        ae_title: AE title of the server. Associations that call another title are
            accepted, too.
        address: Host and port to bind; port 0 is any free port.
        on_store: Processes a C-STORE, and returns the status of the response. It is
            called from the threads of the associations.
    """
    ae = AE(ae_title)
    ae.maximum_pdu_size = LARGEST_PDU
    ae.maximum_associations = MOST_ASSOCIATIONS
    ae.supported_contexts = VerificationPresentationContexts
    connections = _Connections()
    server = ae.make_server(
        address,
        server_class=_Server,
        evt_handlers=[
            (evt.EVT_CONN_OPEN, connections.opened),
            (evt.EVT_CONN_CLOSE, connections.closed),
            (evt.EVT_REQUESTED, _support_proposed_contexts),
            (evt.EVT_C_STORE, on_store),
        ],
    )
    serve = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    serve.start()
    return server


def stop_listening(server: ThreadedAssociationServer) -> None:
    """Stop the server, and abort its open associations."""
    for association in server.ae.active_associations:
        association.abort()
    TCPServer.shutdown(server)
    server.server_close()


def _support_proposed_contexts(event: evt.Event) -> None:
    """Support each proposed storage class, with its proposed transfer syntaxes.

    A list of all classes with all transfer syntaxes would be slower, because pynetdicom
    would copy the list for each association. A copy takes 0.1 s.
    """
    supported: dict[str, PresentationContext] = {}
    for context in event.assoc.requestor.requested_contexts:
        sop_class = context.abstract_syntax
        if sop_class is not None and sop_class in STORAGE_CLASSES:
            accepted = supported.setdefault(sop_class, build_context(sop_class, []))
            for syntax in context.transfer_syntax:
                accepted.add_transfer_syntax(syntax)
    event.assoc.acceptor.supported_contexts = [
        *VerificationPresentationContexts,
        *supported.values(),
    ]
