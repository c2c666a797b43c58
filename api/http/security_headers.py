"""Security headers that limit what a browser may do with the pages."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Only scripts, styles, forms and requests of this node. Images may also be in data:
    # and blob: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), "
    "usb=()",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": forms would then have the origin "null" and be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Responses contain images of patients, and the pages change with each release.
    "Cache-Control": "no-store",
}
A_YEAR_S = 365 * 24 * 3600


def headers(scope: Scope) -> dict[str, str]:
    """Return the security headers of a response.

    Args:
        scope: The ASGI scope of the request, with the scheme that the client uses.
    """
    if scope["scheme"] != "https":
        return HEADERS
    return {**HEADERS, "Strict-Transport-Security": f"max-age={A_YEAR_S}"}


class SecurityHeaders:
    """ASGI middleware that adds the security headers to responses."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and add the headers to its response."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # AuthMiddleware may have corrected the scheme before the response.
                MutableHeaders(scope=message).update(headers(scope))
            await send(message)

        await self._app(scope, receive, secured)
