"""The connection of an association that we open: pynetdicom's, in our own hands."""

import socket
from ssl import SSLContext

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.tls import Line, part


class _Socket(AssociationSocket):
    """The connection; what TLS sends for itself does not count as something to read."""

    @property
    def ready(self) -> bool:
        """Whether there is something to read, be it the end of the connection."""
        return super().ready and (
            not isinstance(self.socket, Line) or self.socket.has_data()
        )

    def close(self) -> None:
        """End the connection, with a goodbye under TLS."""
        part(self.socket)
        super().close()


class RequestorAE(AE):
    """Keeps hold of the connection: to secure it, tune it, cut it and close it.

    Attributes:
        connection: The connection, as soon as there is an association to open.
    """

    connection: socket.socket | None = None

    def _create_socket(
        self,
        assoc: Association,
        address: AddressInformation,
        tls_args: tuple[SSLContext, str] | None,
    ) -> AssociationSocket:
        created = _Socket(assoc, address=address)
        if tls_args and created.socket:
            context, host = tls_args
            created.socket = context.wrap_socket(created.socket, server_hostname=host)
        self.connection = created.socket
        return created
