"""Headers that keep a browser from doing more with our pages than they ask for."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Scripts, styles, forms and requests of our own only; pictures also from answers.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), "
    "usb=()",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": forms would come from the origin "null", and be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers hold pictures of patients, and the pages change with each release.
    "Cache-Control": "no-store",
}
A_YEAR_S = 365 * 24 * 3600


def headers(scope: Scope) -> dict[str, str]:
    """Choose the headers of an answer.

    Args:
        scope: Of its request, with the scheme that the client speaks.
    """
    if scope["scheme"] != "https":
        return HEADERS
    return {**HEADERS, "Strict-Transport-Security": f"max-age={A_YEAR_S}"}


class SecurityHeaders:
    """ASGI middleware that adds the headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Only now: the scheme may have been corrected meanwhile.
                MutableHeaders(scope=message).update(headers(scope))
            await send(message)

        await self._app(scope, receive, secured)
