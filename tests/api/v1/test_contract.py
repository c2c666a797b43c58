"""Responses of /api/v1 conform to its OpenAPI description and are never a 5xx."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from tests.api.predict.test_contract import LITTLE
from tests.support.examination_rows import examine, summarize
from tests.support.http_client import ACTING, bearing, serve
from tests.support.review_site import STORED, Review

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Review, str]]:
    """A site with a delivered instance and a delivered summary, and its URL."""
    site = Review(tmp_path_factory.mktemp("site"))
    received = site.receive(1)
    site.answer(received)
    site.record_outcome(received, STORED)
    summarize(site.engine, examine(site.engine, [received.id]), "delivered")
    with ExitStack() as stack:
        yield site, f"http://127.0.0.1:{serve(site.app, stack)}"
    site.close()
    site.engine.dispose()


OPERATIONS = [
    ("GET", "/instances"),
    ("GET", "/senders"),
    ("GET", "/studies"),
    ("GET", "/studies/{study_instance_uid}"),
    ("GET", "/instances/{instance_id}"),
    ("GET", "/instances/{instance_id}/picture"),
    ("GET", "/instances/{instance_id}/heatmap"),
    ("GET", "/instances/{instance_id}/attributes"),
    ("GET", "/instances/{instance_id}/original"),
    ("GET", "/instances/{instance_id}/results/{sop_instance_uid}"),
    ("PUT", "/instances/{instance_id}/feedback"),
    ("DELETE", "/instances/{instance_id}/feedback"),
    ("GET", "/feedback.csv"),
    ("POST", "/instances/{instance_id}/analyze"),
    ("POST", "/instances/{instance_id}/send"),
    ("GET", "/failures"),
    ("GET", "/failures/instances"),
    ("POST", "/failures/retry"),
    ("GET", "/destinations"),
    ("POST", "/destinations/{name}/echo"),
    ("POST", "/destinations/{name}/pause"),
    ("POST", "/destinations/{name}/resume"),
    ("GET", "/callers"),
    ("GET", "/modalities"),
    ("GET", "/figures"),
    ("GET", "/node"),
    ("POST", "/uploads"),
]


WITHOUT_PARAMETERS = {
    "/senders",
    "/failures",
    "/destinations",
    "/callers",
    "/modalities",
}
WITHOUT_PARAMETERS |= {"/node", "/uploads"}  # /uploads takes only a file


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*each, GenerationMode.POSITIVE) for each in OPERATIONS]
    + [
        (method, path, GenerationMode.NEGATIVE)
        for method, path in OPERATIONS
        if path not in WITHOUT_PARAMETERS
    ],
)
def test_responses_conform_to_the_description(
    served: tuple[Review, str], method: str, path: str, mode: GenerationMode
) -> None:
    site, address = served
    described = openapi.from_dict(site.app.openapi())[f"/api/v1{path}"][method]
    load_all_checks()
    # A valid id may not exist, so 404 is a correct response.
    excluded = {positive_data_acceptance, negative_data_rejection, unsupported_method}
    checks = [*set(CHECKS.get_all()) - excluded]

    @LITTLE
    @given(case=described.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        case.call_and_validate(address, headers=bearing(ACTING), checks=checks)

    send()


def test_every_route_is_tested(served: tuple[Review, str]) -> None:
    described = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in served[0].app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/api/v1/")
    }

    # /changes is not tested, because its response does not end.
    assert described == {*OPERATIONS, ("GET", "/changes")}
