"""Logging in and out, as a browser does it."""

from http.cookies import Morsel, SimpleCookie
from pathlib import Path

import httpx
import pytest

from api.people import AccessEvent, Person
from tests.asking import ACTING, LOOKING, PROXY, TOKENS, Site

BEHIND = {"X-Forwarded-Proto": "https"}
NEAR = "10.0.0.9"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, TOKENS + PROXY)


def cookie(response: httpx.Response) -> "Morsel[str]":
    (only,) = SimpleCookie(response.headers["set-cookie"]).values()
    return only


def test_the_token_begins_a_session_for_twelve_hours(site: Site) -> None:
    response = site.log_in(f" {LOOKING}\n")  # as it is pasted

    begun = cookie(response)
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    assert begun.key == "fracture-node"
    assert (begun["httponly"], begun["secure"]) == (True, "")
    assert (begun["samesite"], begun["path"]) == ("strict", "/")
    assert begun["max-age"] == "43200"
    assert begun["domain"] == ""
    assert LOOKING not in begun.value
    assert site.told == [
        AccessEvent("login", Person("looking", "viewer"), "192.0.2.7", "/login")
    ]


def test_over_https_the_cookie_is_of_this_host_and_of_https_alone(site: Site) -> None:
    response = site.log_in(LOOKING, BEHIND, peer=NEAR)

    begun = cookie(response)
    assert begun.key == "__Host-fracture-node"
    assert begun["secure"] is True
    assert (begun["path"], begun["domain"]) == ("/", "")
    sent = {"Cookie": f"{begun.key}={begun.value}"}
    assert site.ask("GET", "/docs", {**sent, **BEHIND}, peer=NEAR).status_code == 200
    # A neighbor that is reached by http cannot put a cookie in its place.
    plain = {"Cookie": f"fracture-node={begun.value}", **BEHIND}
    assert site.ask("GET", "/docs", plain, peer=NEAR).status_code == 401


@pytest.mark.parametrize(
    ("asked", "path"),
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
def test_after_the_login_comes_what_was_asked_for_if_it_is_ours(
    site: Site, asked: str, path: str
) -> None:
    shown = site.ask("GET", "/login", params={"next": asked})

    assert f'name="next" value="{path}"' in shown.text
    assert site.log_in(LOOKING, after=asked).headers["location"] == path


@pytest.mark.parametrize("token", ["", "x" * 43, LOOKING[:-1], "ä" * 30, "\ud800" * 30])
def test_a_wrong_token_is_told_on_the_page(site: Site, token: str) -> None:
    content = httpx.QueryParams({"token": token.encode(errors="surrogatepass")})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    response = site.ask("POST", "/login", headers, content=str(content))

    assert response.status_code == 401
    assert "This token is not known." in response.text
    assert 'type="password"' in response.text
    assert "set-cookie" not in response.headers
    assert site.told == [AccessEvent("login failed", None, "192.0.2.7", "/login")]


def test_after_too_many_wrong_tokens_an_address_waits_and_no_other(site: Site) -> None:
    for _ in range(7):
        site.log_in("wrong" * 9)

    late = site.log_in(LOOKING)
    other = site.log_in(LOOKING, peer="192.0.2.8")

    assert late.status_code == 429
    assert int(late.headers["retry-after"]) in range(1, 3)
    assert "Too many wrong tokens came from 192.0.2.7" in late.text
    assert other.status_code == 303


def test_people_behind_a_proxy_do_not_wait_for_each_other(site: Site) -> None:
    for _ in range(7):
        site.log_in("wrong" * 9, {"X-Forwarded-For": "192.0.2.1"}, peer=NEAR)

    tries = [
        site.log_in(LOOKING, {"X-Forwarded-For": f"192.0.2.{number}"}, peer=NEAR)
        for number in (1, 2)
    ]

    assert [each.status_code for each in tries] == [429, 303]


def test_logging_out_ends_the_session_wherever_its_cookie_is(site: Site) -> None:
    held, other = site.session(ACTING), site.session(ACTING)

    response = site.ask("POST", "/logout", held)

    assert response.status_code == 303
    assert response.headers["location"] == "/login"
    assert cookie(response).value == ""
    assert cookie(response)["max-age"] == "0"
    assert site.ask("GET", "/docs", held).status_code == 401
    assert site.ask("GET", "/docs", other).status_code == 200
    person = Person("acting", "operator")
    assert site.told[-1] == AccessEvent("logout", person, "192.0.2.7", "/logout")


def test_nobody_logs_out_by_following_a_link(site: Site) -> None:
    assert site.ask("GET", "/logout", site.session(LOOKING)).status_code == 405


def test_who_is_logged_in_is_named_and_may_log_out(site: Site) -> None:
    session = site.ask("GET", "/docs", site.session(LOOKING)).text
    proxy = site.ask("GET", "/docs", {"X-Remote-User": "<anna>"}, peer=NEAR).text
    nobody = site.ask("GET", "/login").text

    assert ">looking<" in session
    assert "/logout" in session
    assert ">&lt;anna&gt;<" in proxy
    assert "/logout" not in proxy
    assert "<nav" not in nobody


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
def test_a_form_that_is_none_is_answered_and_not_kept(
    site: Site, body: bytes, status: int
) -> None:
    assert site.ask("POST", "/login", content=body).status_code == status
