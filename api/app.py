"""Assemble the web application: /predict, pages, API, health and metrics."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI
from starlette.staticfiles import StaticFiles

from api import pages
from api.auth import login
from api.auth.access import Access
from api.auth.audit import RecordAccess, log_event
from api.auth.middleware import AuthMiddleware
from api.http.body import BodyLimits, stated_limits
from api.http.problems import install_error_handlers
from api.http.security_headers import SecurityHeaders
from api.operations import health, metrics
from api.operations.health import Check, Readiness, role_checks, storage_checks
from api.operations.metrics import NodeCollector, metrics_registry
from api.predict import routes as predict
from api.predict.analyzer import Analyzer
from api.v1.routers import ROUTERS as V1_ROUTERS
from api.v1.services import close_services, open_services
from config.settings import Settings

DESCRIPTION = (
    "Detects fractures on radiographs. Every error response outside of /api/v1 is "
    '{"error": "a description of the error"}. AI results, not for diagnostic use.'
)


ROUTERS = (
    predict.router,
    health.router,
    metrics.router,
    *V1_ROUTERS,
    pages.router,
)

# All applications of a process share these routes. If each application included the
# routers, it would prepare all routes again for its first request, which takes 0.1 s.
# The tests create hundreds of applications. `dependency_overrides` of an application do
# not apply to shared routes.
_shared = APIRouter()
for _router in ROUTERS:
    _shared.include_router(_router)
_known_parameters: dict[tuple[str, str], dict[str, bool]] = {}
"""A cache for `api.auth.parameters`: the query parameters of each shared route that has
been requested. To find the parameters of one route takes 0.1 s."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    with app.state.analyzer:
        try:
            yield
        finally:
            close_services(app.state)


def create_app(
    settings: Settings,
    checks: Mapping[str, Check] | None = None,
    record_access: RecordAccess = log_event,
    *,
    supervised: bool = False,
) -> FastAPI:
    """Return the web application. The application loads the model when it starts.

    Args:
        settings: All settings of the node.
        checks: The checks of /readyz by name, without the check of the model, which is
            added. None stands for the checks of the storage and of the other roles.
        record_access: Records actions of users, such as logins and viewed results.
        supervised: Whether a supervisor started this process. A supervisor also starts
            the other roles, so /readyz then requires a receiver and a worker. If False,
            /readyz requires a role only if it has run on this database before.
    """
    app = FastAPI(
        title="Fracture node",
        version=_release(),
        description=DESCRIPTION,
        routes=_shared.routes,
        lifespan=_lifespan,
        # pages.router serves /openapi.json, to logged-in users only.
        openapi_url=None,
        # A redirect would contain the host name that the client sent.
        redirect_slashes=False,
    )
    app.state.record_access = record_access
    app.state.ending = lambda: False  # api/__main__.py replaces it
    app.state.known_parameters = _known_parameters
    _open_services(app, settings, checks, supervised=supervised)
    install_error_handlers(app)
    if settings.api.tokens:
        app.include_router(login.router)
    app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
    # A request passes the middleware in reverse order. SecurityHeaders comes first, so
    # that it also adds headers to the responses to refused requests.
    app.add_middleware(BodyLimits, larger=stated_limits(ROUTERS))
    app.add_middleware(AuthMiddleware, access=app.state.access)
    app.add_middleware(SecurityHeaders)
    return app


def _open_services(
    app: FastAPI,
    settings: Settings,
    checks: Mapping[str, Check] | None,
    *,
    supervised: bool,
) -> None:
    """Create the services of the routes, and store them in `app.state`."""
    state, api, storage = app.state, settings.api, settings.storage
    open_services(state, settings)
    state.access = Access(api, storage.directory)
    state.templates = pages.page_templates(app.version, guarded=api.guarded)
    # Uploads of /predict and of /api/v1 take space on the same disk.
    analyzer = Analyzer(settings, state.uploads.in_progress)
    state.analyzer, state.loaded_model = analyzer, analyzer.model
    roles: Mapping[str, Check] = {}
    if checks is None:
        checks = storage_checks(storage)
        roles = role_checks(state.engine, expected=supervised)
    readiness = Readiness({"model": analyzer.check, **checks}, roles)
    collector = NodeCollector(
        storage,
        settings.receiver,
        [each.name for each in settings.destinations],
        readiness.checks,
        app.version,
        analyzer.model,
    )
    state.readiness, state.metrics = readiness, metrics_registry(collector)


def _release() -> str:
    """Return the version of this software, or "not installed"."""
    try:
        return version("fracture-node")
    except PackageNotFoundError:
        return "not installed"
