"""Session cookies: their token, their duration and invalid cookies."""

import stat
from pathlib import Path

import pytest

from api.auth.sessions import LIFE_S, Sessions
from config.access import Token

ROOT = Path(__file__).parents[3]
HOUR_S = 3600
TOKEN = Token(name="a", role="viewer", sha256="0" * 64)
OTHER = Token(name="b", role="viewer", sha256="1" * 64)


class Clock:
    def __init__(self) -> None:
        self.time = 1_700_000_000.5

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sessions(folder: Path, clock: Clock, *tokens: Token) -> Sessions:
    return Sessions(tokens or (TOKEN, OTHER), folder, clock)


def test_session_is_valid_for_twelve_hours(tmp_path: Path, clock: Clock) -> None:
    begun = sessions(tmp_path, clock)
    cookie, other = begun.begin(TOKEN), begun.begin(OTHER)

    clock.time += 12 * HOUR_S - 1
    assert begun.holder(cookie) == TOKEN
    assert begun.holder(other) == OTHER

    clock.time += 1
    assert begun.holder(cookie) is None


@pytest.mark.parametrize(
    "path", ["api/templates/texts.json", "docs/operation.md", "docs/scaling.md"]
)
def test_texts_state_the_duration_of_a_session(path: str) -> None:
    assert f"for {LIFE_S // HOUR_S} hours" in (ROOT / path).read_text("utf-8")


def test_session_is_valid_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    cookie = sessions(tmp_path / "new", clock).begin(TOKEN)

    assert sessions(tmp_path / "new", clock).holder(cookie) == TOKEN


@pytest.mark.parametrize(
    "now",
    [
        [OTHER],
        [TOKEN.model_copy(update={"sha256": "2" * 64})],
        [TOKEN.model_copy(update={"role": "operator"})],
        [TOKEN.model_copy(update={"name": "c"})],
    ],
    ids=["removed", "changed", "of-another-role", "renamed"],
)
def test_session_is_invalid_if_its_token_was_removed_or_changed(
    tmp_path: Path, clock: Clock, now: list[Token]
) -> None:
    cookie = sessions(tmp_path, clock).begin(TOKEN)

    assert sessions(tmp_path, clock, *now).holder(cookie) is None


def test_session_with_another_key_is_invalid(tmp_path: Path, clock: Clock) -> None:
    cookie = sessions(tmp_path / "a", clock).begin(TOKEN)

    assert sessions(tmp_path / "b", clock).holder(cookie) is None


def test_cookie_with_a_changed_character_is_invalid(
    tmp_path: Path, clock: Clock
) -> None:
    begun = sessions(tmp_path, clock)
    cookie = begun.begin(TOKEN)
    forged = [
        f"{cookie[:at]}{'b' if cookie[at] != 'b' else 'c'}{cookie[at + 1 :]}"
        for at in range(len(cookie))
    ]

    assert begun.holder(cookie) == TOKEN
    assert [begun.holder(each) for each in forged] == [None] * len(forged)


@pytest.mark.parametrize(
    "cookie", ["", ".", "a", "a.1.2", "a.9999999999.x.", "a...", "ä.ö.ü.é", "a" * 9999]
)
def test_malformed_cookie_is_invalid(tmp_path: Path, clock: Clock, cookie: str) -> None:
    assert sessions(tmp_path, clock).holder(cookie) is None


def test_logout_ends_only_its_session(tmp_path: Path, clock: Clock) -> None:
    begun = sessions(tmp_path, clock)
    cookie, other = begun.begin(TOKEN), begun.begin(TOKEN)

    begun.end(cookie)
    begun.end("not a cookie")

    assert begun.holder(cookie) is None
    assert begun.holder(other) == TOKEN  # created in the same second


def test_expired_sessions_are_removed_from_the_list_of_ended_sessions(
    tmp_path: Path, clock: Clock
) -> None:
    begun = sessions(tmp_path, clock)
    for _ in range(10):
        begun.end(begun.begin(TOKEN))
        clock.time += 13 * HOUR_S

    assert len(begun._ended) == 1


def test_key_is_random_and_readable_only_by_its_owner(
    tmp_path: Path, clock: Clock
) -> None:
    for folder in ("a", "b"):
        sessions(tmp_path / folder, clock).begin(TOKEN)
    keys = [tmp_path / folder / "session.key" for folder in ("a", "b")]

    assert [stat.S_IMODE(key.stat().st_mode) for key in keys] == [0o600] * 2
    assert [len(key.read_bytes()) for key in keys] == [32, 32]
    assert keys[0].read_bytes() != keys[1].read_bytes()
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["session.key"]


def test_truncated_key_is_replaced(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "session.key").write_bytes(b"")

    cookie = sessions(tmp_path, clock).begin(TOKEN)

    assert len((tmp_path / "session.key").read_bytes()) == 32
    assert sessions(tmp_path, clock).holder(cookie) == TOKEN


def test_sessions_last_until_a_restart_if_the_key_cannot_be_stored(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("no folder")
    begun = sessions(tmp_path / "data", clock)

    cookie = begun.begin(TOKEN)

    assert begun.holder(cookie) == TOKEN
    assert sessions(tmp_path / "data", clock).holder(cookie) is None
    assert "restart will end all sessions" in caplog.text
