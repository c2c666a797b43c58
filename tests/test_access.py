"""The settings that say who is let in, and when that is not settled."""

from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest

from config.access import Token, unsettled
from config.destinations import Secret
from config.settings import Settings, SettingsError, load

LONG = "x" * 20
SOME = '{ name = "a", role = "viewer", sha256 = "' + "0" * 64 + '" }'
FROM = '{ name = "b", role = "operator", env = "NODE_TOKEN" }'
BEHIND = 'trusted_proxies = ["10.0.0.5/32"]\nproxy_user_header = "X-Remote-User"\n'


def read(folder: Path, api: str, **environment: str) -> Settings:
    (folder / "node.toml").write_text(f"[api]\n{api}\n")
    return load(folder / "node.toml", environment)


def complaint(folder: Path, api: str) -> str:
    with pytest.raises(SettingsError, match=r"node\.toml cannot be used") as caught:
        read(folder, api)
    _, told = str(caught.value).splitlines()
    return told.strip()


def test_tokens_are_a_hash_or_from_the_environment(tmp_path: Path) -> None:
    api = read(tmp_path, f"tokens = [{SOME}, {FROM}]", NODE_TOKEN=f"{LONG}\n").api

    assert api.tokens == (
        Token(name="a", role="viewer", sha256="0" * 64),
        Token(name="b", role="operator", env=Secret("NODE_TOKEN", LONG)),
    )
    assert [each.digest for each in api.tokens] == [
        bytes(32),
        sha256(LONG.encode()).digest(),
    ]
    assert LONG not in repr(api)


def test_a_hash_may_be_written_in_capitals(tmp_path: Path) -> None:
    tokens = f"tokens = [{SOME.replace('0' * 64, 'AB' * 32)}]"

    (token,) = read(tmp_path, tokens).api.tokens

    assert token.digest == b"\xab" * 32


def test_proxies_name_people(tmp_path: Path) -> None:
    api = read(tmp_path, f'{BEHIND}operators = ["anna"]').api

    assert api.trusted_proxies == (ip_network("10.0.0.5/32"),)
    assert api.operators == ("anna",)
    assert api.guarded


@pytest.mark.parametrize(
    ("api", "told"),
    [
        ('tokens = [{ name = "a", role = "viewer" }]', "give either sha256"),
        (f"tokens = [{FROM[:-2]}, sha256 = '{'0' * 64}' }}]", "give either sha256"),
        (f"tokens = [{SOME}, {SOME}]", "two tokens are named a"),
        (f"tokens = [{SOME.replace('viewer', 'admin')}]", "'viewer' or 'operator'"),
        (f"tokens = [{SOME.replace('0' * 64, 'hidden')}]", "the 64 hexadecimal digits"),
        (
            f"tokens = [{SOME.replace(chr(34) + 'a', chr(34) + 'A.B')}]",
            "a to z, 0 to 9",
        ),
        (f"tokens = [{FROM.replace('NODE_TOKEN', 'hidden')}]", "name a variable"),
        ('tokens = ["hidden"]', "tokens.0"),
        ('tokens = "hidden"', "api.tokens"),
        ('proxy_user_header = "X-Remote-User"', "needs trusted_proxies"),
        (BEHIND.replace("10.0.0.5/32", "0.0.0.0/0"), "believes everybody"),
        (BEHIND.replace("10.0.0.5/32", "::/0"), "believes everybody"),
        (BEHIND.replace("X-Remote-User", "X Remote"), "name of an HTTP header"),
        ('operators = ["anna"]', "set proxy_user_header"),
    ],
)
def test_what_would_let_in_nobody_or_everybody_is_refused(
    tmp_path: Path, api: str, told: str
) -> None:
    said = complaint(tmp_path, api)

    assert said.startswith("api")
    assert told in said
    assert "hidden" not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_on_this_machine_nothing_must_be_settled(tmp_path: Path, host: str) -> None:
    assert unsettled(read(tmp_path, f'host = "{host}"').api) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node.hospital"])  # noqa: S104
def test_for_other_machines_it_must_be_settled_who_may_come(
    tmp_path: Path, host: str
) -> None:
    listen = f'host = "{host}"\n'

    (told,) = unsettled(read(tmp_path, listen).api)

    assert told.startswith(f"api.host: other machines can reach {host}, and nothing")
    assert "`fracture-node token NAME --role viewer`" in told
    for way in (f"tokens = [{SOME}]", BEHIND):
        assert unsettled(read(tmp_path, listen + way).api) == []


def test_behind_a_proxy_it_must_be_settled_on_this_machine_too(tmp_path: Path) -> None:
    behind = 'trusted_proxies = ["127.0.0.1/32"]\n'

    (told,) = unsettled(read(tmp_path, behind).api)

    assert told.startswith("api.trusted_proxies: others come by a proxy, and nothing")
    assert unsettled(read(tmp_path, f"{behind}tokens = [{SOME}]").api) == []


@pytest.mark.parametrize("environment", [{}, {"NODE_TOKEN": "hidden" * 3}])
def test_a_token_of_the_environment_must_be_there_and_long(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    settings = read(tmp_path, f"tokens = [{FROM}]", **environment)

    (told,) = unsettled(settings.api)

    assert told.startswith("api.tokens: NODE_TOKEN, where the token b is to stand, ")
    assert "20 or more" in told
    assert "hidden" not in told
    # Fail shut: it is not as if no token had been asked for.
    assert settings.api.guarded
