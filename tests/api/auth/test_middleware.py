"""Authentication, roles, and the defense against requests from other websites."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount

from api.auth.audit import AccessEvent, User, log_event
from api.auth.request_user import Operator, Viewer
from dicom_node.audit.event import AuditEventType
from tests.support.http_client import ACTING, LOOKING, PROXY, TOKENS, Site, bearing

PNG = {"files": {"file": ("a", b"no image")}}
# Routes without authentication; all others require at least a viewer.
FOR_ALL = {"/healthz", "/readyz", "/login", "/logout"}
OTHER_ORIGIN = {"Origin": "https://example.org"}


@pytest.fixture
def guarded(tmp_path: Path) -> Site:
    """A site with tokens."""
    return Site(tmp_path, TOKENS)


@pytest.fixture
def proxied(tmp_path: Path) -> Site:
    """A site with tokens and a proxy that authenticates users."""
    return Site(tmp_path, TOKENS + PROXY)


@pytest.fixture
def local(tmp_path: Path) -> Site:
    """A site as `make run` starts it: open to all programs on this machine."""
    return Site(tmp_path, "")


def add_user_routes(site: Site) -> FastAPI:
    """Add GET /look for viewers and POST /those/act for operators; return the app.

    Both routes return the name and the role of the authenticated user.
    """

    router = APIRouter(prefix="/those")

    @site.app.get("/look")
    def look(user: Viewer) -> list[str]:
        return [user.name, user.role]

    @router.post("/act")
    def act(user: Operator) -> list[str]:
        return [user.name, user.role]

    site.app.include_router(router)
    return site.app


def all_of(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield the routes of a list. The routes of a nested router replace the router."""
    for each in routes:
        router = getattr(each, "original_router", None)  # in newer FastAPI
        yield from [each] if router is None else all_of(router.routes)


def test_every_route_but_a_few_requires_authentication(guarded: Site) -> None:
    every = [*all_of(guarded.app.routes)]
    routes = [each for each in every if isinstance(each, APIRoute)]
    others = [each for each in every if not isinstance(each, APIRoute)]
    open_to_all = {
        (method, route.path)
        for route in routes
        for method in route.methods
        if guarded.ask(method, route.path).status_code != 401
    }

    assert {path for _, path in open_to_all} == FOR_ALL
    assert {"/", "/docs", "/openapi.json", "/predict"} < {each.path for each in routes}
    assert [each.path for each in others if isinstance(each, Mount)] == ["/static"]
    assert len(others) == 1


def test_stylesheet_requires_no_authentication(guarded: Site) -> None:
    assert guarded.ask("GET", "/static/page.css").status_code == 200


def test_missing_and_unknown_tokens_are_reported_as_in_rfc_6750(
    guarded: Site,
) -> None:
    missing = guarded.ask("POST", "/predict", **PNG)
    unknown = guarded.ask("POST", "/predict", bearing("x" * 43), **PNG)

    assert missing.status_code == unknown.status_code == 401
    assert missing.headers["www-authenticate"] == 'Bearer realm="fracture-node"'
    assert 'error="invalid_token"' in unknown.headers["www-authenticate"]
    assert "Authorization: Bearer" in missing.json()["error"]
    assert unknown.json() == {"error": "This token is not known."}


def test_browser_is_redirected_to_the_login_page(guarded: Site) -> None:
    response = guarded.ask("GET", "/docs", {"Accept": "text/html,*/*;q=0.8"})

    assert response.status_code == 303
    assert response.headers["location"] == "/login?next=/docs"


def test_browser_is_not_redirected_if_there_is_no_login_page(tmp_path: Path) -> None:
    site = Site(tmp_path, PROXY)

    assert site.ask("GET", "/", {"Accept": "text/html"}).status_code == 401
    assert site.ask("GET", "/login").status_code == 404


@pytest.mark.parametrize(
    ("token", "expected"),
    [(LOOKING, ["looking", "viewer"]), (ACTING, ["acting", "operator"])],
)
def test_token_gives_its_name_and_role(
    guarded: Site, token: str, expected: list[str]
) -> None:
    add_user_routes(guarded)

    assert guarded.ask("GET", "/look", bearing(token)).json() == expected
    assert guarded.ask("GET", "/look", guarded.session(token)).json() == expected


@pytest.mark.parametrize(
    "header",
    [
        LOOKING,
        f"Basic {LOOKING}",
        f"Bearer {LOOKING[:-1]}",
        f"Bearer {LOOKING} x",
        "Bearer",
        "Bearer ",
        "Bearer \xfc",
    ],
)
def test_malformed_and_unknown_tokens_are_refused(guarded: Site, header: str) -> None:
    add_user_routes(guarded)
    headers = {"Authorization": header.encode("latin-1")}

    assert guarded.ask("GET", "/look", headers).status_code == 401  # type: ignore[arg-type]


