"""Assemble the web application: /predict, pages, API, health and metrics."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
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
from api.pages import STATIC, page_templates
from api.predict import routes as predict
from api.predict.analyzer import Analyzer
from api.v1.routers import v1_routers
from api.v1.services import make_services
from config.settings import Settings

DESCRIPTION = (
    "Detects fractures on radiographs. Every error response outside of /api/v1 is "
    '{"error": "a description of the error"}. AI results, not for diagnostic use.'
)


def create_app(
    settings: Settings,
    checks: Mapping[str, Check] | None = None,
    record_access: RecordAccess = log_event,
    *,
    supervised: bool = False,
) -> FastAPI:
    """Create the application. It loads the model when it starts.

    Args:
        settings: All settings of the node.
        checks: The checks of /readyz besides the model, by name. None stands for the
            checks of the storage and of the other roles.
        record_access: Records logins, refused requests and results that were viewed.
        supervised: Whether the supervisor that started this process also starts the
            other roles. If so, /readyz requires a receiver and a worker. If not, it
            requires each of them only if it has run on this database before.
    """
    analyzer = Analyzer(settings.model, settings.worker, settings.results)
    services = make_services(settings)
    access = Access(settings.api, settings.storage.directory)
    release = _release()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with analyzer, closing(services):
            yield

    app = FastAPI(
        title="Fracture node",
        version=release,
        description=DESCRIPTION,
        lifespan=lifespan,
        # pages.router serves /openapi.json, to logged-in users only.
        openapi_url=None,
        # A redirect would contain the host name that the client sent.
        redirect_slashes=False,
    )
    app.state.record_access, app.state.services = record_access, services
    app.state.engine, app.state.journal = services.engine, services.journal
    app.state.images = services.images
    app.state.storage, app.state.receiver = settings.storage, settings.receiver
    app.state.destinations = settings.destinations
    app.state.analyzer, app.state.access = analyzer, access
    app.state.templates = page_templates(release, guarded=settings.api.guarded)
    app.state.ending = lambda: False  # api/__main__.py replaces it
    app.state.known_parameters = {}  # of the routes that were used
    install_error_handlers(app)
    storage = storage_checks(settings.storage) if checks is None else checks
    ready = {"model": analyzer.check, **storage}
    roles = role_checks(services.engine, expected=supervised) if checks is None else {}
    app.state.readiness = Readiness(ready, roles)
    all_checks = app.state.readiness.checks
    names = [each.name for each in settings.destinations]
    collector = NodeCollector(
        settings.storage, settings.receiver, names, all_checks, release, analyzer.model
    )
    app.state.metrics = metrics_registry(collector)
    routers = [
        predict.router,
        health.router,
        metrics.router,
        *v1_routers(services, all_checks, release, analyzer.model),
        pages.router,
    ]
    if settings.api.tokens:
        routers.append(login.router)
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    # Middleware from the inside out: security headers are also added to refused
    # requests.
    app.add_middleware(BodyLimits, larger=stated_limits(routers))
    app.add_middleware(AuthMiddleware, access=access)
    app.add_middleware(SecurityHeaders)
    return app


def _release() -> str:
    """Return the version of this software, or "not installed"."""
    try:
        return version("fracture-node")
    except PackageNotFoundError:
        return "not installed"
