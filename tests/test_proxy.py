"""What a proxy says of a request, and that nobody else's word counts."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from api.proxy import Origin, origin
from config.access import ApiSettings
from config.settings import load
from tests.asking import PROXY

NEAR, FAR = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def api(tmp_path: Path) -> ApiSettings:
    (tmp_path / "node.toml").write_text(f"[api]\n{PROXY}")
    return load(tmp_path / "node.toml", {}).api


def seen(
    api: ApiSettings, peer: str | None, *headers: tuple[str, str], scheme: str = "http"
) -> Origin:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"client": peer and (peer, 5000), "scheme": scheme}
    return origin(scope, Headers(raw=raw), api)


ALL = (
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Proto", "https"),
    ("X-Remote-User", "anna"),
)


def test_a_proxy_is_believed(api: ApiSettings) -> None:
    assert seen(api, NEAR, *ALL) == Origin("192.0.2.1", secure=True, user="anna")


@pytest.mark.parametrize("peer", ["10.0.1.1", "127.0.0.1", "fe80::1", "testclient"])
def test_nobody_else_is(api: ApiSettings, peer: str) -> None:
    assert seen(api, peer, *ALL) == Origin(peer, secure=False, user="")


def test_a_local_socket_has_no_address(api: ApiSettings) -> None:
    assert seen(api, None, *ALL) == Origin("", secure=False, user="")


def test_a_proxy_is_known_over_an_ipv6_socket_too(api: ApiSettings) -> None:
    assert seen(api, f"::ffff:{NEAR}", *ALL).user == "anna"


@pytest.mark.parametrize(
    ("said", "address"),
    [
        # The client wrote the first one; its proxy added what it saw.
        ("198.51.100.1, 192.0.2.1", "192.0.2.1"),
        (f"198.51.100.1, 192.0.2.1, {FAR}", "192.0.2.1"),
        (FAR, FAR),
        ("", NEAR),
        ("unknown", NEAR),
        (f"192.0.2.1, _hidden, {FAR}", FAR),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_proxy(
    api: ApiSettings, said: str, address: str
) -> None:
    assert seen(api, NEAR, ("X-Forwarded-For", said)).address == address


def test_a_list_of_addresses_may_come_in_parts(api: ApiSettings) -> None:
    parts = ("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "192.0.2.1")

    assert seen(api, NEAR, *parts).address == "192.0.2.1"


@pytest.mark.parametrize(
    "users",
    [[], [""], [" "], ["anna", "anna"], ["anna", "berta"], ["a\x7fb"], ["a" * 129]],
)
def test_no_name_two_names_and_odd_names_are_nobody(
    api: ApiSettings, users: list[str]
) -> None:
    assert seen(api, NEAR, *[("X-Remote-User", user) for user in users]).user == ""


def test_the_scheme_is_the_servers_where_no_proxy_says_it(api: ApiSettings) -> None:
    assert seen(api, NEAR, scheme="https").secure
    assert not seen(api, NEAR, ("X-Forwarded-Proto", "http"), scheme="https").secure
