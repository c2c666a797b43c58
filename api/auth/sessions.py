"""Browser sessions: signed cookies, each valid for 12 hours.

A session belongs to a token and its role. If either changes in the settings, the
signature of the cookie becomes invalid. If the file of the key that signs cookies is
removed or replaced, all sessions end. The server does not store sessions. After a
logout, the server keeps the cookie in memory, and refuses it. After a restart of the
server, this cookie is valid again until it expires.
"""

import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread

from config.access import Token
from dicom_node.storage.durable_files import write_durably

logger = logging.getLogger(__name__)

LIFE_S = 12 * 3600
KEY = "session.key"
KEY_BYTES = 32

CHECK_S = 1.0
"""Seconds between two reads of the file of the key."""


class Sessions:
    """The sessions of all browsers.

    Call `holder` and `end` only from the event loop. They do not access the disk inside
    `watching_key`. `begin` may wait for the disk, so call it in another thread.
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
        self._key: bytes | None = None
        self._lock = Lock()  # held while the file of the key is read or written
        self._was_read = False
        self._is_stored = True
        # Cookies of ended sessions, with the time at which each can be forgotten.
        self._ended: dict[str, float] = {}

    @contextmanager
    def watching_key(self) -> Iterator[None]:
        """Read the file of the key every CHECK_S seconds during the block.

        If the file was removed or replaced, all sessions end. If it cannot be read, the
        sessions continue.
        """
        if not self._tokens:
            yield
            return
        self._read_key()
        ended = Event()
        # A daemon thread: a network file system may not respond when the process ends.
        Thread(target=self._watch_key, args=(ended,), daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def begin(self, token: Token) -> str:
        """Return the value of the cookie of a new session.

        If there is no usable key, a key is created.
        """
        until = int(self._now()) + LIFE_S
        payload = f"{token.name}.{until}.{secrets.token_hex(8)}"
        return f"{payload}.{_signature(self._usable_key(), payload, token)}"

    def holder(self, cookie: str) -> Token | None:
        """Return the token to which the session of a cookie belongs.

        Returns None if the cookie is invalid, or if its session has expired or was
        ended by logout.
        """
        if not self._was_read:
            self._read_key()
        key = self._key
        payload, _, signature = cookie.rpartition(".")
        name, _, rest = payload.partition(".")
        token = self._tokens.get(name)
        # Compare bytes: compare_digest accepts only ASCII strings.
        if (
            token is None
            or key is None
            or not hmac.compare_digest(
                signature.encode(), _signature(key, payload, token).encode()
            )
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

    def _watch_key(self, ended: Event) -> None:
        while not ended.wait(CHECK_S):
            self._read_key()

    def _read_key(self) -> None:
        """Use the key that is in the file now, if the file can be read."""
        with self._lock:
            self._was_read = True
            try:
                key = _stored_key(self._directory)
            except OSError:
                return
            if key is None and not self._is_stored:
                return
            if self._key not in {None, key}:
                logger.warning("The session key has changed. All sessions have ended")
            self._key, self._is_stored = key, True

    def _usable_key(self) -> bytes:
        """Return the key. If there is none, read or create it."""
        with self._lock:
            if self._key is None:
                try:
                    self._key = _load_or_create_key(self._directory)
                except OSError as error:
                    logger.warning(
                        "The session key cannot be stored in storage.directory (%s). A "
                        "restart will end all sessions",
                        error.strerror,
                    )
                    self._key, self._is_stored = secrets.token_bytes(KEY_BYTES), False
            return self._key


def _signature(key: bytes, payload: str, token: Token) -> str:
    signed = token.digest + f"{token.role}.{payload}".encode()
    return hmac.new(key, signed, "sha256").hexdigest()


def _stored_key(directory: Path) -> bytes | None:
    """Return the key in a directory; None if there is no usable key.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        key = (directory / KEY).read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == KEY_BYTES else None


def _load_or_create_key(directory: Path) -> bytes:
    """Return the key in a directory. If there is no usable key, create one.

    Raises:
        OSError: The existing key cannot be read, or a new key cannot be written.
    """
    if (key := _stored_key(directory)) is not None:
        return key
    directory.mkdir(parents=True, exist_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    write_durably(directory / KEY, key)
    return key
