"""Identify the user of a request from its credentials and the settings."""

import hmac
from hashlib import sha256
from pathlib import Path

from fastapi import Request

from api.auth.audit import User
from api.auth.login_throttle import Throttle
from api.auth.proxy import Origin
from api.auth.request_user import AuthMethod
from api.auth.sessions import Sessions
from config.access import SHORTEST_TOKEN, ApiSettings, Token

# The user of all requests if the settings require no login. The node then serves only
# its own machine.
ANYONE = User("anyone on this machine", "operator")


class Access:
    """The authentication of users by proxy header, token or session cookie.

    Attributes:
        api: The settings of the web application.
        sessions: The sessions of browsers.
        logins: Throttle for failed logins on the login page.
        failures: Counts unknown bearer tokens by address. The count limits how many of
            them are audited. It does not delay any request.
    """

    def __init__(self, api: ApiSettings, directory: Path) -> None:
        """Prepare the methods of authentication.

        Args:
            api: The settings of the web application.
            directory: The storage directory. The session key in it is read or created
                on first use.
        """
        self.api = api
        self.sessions = Sessions(api.tokens, directory)
        self.logins = Throttle()
        self.failures = Throttle()

    def token(self, text: str) -> Token | None:
        """Return the token of the settings that has this text.

        Returns None if no token has this text, or if the text has fewer than
        SHORTEST_TOKEN characters. The duration of the call does not depend on the
        content of the tokens.
        """
        digest = sha256(text.encode(errors="replace")).digest()
        matches = [
            each for each in self.api.tokens if hmac.compare_digest(each.digest, digest)
        ]
        return matches[0] if matches and len(text) >= SHORTEST_TOKEN else None

    def identify(
        self, request: Request, client: Origin
    ) -> tuple[User, AuthMethod] | None:
        """Return the user of a request and the method of authentication.

        The user is identified by the first of these that the request has: a user name
        from a trusted proxy, a bearer token, a session cookie. If the settings require
        no login, every request has the user ANYONE.

        Args:
            request: The request, with its credentials.
            client: The client that the request comes from.

        Returns:
            None if the user is unknown.
        """
        if not self.api.guarded:
            return ANYONE, "open"
        if client.user:
            is_operator = client.user in self.api.operators
            return User(client.user, "operator" if is_operator else "viewer"), "proxy"
        if (text := bearer_token(request)) is not None:
            token = self.token(text)
            return None if token is None else (user_of(token), "token")
        token = self.sessions.holder(
            request.cookies.get(cookie_name(client.secure), "")
        )
        return None if token is None else (user_of(token), "session")


def user_of(token: Token) -> User:
    """Return the user that a token belongs to."""
    return User(token.name, token.role)


def bearer_token(request: Request) -> str | None:
    """Return the bearer token of a request (RFC 6750 2.1); None if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def cookie_name(secure: bool) -> str:  # noqa: FBT001 - one of two names
    """Return the name of the session cookie.

    If the client uses https (`secure`), the name has the prefix `__Host-`. Browsers
    accept such a cookie only from this exact host (RFC 6265bis 4.1.3.2). Other hosts
    of the domain therefore cannot set a cookie with this name.
    """
    return "__Host-fracture-node" if secure else "fracture-node"
