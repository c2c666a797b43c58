"""Requests to /login and /logout: cookies, redirects, and wrong tokens."""

from http.cookies import Morsel, SimpleCookie
from pathlib import Path

import httpx
import pytest

from api.auth.audit import AccessEvent, User
from dicom_node.audit.event import AuditEventType
from tests.support.http_client import ACTING, LOOKING, PROXY, TOKENS, Site

HTTPS = {"X-Forwarded-Proto": "https"}
PROXY_ADDRESS = "10.0.0.9"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, TOKENS + PROXY)


def cookie(response: httpx.Response) -> "Morsel[str]":
    (only,) = SimpleCookie(response.headers["set-cookie"]).values()
    return only


def test_login_starts_a_session_of_twelve_hours(site: Site) -> None:
    response = site.log_in(f" {LOOKING}\n")  # pasted with white space

    session_cookie = cookie(response)
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    assert session_cookie.key == "fracture-node"
    assert (session_cookie["httponly"], session_cookie["secure"]) == (True, "")
    assert (session_cookie["samesite"], session_cookie["path"]) == ("strict", "/")
    assert session_cookie["max-age"] == "43200"
    assert session_cookie["domain"] == ""
    assert LOOKING not in session_cookie.value
    assert site.events == [
        AccessEvent(
            AuditEventType.LOGGED_IN, User("looking", "viewer"), "192.0.2.7", "/login"
        )
    ]


def test_cookie_over_https_is_secure_and_bound_to_the_host(site: Site) -> None:
    response = site.log_in(LOOKING, HTTPS, peer=PROXY_ADDRESS)

    session_cookie = cookie(response)
    assert session_cookie.key == "__Host-fracture-node"
    assert session_cookie["secure"] is True
    assert (session_cookie["path"], session_cookie["domain"]) == ("/", "")
    sent = {"Cookie": f"{session_cookie.key}={session_cookie.value}"}
    assert (
        site.ask("GET", "/docs", {**sent, **HTTPS}, peer=PROXY_ADDRESS).status_code
        == 200
    )
    # HTTPS requires the prefix __Host-, which another host cannot set over HTTP.
    plain = {"Cookie": f"fracture-node={session_cookie.value}", **HTTPS}
    assert site.ask("GET", "/docs", plain, peer=PROXY_ADDRESS).status_code == 401


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/docs", "/docs"),
        ("/worklist/1.2.3", "/worklist/1.2.3"),
        ("//example.org", "/"),
        ("/\\example.org", "/"),
        ("https://example.org/", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_login_redirects_only_to_paths_of_this_site(
    site: Site, target: str, path: str
) -> None:
    page = site.ask("GET", "/login", params={"next": target})

    assert f'name="next" value="{path}"' in page.text
    assert site.log_in(LOOKING, after=target).headers["location"] == path


@pytest.mark.parametrize("token", ["", "x" * 43, LOOKING[:-1], "ä" * 30, "\ud800" * 30])
def test_wrong_token_is_reported_on_the_page(site: Site, token: str) -> None:
    content = httpx.QueryParams({"token": token.encode(errors="surrogatepass")})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    response = site.ask("POST", "/login", headers, content=str(content))

    assert response.status_code == 401
    assert "This token is not known." in response.text
    assert 'type="password"' in response.text
    assert "set-cookie" not in response.headers
    assert site.events == [
        AccessEvent(AuditEventType.LOGIN_FAILED, None, "192.0.2.7", "/login")
    ]


def test_too_many_wrong_tokens_block_only_their_address(site: Site) -> None:
    for _ in range(7):
        site.log_in("wrong" * 9)

    blocked = site.log_in(LOOKING)
    other = site.log_in(LOOKING, peer="192.0.2.8")

    assert blocked.status_code == 429
    assert int(blocked.headers["retry-after"]) in range(1, 3)
    assert "Too many wrong tokens came from 192.0.2.7" in blocked.text
    assert other.status_code == 303


def test_clients_behind_a_proxy_are_blocked_separately(site: Site) -> None:
    for _ in range(7):
        site.log_in("wrong" * 9, {"X-Forwarded-For": "192.0.2.1"}, peer=PROXY_ADDRESS)

    tries = [
        site.log_in(
            LOOKING, {"X-Forwarded-For": f"192.0.2.{number}"}, peer=PROXY_ADDRESS
        )
        for number in (1, 2)
    ]

    assert [each.status_code for each in tries] == [429, 303]


def test_logout_ends_the_session_for_every_copy_of_its_cookie(site: Site) -> None:
    held, other = site.session(ACTING), site.session(ACTING)

    response = site.ask("POST", "/logout", held)

    assert response.status_code == 303
    assert response.headers["location"] == "/login"
    assert cookie(response).value == ""
    assert cookie(response)["max-age"] == "0"
    assert site.ask("GET", "/docs", held).status_code == 401
    assert site.ask("GET", "/docs", other).status_code == 200
    user = User("acting", "operator")
    assert site.events[-1] == AccessEvent(
        AuditEventType.LOGGED_OUT, user, "192.0.2.7", "/logout"
    )


def test_logout_by_get_is_refused(site: Site) -> None:
    assert site.ask("GET", "/logout", site.session(LOOKING)).status_code == 405


def test_page_shows_the_user_and_a_logout_for_sessions(site: Site) -> None:
    session = site.ask("GET", "/docs", site.session(LOOKING)).text
    proxy = site.ask(
        "GET", "/docs", {"X-Remote-User": "<anna>"}, peer=PROXY_ADDRESS
    ).text
    login_page = site.ask("GET", "/login").text

    assert ">looking<" in session
    assert "/logout" in session
    assert ">&lt;anna&gt;<" in proxy
    assert "/logout" not in proxy
    assert "<nav" not in login_page


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"token=" + b"x" * 5000, 413),
        (b"&".join([b"a=b"] * 9), 400),
        (b"\xff\xfe", 400),
        (b"{}", 401),
        (b"", 401),
    ],
)
def test_malformed_form_is_refused(site: Site, body: bytes, status: int) -> None:
    assert site.ask("POST", "/login", content=body).status_code == status
