"""Browser sessions: cookies signed with a key of ours, each good for one shift.

A session belongs to a token and its role; when either is changed in the settings, the
signature no longer fits. The server keeps no list of sessions, but of those that were
ended by hand: until it restarts, or they would have ended by themselves.
"""

import hmac
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from config.access import Token

logger = logging.getLogger(__name__)

LIFE_S = 12 * 3600
KEY = "session.key"
KEY_BYTES = 32


class Sessions:
    """Begins, knows and ends sessions. Used from the event loop alone."""

    def __init__(
        self,
        tokens: tuple[Token, ...],
        directory: Path,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Remember what sessions are of.

        Args:
            tokens: Those in the settings.
            directory: Where the key is kept, and made if need be, on the first use.
            now: The time, in seconds since 1970.
        """
        self._tokens = {each.name: each for each in tokens}
        self._directory = directory
        self._now = now
        self._ended: dict[str, float] = {}  # when they would have ended anyway

    def begin(self, token: Token) -> str:
        """Write the cookie of a new session."""
        until = int(self._now()) + LIFE_S
        said = f"{token.name}.{until}.{secrets.token_hex(8)}"
        return f"{said}.{self._signature(said, token)}"

    def holder(self, cookie: str) -> Token | None:
        """Find whose session a cookie is; None when it is none, or has ended."""
        said, _, signature = cookie.rpartition(".")
        name, _, rest = said.partition(".")
        token = self._tokens.get(name)
        # Compared as bytes: strings may be compared in constant time if ASCII only.
        if token is None or not hmac.compare_digest(
            signature.encode(), self._signature(said, token).encode()
        ):
            return None
        # Signed by us, so that the time can be read.
        ended = cookie in self._ended or int(rest.partition(".")[0]) <= self._now()
        return None if ended else token

    def end(self, cookie: str) -> None:
        """End a session before its time."""
        if self.holder(cookie):
            now = self._now()
            self._ended = {key: t for key, t in self._ended.items() if t > now}
            self._ended[cookie] = now + LIFE_S

    def _signature(self, said: str, token: Token) -> str:
        of = token.digest + f"{token.role}.{said}".encode()
        return hmac.new(self._key, of, "sha256").hexdigest()

    @cached_property
    def _key(self) -> bytes:
        try:
            return _kept_key(self._directory)
        except OSError as error:
            logger.warning(
                "The key of sessions cannot be kept in storage.directory (%s): a "
                "restart will end them all",
                error.strerror,
            )
            return secrets.token_bytes(KEY_BYTES)


def _kept_key(directory: Path) -> bytes:
    """Read the key; make one where there is none that could be used."""
    path = directory / KEY
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) == KEY_BYTES:
        return key
    directory.mkdir(parents=True, exist_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    # Whole or not at all, and for nobody else to read: mkstemp's are 0600.
    number, name = tempfile.mkstemp(dir=directory, prefix=KEY)
    with os.fdopen(number, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(number)
    Path(name).replace(path)
    return key
