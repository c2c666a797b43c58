"""Who gets in, as what, and which requests a browser was made to send by others."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount

from api.people import AccessEvent, Person, log_event
from api.visit import Operator, Viewer
from tests.asking import ACTING, LOOKING, PROXY, TOKENS, Site, bearing

PNG = {"files": {"file": ("a", b"no image")}}
# What anybody may ask; the rest is for viewers at least.
FOR_ALL = {"/healthz", "/readyz", "/login", "/logout"}
ELSEWHERE = {"Origin": "https://example.org"}


@pytest.fixture
def guarded(tmp_path: Path) -> Site:
    """Lets in by token."""
    return Site(tmp_path, TOKENS)


@pytest.fixture
def proxied(tmp_path: Path) -> Site:
    """Lets in by token, or whom a proxy names."""
    return Site(tmp_path, TOKENS + PROXY)


@pytest.fixture
def local(tmp_path: Path) -> Site:
    """As `make run` starts it: for all at this machine."""
    return Site(tmp_path, "")


def named(site: Site) -> FastAPI:
    """Add two routes that say who was let in."""

    router = APIRouter(prefix="/those")

    @site.app.get("/look")
    def look(person: Viewer) -> list[str]:
        return [person.name, person.role]

    @router.post("/act")
    def act(person: Operator) -> list[str]:
        return [person.name, person.role]

    site.app.include_router(router)
    return site.app


def all_of(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, and those of routers among them."""
    for each in routes:
        router = getattr(each, "original_router", None)  # newer FastAPI keeps them
        yield from [each] if router is None else all_of(router.routes)


def test_every_route_but_a_few_asks_who_is_there(guarded: Site) -> None:
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


def test_anybody_may_have_the_style_of_the_login(guarded: Site) -> None:
    assert guarded.ask("GET", "/static/page.css").status_code == 200


def test_a_program_is_told_in_words_and_by_rfc_6750_what_it_lacks(
    guarded: Site,
) -> None:
    nothing = guarded.ask("POST", "/predict", **PNG)
    wrong = guarded.ask("POST", "/predict", bearing("x" * 43), **PNG)

    assert nothing.status_code == wrong.status_code == 401
    assert nothing.headers["www-authenticate"] == 'Bearer realm="fracture-node"'
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    assert "Authorization: Bearer" in nothing.json()["error"]
    assert wrong.json() == {"error": "This token is not known."}


def test_a_browser_is_shown_the_way_to_the_login_and_back(guarded: Site) -> None:
    response = guarded.ask("GET", "/docs", {"Accept": "text/html,*/*;q=0.8"})

    assert response.status_code == 303
    assert response.headers["location"] == "/login?next=/docs"


def test_no_browser_is_sent_to_a_login_that_there_is_not(tmp_path: Path) -> None:
    site = Site(tmp_path, PROXY)

    assert site.ask("GET", "/", {"Accept": "text/html"}).status_code == 401
    assert site.ask("GET", "/login").status_code == 404


@pytest.mark.parametrize(
    ("token", "person"),
    [(LOOKING, ["looking", "viewer"]), (ACTING, ["acting", "operator"])],
)
def test_a_token_is_its_name_and_role(
    guarded: Site, token: str, person: list[str]
) -> None:
    named(guarded)

    assert guarded.ask("GET", "/look", bearing(token)).json() == person
    assert guarded.ask("GET", "/look", guarded.session(token)).json() == person


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
def test_what_is_no_token_of_ours_lets_nobody_in(guarded: Site, header: str) -> None:
    named(guarded)
    headers = {"Authorization": header.encode("latin-1")}

    assert guarded.ask("GET", "/look", headers).status_code == 401  # type: ignore[arg-type]


def test_a_short_token_lets_nobody_in_wherever_it_comes_from(tmp_path: Path) -> None:
    # The SHA-256 of nothing, and a variable that is not set.
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    site = Site(
        tmp_path,
        "tokens = [\n"
        f'{{ name = "a", role = "viewer", sha256 = "{nothing}" }},\n'
        '{ name = "b", role = "operator", env = "UNSET" },\n]\n',
    )

    assert site.ask("GET", "/docs", bearing("")).status_code == 401
    assert site.log_in("").status_code == 401