def test_empty_token_is_refused_even_if_the_settings_contain_it(tmp_path: Path) -> None:
    # The SHA-256 of the empty string, and an environment variable that is not set.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    site = Site(
        tmp_path,
        "tokens = [\n"
        f'{{ name = "a", role = "viewer", sha256 = "{empty}" }},\n'
        '{ name = "b", role = "operator", env = "UNSET" },\n]\n',
    )

    assert site.ask("GET", "/docs", bearing("")).status_code == 401
    assert site.log_in("").status_code == 401


def test_viewer_is_refused_routes_of_operators(guarded: Site) -> None:
    add_user_routes(guarded)

    refused = guarded.ask("POST", "/those/act", bearing(LOOKING))
    done = guarded.ask("POST", "/those/act", bearing(ACTING))

    assert refused.status_code == 403
    assert "looking is a viewer" in refused.json()["error"]
    assert done.json() == ["acting", "operator"]
    assert guarded.events == [
        AccessEvent(
            AuditEventType.REFUSED, User("looking", "viewer"), "192.0.2.7", "/those/act"
        )
    ]


def test_readyz_gives_no_details_without_authentication(guarded: Site) -> None:
    unauthenticated = guarded.ask("GET", "/readyz")
    viewer = guarded.ask("GET", "/readyz", bearing(LOOKING))

    assert unauthenticated.status_code == viewer.status_code == 503
    assert unauthenticated.json() == {"node": "not ready"}
    assert viewer.json() == {"model": "the model is being loaded"}


def test_readyz_limits_the_rate_of_checks_without_authentication(
    tmp_path: Path,
) -> None:
    checks_run = []
    site = Site(tmp_path, TOKENS, {"spool": lambda: checks_run.append("spool")})

    for _ in range(5):
        site.ask("GET", "/readyz")
    assert len(checks_run) == 1

    for _ in range(5):
        site.ask("GET", "/readyz", bearing(LOOKING))
    assert len(checks_run) == 6


class TestProxy:
    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("anna", ["anna", "operator"]),
            ("Anna", ["Anna", "viewer"]),
            ("KLINIK\\berta", ["KLINIK\\berta", "viewer"]),
            ("jürgen", ["jürgen", "viewer"]),
        ],
    )
    def test_names_the_user_in_a_header(
        self, proxied: Site, user: str, expected: list[str]
    ) -> None:
        add_user_routes(proxied)
        headers = {"X-Remote-User": user.encode()}

        response = proxied.ask("GET", "/look", headers, peer="10.0.0.9")  # type: ignore[arg-type]

        assert response.json() == expected

    def test_header_from_another_address_is_ignored(self, proxied: Site) -> None:
        add_user_routes(proxied)
        headers = {"X-Remote-User": "anna", "X-Forwarded-For": "10.0.0.9"}

        for peer in ("10.0.1.9", "127.0.0.1", "::1"):
            assert proxied.ask("GET", "/look", headers, peer=peer).status_code == 401

    def test_empty_header_leaves_the_token_in_force(self, proxied: Site) -> None:
        add_user_routes(proxied)
        headers = {"X-Remote-User": ""}

        unauthenticated = proxied.ask("GET", "/look", headers, peer="10.0.0.9")
        with_token = proxied.ask("GET", "/look", bearing(LOOKING), peer="10.0.0.9")

        assert unauthenticated.status_code == 401
        assert with_token.json() == ["looking", "viewer"]

    def test_header_takes_precedence_over_a_token(self, proxied: Site) -> None:
        add_user_routes(proxied)
        headers = {"X-Remote-User": "anna", **bearing("of-the-identity-provider")}

        response = proxied.ask("GET", "/look", headers, peer="10.0.0.9")

        assert response.json() == ["anna", "operator"]
        assert proxied.events == []


