"""Tells who somebody is by what their request brings, as the settings say."""

import hmac
from hashlib import sha256

from fastapi import Request

from api.people import Person
from api.proxy import Origin
from api.sessions import Sessions
from api.throttle import Throttle
from api.visit import Way
from config.access import SHORTEST_TOKEN, Token
from config.settings import Settings

# Whoever may open the page of a node that stays on its machine may do all there.
ANYONE = Person("anyone on this machine", "operator")


class Access:
    """Who is let in.

    Attributes:
        api: The settings.
        sessions: Those of browsers.
        logins: Failures at the page.
        failures: Failures of programs.
    """

    def __init__(self, settings: Settings) -> None:
        """Read the settings; the key of sessions only when there is a session."""
        self.api = settings.api
        self.sessions = Sessions(settings.api.tokens, settings.storage.directory)
        self.logins = Throttle()
        self.failures = Throttle()

    def token(self, shown: str) -> Token | None:
        """Find a token by its text, in a time that tells nothing of those we know."""
        digest = sha256(shown.encode(errors="replace")).digest()
        found = [
            each for each in self.api.tokens if hmac.compare_digest(each.digest, digest)
        ]
        return found[0] if found and len(shown) >= SHORTEST_TOKEN else None

    def person(self, request: Request, seen: Origin) -> tuple[Person, Way] | None:
        """Find out who sent a request, and how we know; None where we do not."""
        if not self.api.guarded:
            return ANYONE, "open"
        if seen.user:
            acts = seen.user in self.api.operators
            return Person(seen.user, "operator" if acts else "viewer"), "proxy"
        if (shown := bearer(request)) is not None:
            token = self.token(shown)
            return None if token is None else (person_of(token), "token")
        held = self.sessions.holder(request.cookies.get(cookie_name(seen.secure), ""))
        return None if held is None else (person_of(held), "session")


def person_of(token: Token) -> Person:
    """Say who shows a token."""
    return Person(token.name, token.role)


def bearer(request: Request) -> str | None:
    """Read the token that a program shows (RFC 6750 2.1); None where it shows none."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else None


def cookie_name(secure: bool) -> str:  # noqa: FBT001 - there are two of them
    """Name the cookie of a session.

    Over https by a name that browsers accept from this very host alone (RFC 6265bis
    4.1.3.2), so that no neighbor can put its own in our place.
    """
    return "__Host-fracture-node" if secure else "fracture-node"
