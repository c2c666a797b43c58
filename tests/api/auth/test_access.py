"""Settings of tokens and trusted proxies; errors for wrong or absent settings."""

from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest

from config.access import Token, access_problems
from config.destinations import Secret
from config.settings import Settings, SettingsError, load

SECRET_VALUE = "x" * 20
HASHED = '{ name = "a", role = "viewer", sha256 = "' + "0" * 64 + '" }'
FROM_ENVIRONMENT = '{ name = "b", role = "operator", env = "NODE_TOKEN" }'
BEHIND_PROXY = (
    'trusted_proxies = ["10.0.0.5/32"]\nproxy_user_header = "X-Remote-User"\n'
)


def read(folder: Path, api: str, **environment: str) -> Settings:
    (folder / "node.toml").write_text(f"[api]\n{api}\n")
    return load(folder / "node.toml", environment)


def error_line(folder: Path, api: str) -> str:
    with pytest.raises(SettingsError, match=r"node\.toml cannot be used") as caught:
        read(folder, api)
    _, line = str(caught.value).splitlines()
    return line.strip()


def test_token_is_read_from_a_hash_or_from_the_environment(tmp_path: Path) -> None:
    api = read(
        tmp_path,
        f"tokens = [{HASHED}, {FROM_ENVIRONMENT}]",
        NODE_TOKEN=f"{SECRET_VALUE}\n",
    ).api

    assert api.tokens == (
        Token(name="a", role="viewer", sha256="0" * 64),
        Token(name="b", role="operator", env=Secret("NODE_TOKEN", SECRET_VALUE)),
    )
    assert [each.digest for each in api.tokens] == [
        bytes(32),
        sha256(SECRET_VALUE.encode()).digest(),
    ]
    assert SECRET_VALUE not in repr(api)


def test_sha256_of_a_token_may_be_in_upper_case(tmp_path: Path) -> None:
    tokens = f"tokens = [{HASHED.replace('0' * 64, 'AB' * 32)}]"

    (token,) = read(tmp_path, tokens).api.tokens

    assert token.digest == b"\xab" * 32


def test_trusted_proxy_and_operators_are_read(tmp_path: Path) -> None:
    api = read(tmp_path, f'{BEHIND_PROXY}operators = ["anna"]').api

    assert api.trusted_proxies == (ip_network("10.0.0.5/32"),)
    assert api.operators == ("anna",)
    assert api.guarded


@pytest.mark.parametrize(
    ("api", "expected"),
    [
        ('tokens = [{ name = "a", role = "viewer" }]', "set either sha256"),
        (
            f"tokens = [{FROM_ENVIRONMENT[:-2]}, sha256 = '{'0' * 64}' }}]",
            "set either sha256",
        ),
        (f"tokens = [{HASHED}, {HASHED}]", "two tokens are named a"),
        (f"tokens = [{HASHED.replace('viewer', 'admin')}]", "'viewer' or 'operator'"),
        (
            f"tokens = [{HASHED.replace('0' * 64, 'hidden')}]",
            "the 64 hexadecimal digits",
        ),
        (
            f"tokens = [{HASHED.replace(chr(34) + 'a', chr(34) + 'A.B')}]",
            "a to z, 0 to 9",
        ),
        (
            f"tokens = [{FROM_ENVIRONMENT.replace('NODE_TOKEN', 'hidden')}]",
            "expected the name of an environment variable",
        ),
        ('tokens = ["hidden"]', "tokens.0"),
        ('tokens = "hidden"', "api.tokens"),
        ('proxy_user_header = "X-Remote-User"', "needs trusted_proxies"),
        (BEHIND_PROXY.replace("10.0.0.5/32", "0.0.0.0/0"), "contains every address"),
        (BEHIND_PROXY.replace("10.0.0.5/32", "::/0"), "contains every address"),
        (BEHIND_PROXY.replace("X-Remote-User", "X Remote"), "name of an HTTP header"),
        ('operators = ["anna"]', "operators needs proxy_user_header"),
    ],
)
def test_invalid_access_settings_are_refused(
    tmp_path: Path, api: str, expected: str
) -> None:
    error = error_line(tmp_path, api)

    assert error.startswith("api")
    assert expected in error
    assert "hidden" not in error


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_host_needs_no_access_settings(tmp_path: Path, host: str) -> None:
    assert access_problems(read(tmp_path, f'host = "{host}"').api) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node.hospital"])  # noqa: S104
def test_other_host_needs_tokens_or_a_proxy(tmp_path: Path, host: str) -> None:
    listen = f'host = "{host}"\n'

    (problem,) = access_problems(read(tmp_path, listen).api)

    start = f"api.host: other machines can reach {host}, but no user"
    assert problem.startswith(start)
    assert "`fracture-node token NAME --role viewer`" in problem
    for access in (f"tokens = [{HASHED}]", BEHIND_PROXY):
        assert access_problems(read(tmp_path, listen + access).api) == []


def test_loopback_host_behind_a_proxy_needs_tokens_or_a_user_header(
    tmp_path: Path,
) -> None:
    behind = 'trusted_proxies = ["127.0.0.1/32"]\n'

    (problem,) = access_problems(read(tmp_path, behind).api)

    assert problem.startswith(
        "api.trusted_proxies: a proxy forwards requests, but no user"
    )
    assert access_problems(read(tmp_path, f"{behind}tokens = [{HASHED}]").api) == []


@pytest.mark.parametrize("environment", [{}, {"NODE_TOKEN": "hidden" * 3}])
def test_token_from_the_environment_must_be_set_and_long(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    settings = read(tmp_path, f"tokens = [{FROM_ENVIRONMENT}]", **environment)

    (problem,) = access_problems(settings.api)

    start = "api.tokens: the environment variable NODE_TOKEN of the token b has "
    assert problem.startswith(start)
    assert "at least 20 characters" in problem
    assert "hidden" not in problem
    # Fail closed: the API still requires a token.
    assert settings.api.guarded
