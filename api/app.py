"""The web application, put together: /predict, the pages, health, metrics."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from api.analyzer import Analyzer
from api.health import Check, health_router, storage_checks
from api.metrics import NodeCollector, metrics_router
from api.pages import STATIC, pages_router
from api.predict import predict_router
from api.problems import speak_of_problems
from api.security import SecurityHeaders
from config.settings import Settings

DESCRIPTION = (
    "Looks for fractures on radiographs. Every failure is answered with "
    '{"error": "what went wrong, in words"}. AI results, not for diagnostic use.'
)


def create_app(
    settings: Settings, checks: Mapping[str, Check] | None = None
) -> FastAPI:
    """Put the application together. Nothing is loaded before it is served.

    Args:
        settings: All settings of the node.
        checks: What /readyz asks besides the model, by name; None asks for the
            database and the spool.
    """
    analyzer = Analyzer(settings)
    release = _release()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with analyzer:
            yield

    app = FastAPI(
        title="Fracture node",
        version=release,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # pages.py has one that needs no internet access
        redoc_url=None,
    )
    app.add_middleware(SecurityHeaders)
    speak_of_problems(app)
    others = storage_checks(settings.storage) if checks is None else checks
    app.include_router(predict_router(analyzer))
    ready = {"model": analyzer.check, **others}
    app.include_router(health_router(ready))
    collector = NodeCollector(settings, ready, release, analyzer.model)
    app.include_router(metrics_router(collector))
    app.include_router(pages_router(release))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _release() -> str:
    """Version of this software; a checkout that is not installed has none."""
    try:
        return version("fracture-node")
    except PackageNotFoundError:
        return "not installed"
