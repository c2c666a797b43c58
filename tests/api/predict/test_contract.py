"""Responses of /predict, /healthz, /readyz and /metrics match openapi.json.

schemathesis generates the requests, the same ones in each run. For /predict, some are
invalid on purpose.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, CheckFunction, GenerationMode, openapi
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from api.predict import routes
from api.predict.analyzer import Analyzer
from dicom_node.analysis.pipeline import Pipeline
from dicom_node.decoder.client import DecoderProcess
from dicom_node.results.encoding import ResultOptions
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.finding import ModelIdentity
from inference.radiograph import Radiograph
from tests.support.http_client import LOOKING, TOKENS, Site, bearing, serve

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

DOCUMENT = Path(__file__).parents[3] / "docs" / "predict.md"
PREDICT, ALIVE, READY = "POST /predict", "GET /healthz", "GET /readyz"
METRICS = "GET /metrics"
LITTLE = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)


def test_documentation_lists_the_errors_of_predict() -> None:
    (errors,) = re.findall(r"\*\*Errors\.\*\*(.*)", DOCUMENT.read_text("utf-8"))

    assert set(map(int, re.findall(r"\b\d{3}\b", errors))) == {
        status for status in routes._PROBLEMS if status != "default"
    }


class Unfamiliar:
    """A model that refuses every image as unlike its training data."""

    card = SimpleNamespace(body_parts=())
    identity = ModelIdentity("unfamiliar", "1", "0" * 64)

    def classify(self, _radiograph: Radiograph) -> None:
        raise OutOfDistributionError("This picture is unlike those of the training.")


def load(analyzer: Analyzer) -> Pipeline:
    """Return a pipeline with a real decoder and with a model that refuses every image.

    The model has no weights.
    """
    child = DecoderProcess(timeout_s=60, memory_mb=1024)
    model, limits = cast("Any", Unfamiliar()), analyzer._settings.worker
    return Pipeline(model, child, limits, ResultOptions((), 1024, 1, 1))


@pytest.fixture(scope="module", params=["open", "guarded"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, str]]:
    """Serve a site, open to all or guarded by tokens; yield the site and its URL."""
    guarded = request.param == "guarded"
    site = Site(tmp_path_factory.mktemp("site"), TOKENS if guarded else "")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Analyzer, "_load", load)
        address = f"http://127.0.0.1:{serve(site.app, stack, lifespan='on')}"
        while httpx.get(f"{address}/readyz").status_code != 200:
            pass
        yield site, address


def every_check(*, guarded: bool) -> list[CheckFunction]:
    load_all_checks()
    # A file can match the description although it is no radiograph.
    excluded: set[CheckFunction] = {positive_data_acceptance}
    if not guarded:  # any credentials are accepted
        excluded.add(ignored_auth)
    return [*set(CHECKS.get_all()) - excluded]


def validated_status(case: Case, address: str, credentials: dict[str, str]) -> int:
    """Send the request of `case`, and validate the response; return its status."""
    checks = every_check(guarded=bool(credentials))
    return case.call_and_validate(
        address, headers=credentials, checks=checks
    ).status_code


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        (PREDICT, GenerationMode.POSITIVE),
        (PREDICT, GenerationMode.NEGATIVE),
        (ALIVE, GenerationMode.POSITIVE),
        (READY, GenerationMode.POSITIVE),
        (METRICS, GenerationMode.POSITIVE),
    ],
)
def test_responses_match_the_description_and_are_no_server_errors(
    served: tuple[Site, str], operation: str, mode: GenerationMode
) -> None:
    site, address = served
    credentials = bearing(LOOKING) if site.guarded else {}
    method, path = operation.split()
    described = openapi.from_dict(site.app.openapi())[path][method]
    statuses = set[int]()

    @LITTLE
    @given(case=described.as_strategy(generation_mode=mode))
    def sent(case: Case) -> None:
        statuses.add(validated_status(case, address, credentials))

    sent()

    assert statuses
    # schemathesis also sends invalid tokens on purpose.
    assert statuses <= ({200} if operation != PREDICT else {400, 401, 413, 415})


@pytest.mark.parametrize("credentials", [{}, bearing("x" * 43)])
def test_responses_to_unauthenticated_clients_match_the_description(
    served: tuple[Site, str], credentials: dict[str, str]
) -> None:
    site, address = served
    described = openapi.from_dict(site.app.openapi())["/predict"]["POST"]
    case = described.Case(body={"file": b"a"}, media_type="multipart/form-data")

    response = case.call_and_validate(address, headers=credentials, excluded_checks=[])

    assert response.status_code == (401 if site.guarded else 415)


def test_every_described_route_is_tested(served: tuple[Site, str]) -> None:
    described = {
        f"{method.upper()} {path}"
        for path, methods in served[0].app.openapi()["paths"].items()
        for method in methods
        if not path.startswith("/api/v1/")  # see tests/api/v1/test_contract.py
    }

    assert described == {PREDICT, ALIVE, READY, METRICS}