def test_a_viewer_may_not_act_and_is_told_so(guarded: Site) -> None:
    named(guarded)

    refused = guarded.ask("POST", "/those/act", bearing(LOOKING))
    done = guarded.ask("POST", "/those/act", bearing(ACTING))

    assert refused.status_code == 403
    assert "looking is a viewer" in refused.json()["error"]
    assert done.json() == ["acting", "operator"]
    assert guarded.told == [
        AccessEvent("refused", Person("looking", "viewer"), "192.0.2.7", "/those/act")
    ]


def test_readyz_tells_strangers_no_more_than_whether(guarded: Site) -> None:
    stranger = guarded.ask("GET", "/readyz")
    viewer = guarded.ask("GET", "/readyz", bearing(LOOKING))

    assert stranger.status_code == viewer.status_code == 503
    assert stranger.json() == {"node": "not ready"}
    assert viewer.json() == {"model": "the model is being loaded"}


def test_strangers_have_the_checks_run_no_more_than_now_and_then(
    tmp_path: Path,
) -> None:
    asked = []
    site = Site(tmp_path, TOKENS, {"spool": lambda: asked.append("spool")})

    for _ in range(5):
        site.ask("GET", "/readyz")
    assert len(asked) == 1

    for _ in range(5):
        site.ask("GET", "/readyz", bearing(LOOKING))
    assert len(asked) == 6


class TestProxy:
    @pytest.mark.parametrize(
        ("user", "person"),
        [
            ("anna", ["anna", "operator"]),
            ("Anna", ["Anna", "viewer"]),
            ("KLINIK\\berta", ["KLINIK\\berta", "viewer"]),
            ("jürgen", ["jürgen", "viewer"]),
        ],
    )
    def test_names_people(self, proxied: Site, user: str, person: list[str]) -> None:
        named(proxied)
        headers = {"X-Remote-User": user.encode()}

        response = proxied.ask("GET", "/look", headers, peer="10.0.0.9")  # type: ignore[arg-type]

        assert response.json() == person

    def test_is_not_whoever_says_so(self, proxied: Site) -> None:
        named(proxied)
        headers = {"X-Remote-User": "anna", "X-Forwarded-For": "10.0.0.9"}

        for peer in ("10.0.1.9", "127.0.0.1", "::1"):
            assert proxied.ask("GET", "/look", headers, peer=peer).status_code == 401

    def test_that_names_nobody_leaves_it_to_the_token(self, proxied: Site) -> None:
        named(proxied)
        headers = {"X-Remote-User": ""}

        nobody = proxied.ask("GET", "/look", headers, peer="10.0.0.9")
        program = proxied.ask("GET", "/look", bearing(LOOKING), peer="10.0.0.9")

        assert nobody.status_code == 401
        assert program.json() == ["looking", "viewer"]

    def test_is_believed_before_a_token_of_its_own(self, proxied: Site) -> None:
        named(proxied)
        headers = {"X-Remote-User": "anna", **bearing("of-the-identity-provider")}

        response = proxied.ask("GET", "/look", headers, peer="10.0.0.9")

        assert response.json() == ["anna", "operator"]
        assert proxied.told == []


