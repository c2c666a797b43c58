"""Headers of a trusted proxy are used, and those of other clients are ignored."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from api.auth.proxy import Origin, origin
from config.access import ApiSettings
from config.settings import load
from tests.support.http_client import PROXY

NEAR, FAR = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def api(tmp_path: Path) -> ApiSettings:
    (tmp_path / "node.toml").write_text(f"[api]\n{PROXY}")
    return load(tmp_path / "node.toml", {}).api


def origin_of(
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


def test_headers_of_a_trusted_proxy_are_used(api: ApiSettings) -> None:
    assert origin_of(api, NEAR, *ALL) == Origin("192.0.2.1", secure=True, user="anna")


@pytest.mark.parametrize("peer", ["10.0.1.1", "127.0.0.1", "fe80::1", "testclient"])
def test_headers_of_other_clients_are_ignored(api: ApiSettings, peer: str) -> None:
    assert origin_of(api, peer, *ALL) == Origin(peer, secure=False, user="")


def test_a_local_socket_has_no_address(api: ApiSettings) -> None:
    assert origin_of(api, None, *ALL) == Origin("", secure=False, user="")


def test_proxy_is_recognized_over_an_ipv6_socket(api: ApiSettings) -> None:
    assert origin_of(api, f"::ffff:{NEAR}", *ALL).user == "anna"
    assert origin_of(api, f"::ffff:{NEAR}").address == NEAR


def test_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address(api: ApiSettings) -> None:
    assert origin_of(api, "::ffff:192.0.2.1").address == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        # The client invented the first address. The proxy added the real one.
        ("198.51.100.1, 192.0.2.1", "192.0.2.1"),
        (f"198.51.100.1, 192.0.2.1, {FAR}", "192.0.2.1"),
        (FAR, FAR),
        ("", NEAR),
        ("unknown", NEAR),
        (f"192.0.2.1, _hidden, {FAR}", FAR),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        (f"192.0.2.1, ::ffff:{FAR}", "192.0.2.1"),
    ],
)
def test_client_is_the_nearest_address_that_is_no_proxy(
    api: ApiSettings, forwarded_for: str, address: str
) -> None:
    assert origin_of(api, NEAR, ("X-Forwarded-For", forwarded_for)).address == address


def test_repeated_headers_are_one_list_of_addresses(api: ApiSettings) -> None:
    parts = ("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "192.0.2.1")

    assert origin_of(api, NEAR, *parts).address == "192.0.2.1"


@pytest.mark.parametrize(
    "users",
    [[], [""], [" "], ["anna", "anna"], ["anna", "berta"], ["a\x7fb"], ["a" * 129]],
)
def test_missing_repeated_and_invalid_user_names_are_ignored(
    api: ApiSettings, users: list[str]
) -> None:
    assert origin_of(api, NEAR, *[("X-Remote-User", user) for user in users]).user == ""


def test_scheme_is_that_of_the_connection_if_no_proxy_header_is_present(
    api: ApiSettings,
) -> None:
    assert origin_of(api, NEAR, scheme="https").secure
    assert not origin_of(
        api, NEAR, ("X-Forwarded-Proto", "http"), scheme="https"
    ).secure
