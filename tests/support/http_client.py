"""The API with access control, and requests to it from any address."""

import asyncio
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from starlette.types import ASGIApp

from api.app import create_app
from api.auth.audit import AccessEvent
from api.http.protocol import TimeoutH11Protocol
from api.operations.health import Check
from api.v1.services import close_services
from config.settings import load

LOOKING = "a-token-of-a-viewer-0123456789"
ACTING = "a-token-of-an-operator-0123456789"
DIGEST = sha256(LOOKING.encode()).hexdigest()
TOKENS = f"""
tokens = [
    {{ name = "looking", role = "viewer", sha256 = "{DIGEST}" }},
    {{ name = "acting", role = "operator", env = "ACTING" }},
]
"""
PROXY = """
trusted_proxies = ["10.0.0.0/24"]
proxy_user_header = "X-Remote-User"
operators = ["anna"]
"""


class Site:
    """The application of the API, and methods that send requests to it.

    Attributes:
        events: The audit events that the application has recorded.
        guarded: Whether the settings require a login.
        app: The application. Its lifespan does not run.
    """

    def __init__(
        self, folder: Path, api: str, checks: Mapping[str, Check] | None = None
    ) -> None:
        """Write settings to `folder`, and create the application.

        Args:
            folder: The folder for the settings.
            api: The keys of the section [api], as TOML.
            checks: The health checks by name. If None, there are no checks.
        """
        self.events = list[AccessEvent]()
        config = folder / "node.toml"
        config.write_text(f"[api]\n{api}")
        settings = load(config, {"ACTING": ACTING})
        self.guarded = settings.api.guarded
        self.app = create_app(
            settings, checks=checks or {}, record_access=self.events.append
        )

    def close(self) -> None:
        """Close the services of the application, as its lifespan does at its end."""
        close_services(self.app.state)

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        peer: str = "192.0.2.7",
        **body: Any,  # noqa: ANN401 - arguments of httpx
    ) -> httpx.Response:
        """Send one request from the address `peer`; return the response.

        `url` is the path and the query. The host is localhost:8000.
        """
        # Return a response for unexpected errors, as uvicorn does.
        transport = httpx.ASGITransport(
            self.app, raise_app_exceptions=False, client=(peer, 50000)
        )

        async def request() -> httpx.Response:
            address = "http://localhost:8000"
            async with httpx.AsyncClient(
                transport=transport, base_url=address
            ) as client:
                return await client.request(method, url, headers=headers, **body)

        return asyncio.run(request())

    def log_in(
        self,
        token: str,
        headers: Mapping[str, str] | None = None,
        *,
        after: str = "/",
        peer: str = "192.0.2.7",
    ) -> httpx.Response:
        """Send the form of /login; return the response.

        `after` is the page to which a successful login redirects.
        """
        data = {"token": token, "next": after}
        return self.ask("POST", "/login", headers, peer=peer, data=data)

    def session(self, token: str) -> dict[str, str]:
        """Log in, and return the cookie header that a browser then sends."""
        cookie = self.log_in(token).headers["set-cookie"]
        return {"Cookie": cookie.partition(";")[0]}


def bearing(token: str) -> dict[str, str]:
    """Return the header of a program that sends a token."""
    return {"Authorization": f"Bearer {token}"}


def serve(
    app: ASGIApp, stack: ExitStack, *, lifespan: Literal["on", "off"] = "off"
) -> int:
    """Serve an application in a thread until `stack` closes; return the port.

    Except for address, lifespan and shutdown, the server has the settings of
    api/__main__.py.
    """
    config = uvicorn.Config(
        app,
        http=TimeoutH11Protocol,
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan=lifespan,
    )
    server = uvicorn.Server(config)
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    running = stack.enter_context(ThreadPoolExecutor(1)).submit(server.run, [listener])

    def end() -> None:
        server.should_exit = True
        running.result()

    stack.callback(end)
    port: int = listener.getsockname()[1]
    return port


def connected(stack: ExitStack, port: int, content: bytes) -> socket.socket:
    """Connect to a server of this machine, and send `content`; return the socket.

    Operations of the socket time out after 20 seconds. `stack` closes the socket.
    """
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    stack.enter_context(client)
    client.sendall(content)
    return client


def read_all(client: socket.socket) -> bytes:
    """Return all that a server sends until it closes the connection."""
    content = b""
    while part := client.recv(2**16):
        content += part
    return content