class TestOtherOrigin:
    """Requests from pages of other websites, pages of the node, and programs."""

    @pytest.mark.parametrize(
        "sent",
        [
            {"Origin": "https://example.org"},
            {"Origin": "null"},
            {"Origin": "http://localhost:8000.example.org"},
            {"Origin": "http://localhost"},
            {"Sec-Fetch-Site": "cross-site"},
            # The same site, such as http://wiki.hospital and http://node.hospital.
            {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8000"},
        ],
    )
    def test_cannot_send_requests_that_change_state(
        self, guarded: Site, local: Site, proxied: Site, sent: dict[str, str]
    ) -> None:
        cookie = guarded.session(ACTING)
        user = {"X-Remote-User": "anna"}

        responses = [
            guarded.ask("POST", "/predict", {**cookie, **sent}, **PNG),
            guarded.ask("POST", "/logout", {**cookie, **sent}),
            guarded.log_in(LOOKING, sent),
            local.ask("POST", "/predict", sent, **PNG),
            proxied.ask("POST", "/predict", {**user, **sent}, peer="10.0.0.9", **PNG),
        ]

        assert [each.status_code for each in responses] == [403] * 5
        assert "another website" in responses[0].json()["error"]
        assert guarded.ask("GET", "/docs", cookie).status_code == 200  # not logged out

    @pytest.mark.parametrize(
        "sent",
        [
            {},  # curl
            {"Origin": "http://localhost:8000"},
            {"Sec-Fetch-Site": "same-origin", "Origin": "https://as.a.proxy/says"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_requests_from_own_pages_and_programs_are_accepted(
        self, guarded: Site, local: Site, sent: dict[str, str]
    ) -> None:
        cookie = guarded.session(LOOKING)

        # 503: the request is accepted, but the model is not loaded.
        for response in (
            guarded.ask("POST", "/predict", {**cookie, **sent}, **PNG),
            local.ask("POST", "/predict", sent, **PNG),
        ):
            assert response.status_code == 503

    def test_request_with_a_token_is_accepted_from_any_origin(
        self, guarded: Site
    ) -> None:
        headers = {**bearing(LOOKING), **OTHER_ORIGIN}

        assert guarded.ask("POST", "/predict", headers, **PNG).status_code == 503

    def test_may_link_to_a_page(self, guarded: Site) -> None:
        headers = {**guarded.session(LOOKING), "Sec-Fetch-Site": "cross-site"}

        assert guarded.ask("GET", "/docs", headers).status_code == 200


class TestHost:
    """The check of the Host header, a defense against DNS rebinding."""

    @pytest.mark.parametrize(
        "host",
        ["example.org", "example.org:8000", "localhost.example.org", "10.1.2.3", "[::"],
    )
    def test_of_another_machine_is_refused(self, local: Site, host: str) -> None:
        response = local.ask("GET", "/", {"Host": host})

        assert response.status_code == 421
        assert "localhost or 127.0.0.1" in response.json()["error"]

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
    def test_of_this_machine_is_refused_behind_a_proxy(
        self, local: Site, header: str
    ) -> None:
        headers = {"Host": "localhost:8000", header: "for=192.0.2.7"}

        assert local.ask("GET", "/", headers).status_code == 421

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "127.0.0.2", "[::1]:8"]
    )
    def test_of_this_machine_is_accepted(self, local: Site, host: str) -> None:
        assert local.ask("GET", "/", {"Host": host}).status_code == 200

    def test_is_not_checked_if_authentication_is_required(self, guarded: Site) -> None:
        headers = {"Host": "node.hospital", **bearing(LOOKING)}

        assert guarded.ask("GET", "/", headers).status_code == 200


def test_wrong_tokens_are_reported_at_a_limited_rate(guarded: Site) -> None:
    for _ in range(20):
        guarded.ask("GET", "/docs", bearing("hidden" * 9))
    guarded.ask("GET", "/docs", bearing("hidden" * 9), peer="192.0.2.8")
    about = "with an unknown token"

    assert (
        5
        <= guarded.events.count(
            AccessEvent(AuditEventType.LOGIN_FAILED, None, "192.0.2.7", about)
        )
        < 8
    )
    assert (
        guarded.events.count(
            AccessEvent(AuditEventType.LOGIN_FAILED, None, "192.0.2.8", about)
        )
        == 1
    )
    # Wrong tokens do not block other programs at the same address.
    assert guarded.ask("GET", "/docs", bearing(LOOKING)).status_code == 200


def test_log_contains_no_token(guarded: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.app.state.record_access = log_event

    guarded.ask("GET", "/docs", bearing("hidden" * 9))
    guarded.log_in("hidden" * 9)
    guarded.ask("GET", "/docs", guarded.session(LOOKING))

    assert "login: looking at 192.0.2.7, /login" in caplog.text
    assert "login failed: somebody at 192.0.2.7" in caplog.text
    assert "hidden" not in caplog.text
    assert LOOKING not in caplog.text


class TestHeaders:
    @pytest.mark.parametrize("path", ["/docs", "/static/page.css", "/none", "/failing"])
    def test_security_headers_are_in_every_response(
        self, local: Site, path: str
    ) -> None:
        local.app.add_api_route("/failing", lambda: 1 // 0)

        headers = local.ask("GET", path).headers

        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "camera=()" in headers["permissions-policy"]

    def test_hsts_is_sent_only_over_https(self, proxied: Site) -> None:
        by_proxy = {"X-Forwarded-Proto": "https"}

        for path in ("/healthz", "/none"):
            secure = proxied.ask("GET", path, by_proxy, peer="10.0.0.9")
            assert "max-age=" in secure.headers["strict-transport-security"]
        for headers, peer in (({}, "10.0.0.9"), (by_proxy, "192.0.2.7")):
            plain = proxied.ask("GET", "/healthz", headers, peer=peer)
            assert "strict-transport-security" not in plain.headers
