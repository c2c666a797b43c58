"""Identify the user of a request from its credentials and the settings."""

import hmac
from hashlib import sha256

from fastapi import Request

from api.auth.audit import User
from api.auth.login_throttle import Throttle
from api.auth.proxy import Origin
from api.auth.request_user import AuthMethod
from api.auth.sessions import Sessions
from config.access import SHORTEST_TOKEN, Token
from config.settings import Settings

# Anyone who can open the page of a node that serves only its own machine may do
# everything.
ANYONE = User("anyone on this machine", "operator")


class Access:
    """Identifies users by token, session cookie or proxy header.

    Attributes:
        api: The settings of the web application.
        sessions: The sessions of browsers.
        logins: Throttle for failed logins on the login page.
        failures: Throttle for failed tokens of programs.
    """

    def __init__(self, settings: Settings) -> None:
        """Read the settings. The session key is only read if there is a session."""
        self.api = settings.api
        self.sessions = Sessions(settings.api.tokens, settings.storage.directory)
        self.logins = Throttle()
        self.failures = Throttle()

    def token(self, shown: str) -> Token | None:
        """Find a token by its text, in a time independent of the known tokens."""
        digest = sha256(shown.encode(errors="replace")).digest()
        found = [
            each for each in self.api.tokens if hmac.compare_digest(each.digest, digest)
        ]
        return found[0] if found and len(shown) >= SHORTEST_TOKEN else None

    def person(self, request: Request, seen: Origin) -> tuple[User, AuthMethod] | None:
        """Return the user of a request and the method of authentication.

        Returns None if the user is unknown.
        """
        if not self.api.guarded:
            return ANYONE, "open"
        if seen.user:
            acts = seen.user in self.api.operators
            return User(seen.user, "operator" if acts else "viewer"), "proxy"
        if (shown := bearer(request)) is not None:
            token = self.token(shown)
            return None if token is None else (person_of(token), "token")
        held = self.sessions.holder(request.cookies.get(cookie_name(seen.secure), ""))
        return None if held is None else (person_of(held), "session")


def person_of(token: Token) -> User:
    """Return the user that a token belongs to."""
    return User(token.name, token.role)


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request (RFC 6750 2.1), or None if it has none."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else None


def cookie_name(secure: bool) -> str:  # noqa: FBT001 - one of two names
    """Return the name of the session cookie.

    Over https, the name has a prefix that browsers accept only from this exact host
    (RFC 6265bis 4.1.3.2). No other host of the domain can then set a cookie in its
    place.
    """
    return "__Host-fracture-node" if secure else "fracture-node"
