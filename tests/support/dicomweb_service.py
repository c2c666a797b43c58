"""DICOMweb services with predefined replies, over real sockets."""

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

JSON = "application/dicom+json"


@dataclass(frozen=True, slots=True)
class Request:
    """A received request. The names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def parts(self) -> list[tuple[bytes, bytes]]:
        """Return (headers, content) of each part of a multipart body (RFC 2387)."""
        boundary = self.headers["content-type"].partition("boundary=")[2]
        before, *parts, after = self.body.split(b"--" + boundary.encode())
        assert (before, after) == (b"", b"--\r\n")
        opened = (each.removeprefix(b"\r\n").partition(b"\r\n\r\n") for each in parts)
        return [(head, content.removesuffix(b"\r\n")) for head, _, content in opened]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to send.

    Attributes:
        code: Status code.
        content: The payload.
        media_type: The header Content-Type.
        headers: Further headers.
        reason: Reason phrase. None means the usual one for the code.
    """

    code: int = 200
    content: bytes = b""
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


def module(
    stored: dict[str, int | None] | None = None,
    failed: dict[str, int | None] | None = None,
) -> dict[str, Any]:
    """Return a Store Instances Response Module (PS3.18 table I.1-1) as DICOM JSON.

    `stored` has the warning reasons and `failed` the failure reasons, both by SOP
    Instance UID. A reason may be None.
    """

    def item(uid: str, reason_tag: str, reason: int | None) -> dict[str, Any]:
        reasons = (
            {} if reason is None else {reason_tag: {"vr": "US", "Value": [reason]}}
        )
        return {
            "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.7"]},
            "00081155": {"vr": "UI", "Value": [uid]},
            **reasons,
        }

    made: dict[str, Any] = {"00081190": {"vr": "UR"}}
    if stored:
        items = [item(uid, "00081196", why) for uid, why in stored.items()]
        made["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [item(uid, "00081197", why) for uid, why in failed.items()]
        made["00081198"] = {"vr": "SQ", "Value": items}
    return made


def said(code: int, content: object) -> Reply:
    """Return a reply with a status code, and with `content` as DICOM JSON."""
    return Reply(code, json.dumps(content).encode())


class Service:
    """A running DICOMweb service.

    Attributes:
        requests: The received requests, oldest first.
        replies: The replies to the next requests. Each one is removed when it is sent,
            except the last one, which is repeated.
        url: The base URL of the service.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = [Reply()]
        self.url = ""

    def reply_to(self, request: Request) -> Reply:
        """Record a request, and return the next reply."""
        self.requests.append(request)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def serving_web(tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Run a service on loopback during the block, over TLS if `tls` is given."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(length)
            reply = service.reply_to(Request(self.command, self.path, headers, body))
            self.send_response(reply.code, reply.reason)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", reply.media_type)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = handle_one  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Ignore clients that close the connection."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls else "http"
    service.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(
    peer: Callable[[str], str], folder: Path, name: str = "IP:127.0.0.1"
) -> tuple[ssl.SSLContext, Path]:
    """Create a self-signed certificate for a server.

    Args:
        peer: Returns the path of a program by its name. If the program is absent, it
            skips or fails the test.
        folder: The folder to write the certificate and its key to.
        name: The Subject Alternative Name, in the notation of openssl.

    Returns:
        The context for a server with this certificate, and the file of the certificate.
    """
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(peer("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-days", "1"),
            *("-keyout", key, "-out", file),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context, file