class TestOtherOrigin:
    """A website of somebody else, in the browser of a person who is let in."""

    @pytest.mark.parametrize(
        "sent",
        [
            {"Origin": "https://example.org"},
            {"Origin": "null"},
            {"Origin": "http://localhost:8000.example.org"},
            {"Origin": "http://localhost"},
            {"Sec-Fetch-Site": "cross-site"},
            # A neighbor: http://wiki.hospital beside http://node.hospital.
            {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8000"},
        ],
    )
    def test_can_make_it_send_nothing_that_changes_something(
        self, guarded: Site, local: Site, proxied: Site, sent: dict[str, str]
    ) -> None:
        cookie = guarded.session(ACTING)
        user = {"X-Remote-User": "anna"}

        answers = [
            guarded.ask("POST", "/predict", {**cookie, **sent}, **PNG),
            guarded.ask("POST", "/logout", {**cookie, **sent}),
            guarded.log_in(LOOKING, sent),
            local.ask("POST", "/predict", sent, **PNG),
            proxied.ask("POST", "/predict", {**user, **sent}, peer="10.0.0.9", **PNG),
        ]

        assert [each.status_code for each in answers] == [403] * 5
        assert "another website" in answers[0].json()["error"]
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
    def test_is_not_what_our_own_page_is(
        self, guarded: Site, local: Site, sent: dict[str, str]
    ) -> None:
        cookie = guarded.session(LOOKING)

        # 503: nothing stands in the way but the model, which is not loaded.
        for answer in (
            guarded.ask("POST", "/predict", {**cookie, **sent}, **PNG),
            local.ask("POST", "/predict", sent, **PNG),
        ):
            assert answer.status_code == 503

    def test_has_no_token_and_so_a_token_is_enough(self, guarded: Site) -> None:
        headers = {**bearing(LOOKING), **ELSEWHERE}

        assert guarded.ask("POST", "/predict", headers, **PNG).status_code == 503

    def test_may_link_to_a_page(self, guarded: Site) -> None:
        headers = {**guarded.session(LOOKING), "Sec-Fetch-Site": "cross-site"}

        assert guarded.ask("GET", "/docs", headers).status_code == 200


class TestName:
    """What a browser believes to speak to when its DNS says that it is this machine."""

    @pytest.mark.parametrize(
        "host",
        ["example.org", "example.org:8000", "localhost.example.org", "10.1.2.3", "[::"],
    )
    def test_of_somebody_else_opens_nothing(self, local: Site, host: str) -> None:
        response = local.ask("GET", "/", {"Host": host})

        assert response.status_code == 421
        assert "localhost or 127.0.0.1" in response.json()["error"]

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
    def test_is_not_ours_behind_a_proxy(self, local: Site, header: str) -> None:
        headers = {"Host": "localhost:8000", header: "for=192.0.2.7"}

        assert local.ask("GET", "/", headers).status_code == 421

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "127.0.0.2", "[::1]:8"]
    )
    def test_of_this_machine_opens_the_page(self, local: Site, host: str) -> None:
        assert local.ask("GET", "/", {"Host": host}).status_code == 200

    def test_matters_no_longer_where_people_say_who_they_are(
        self, guarded: Site
    ) -> None:
        headers = {"Host": "node.hospital", **bearing(LOOKING)}

        assert guarded.ask("GET", "/", headers).status_code == 200


def test_a_wrong_token_is_told_of_but_not_each_time(guarded: Site) -> None:
    for _ in range(20):
        guarded.ask("GET", "/docs", bearing("hidden" * 9))
    guarded.ask("GET", "/docs", bearing("hidden" * 9), peer="192.0.2.8")
    about = "with a token that is not known"

    assert (
        5
        <= guarded.told.count(AccessEvent("login failed", None, "192.0.2.7", about))
        < 8
    )
    assert (
        guarded.told.count(AccessEvent("login failed", None, "192.0.2.8", about)) == 1
    )
    # Nobody is kept out by what another program at the same address does.
    assert guarded.ask("GET", "/docs", bearing(LOOKING)).status_code == 200


def test_the_log_names_no_token(
    guarded: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.app.state.tell = log_event

    guarded.ask("GET", "/docs", bearing("hidden" * 9))
    guarded.log_in("hidden" * 9)
    guarded.ask("GET", "/docs", guarded.session(LOOKING))

    assert "login: looking at 192.0.2.7, /login" in caplog.text
    assert "login failed: somebody at 192.0.2.7" in caplog.text
    assert "hidden" not in caplog.text
    assert LOOKING not in caplog.text


class TestHeaders:
    @pytest.mark.parametrize("path", ["/docs", "/static/page.css", "/none", "/failing"])
    def test_keep_every_answer_to_our_own_origin(self, local: Site, path: str) -> None:
        local.app.add_api_route("/failing", lambda: 1 // 0)

        headers = local.ask("GET", path).headers

        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "camera=()" in headers["permissions-policy"]

    def test_ask_for_https_over_https_alone(self, proxied: Site) -> None:
        by_proxy = {"X-Forwarded-Proto": "https"}

        for path in ("/healthz", "/none"):
            secure = proxied.ask("GET", path, by_proxy, peer="10.0.0.9")
            assert "max-age=" in secure.headers["strict-transport-security"]
        for headers, peer in (({}, "10.0.0.9"), (by_proxy, "192.0.2.7")):
            plain = proxied.ask("GET", "/healthz", headers, peer=peer)
            assert "strict-transport-security" not in plain.headers
