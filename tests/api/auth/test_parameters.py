"""Errors of the API for unknown and repeated query parameters."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.app import create_app
from config.settings import load
from tests.support.http_client import ACTING, LOOKING, bearing
from tests.support.review_site import Review

pytestmark = pytest.mark.integration

DESCRIBED = create_app(load(None, {})).openapi()["paths"]
OPERATIONS = [
    (method, path)
    for path, methods in DESCRIBED.items()
    for method in methods
    if path.startswith("/api/v1/") or path == "/predict"
]


def parameters(method: str, path: str) -> list[str]:
    described = DESCRIBED[path][method].get("parameters", [])
    return [each["name"] for each in described if each["in"] == "query"]


SINGLE = [
    (method, path, name)
    for method, path in OPERATIONS
    for name in parameters(method, path)
    if name not in {"state", "answer", "id"}  # may be repeated for the worklist
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    site = Review(tmp_path_factory.mktemp("site"))
    yield site
    site.engine.dispose()
    site.close()


def refusal(
    site: Review, method: str, path: str, query: str, token: str = ACTING
) -> str:
    """Send a request that must be refused with 400; return its error message."""
    address = re.sub("{.*?}", "x", path)
    response = site.ask(method.upper(), f"{address}?{query}", bearing(token))
    assert response.status_code == 400, response.text
    problem = response.json()
    if path == "/predict":
        return str(problem["error"])
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["title"]) == (400, "Bad Request")
    return str(problem["detail"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_error_for_an_unknown_parameter_lists_the_known_ones(
    site: Review, method: str, path: str
) -> None:
    known = ", ".join(parameters(method, path)) or "none"

    message = refusal(site, method, path, "limit=1")

    assert message == (
        f"Unknown parameter: limit. Known parameters: {known}. See /docs."
    )


@pytest.mark.parametrize(("method", "path", "name"), SINGLE)
def test_repeated_parameter_is_rejected_if_it_takes_one_value(
    site: Review, method: str, path: str, name: str
) -> None:
    message = refusal(site, method, path, f"{name}=1&{name}=1")

    assert message == f"Given more than once: {name}. Give one value. See /docs."


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit", "limit"),
        ("SIZE=1", "SIZE"),
        ("size%20=1", "size "),
        ("size=1&Size=2&limit=3", "Size, limit"),
        ("=1", "query"),
        ("a%00b%0Ac=1", "a\ufffdb\ufffdc"),
        (f"{'n' * 5000}=1", "n" * 64),
        ("&".join(f"p{n}=1" for n in range(9)), "p0, p1, p2, p3, p4"),
        ("q[]=1", "q[]"),
    ],
)
def test_error_names_unknown_parameters_in_a_short_form(
    site: Review, query: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    message = refusal(site, "get", "/api/v1/instances", query)

    known = "Known parameters: q, answer"
    assert message.startswith(f"Unknown parameter: {named}. {known}")
    # The text may be the name of a patient, which must not appear in the log.
    assert named not in "".join(
        each.getMessage() for each in caplog.records if each.name.startswith("api")
    )


def test_parameters_with_several_values_may_be_repeated(site: Review) -> None:
    query = "state=failed&state=received&answer=none&answer=definite&id=1&id=2"

    response = site.ask("GET", f"/api/v1/instances?{query}", bearing(LOOKING))

    assert response.status_code == 200


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_unauthenticated_client_gets_no_list_of_parameters(
    site: Review, method: str, path: str
) -> None:
    response = site.ask(method.upper(), f"{re.sub('{.*?}', 'x', path)}?limit=1")

    assert response.status_code == 401
    assert "limit" not in response.text


def test_routes_outside_the_api_ignore_parameters(tmp_path: Path) -> None:
    site = Review(tmp_path)

    for path in ("/healthz", "/static/page.css"):
        assert site.ask("GET", f"{path}?v=1").status_code == 200

    site.engine.dispose()
    site.close()
