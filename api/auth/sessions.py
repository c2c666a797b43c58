"""Browser sessions: signed cookies, each valid for 12 hours.

A session belongs to a token and its role. If either changes in the settings, the
signature of the cookie becomes invalid. The server does not store sessions. After a
logout, the server keeps the cookie in memory, and refuses it. After a restart of the
server, this cookie is valid again until it expires.
"""

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from config.access import Token
from dicom_node.storage.durable_files import write_durably

logger = logging.getLogger(__name__)

LIFE_S = 12 * 3600
KEY = "session.key"
KEY_BYTES = 32


class Sessions:
    """The sessions of all browsers.

    Must only be used from the event loop.
    """

    def __init__(
        self,
        tokens: tuple[Token, ...],
        directory: Path,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Store the arguments. The key that signs cookies is read on first use.

        Args:
            tokens: The tokens that a session can belong to: those in the settings.
            directory: The directory of the key. If the key does not exist, it is
                created on first use.
            now: Returns the time in seconds since 1970.
        """
        self._tokens = {each.name: each for each in tokens}
        self._directory = directory
        self._now = now
        # Cookies of ended sessions, with the time at which each can be forgotten.
        self._ended: dict[str, float] = {}

    def begin(self, token: Token) -> str:
        """Return the value of the cookie of a new session."""
        until = int(self._now()) + LIFE_S
        payload = f"{token.name}.{until}.{secrets.token_hex(8)}"
        return f"{payload}.{self._signature(payload, token)}"

    def holder(self, cookie: str) -> Token | None:
        """Return the token to which the session of a cookie belongs.

        Returns None if the cookie is invalid, or if its session has expired or was
        ended by logout.
        """
        payload, _, signature = cookie.rpartition(".")
        name, _, rest = payload.partition(".")
        token = self._tokens.get(name)
        # Compare bytes: compare_digest accepts only ASCII strings.
        if token is None or not hmac.compare_digest(
            signature.encode(), self._signature(payload, token).encode()
        ):
            return None
        # The signature is valid, so the time can be parsed.
        ended = cookie in self._ended or int(rest.partition(".")[0]) <= self._now()
        return None if ended else token

    def end(self, cookie: str) -> None:
        """End the session of a cookie before it expires; ignore an invalid cookie."""
        if self.holder(cookie):
            now = self._now()
            self._ended = {key: t for key, t in self._ended.items() if t > now}
            self._ended[cookie] = now + LIFE_S

    def _signature(self, payload: str, token: Token) -> str:
        signed = token.digest + f"{token.role}.{payload}".encode()
        return hmac.new(self._key, signed, "sha256").hexdigest()

    @cached_property
    def _key(self) -> bytes:
        try:
            return _load_or_create_key(self._directory)
        except OSError as error:
            logger.warning(
                "The session key cannot be stored in storage.directory (%s). A "
                "restart will end all sessions",
                error.strerror,
            )
            return secrets.token_bytes(KEY_BYTES)


def _load_or_create_key(directory: Path) -> bytes:
    """Return the key in a directory. If there is no usable key, create one.

    Raises:
        OSError: The existing key cannot be read, or a new key cannot be written.
    """
    path = directory / KEY
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) == KEY_BYTES:
        return key
    directory.mkdir(parents=True, exist_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    write_durably(path, key)
    return key
