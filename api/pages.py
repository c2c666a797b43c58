"""The pages of the web application and the description of the API.

The pages load nothing from other hosts, so they work in the closed network of a
hospital. Their scripts need no build step. A template of this application shows the
OpenAPI description at /docs. Swagger UI is not used, because it has 1.5 MB of scripts.
"""

import json
from pathlib import Path

import cv2
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.templating import Jinja2Templates

from api.auth.request_user import Viewer
from api.http.multipart import LARGEST_FILE
from api.http.templates import TemplatesDep
from inference.phantom.long_bone import draw_phantom

HERE = Path(__file__).parent
STATIC = HERE / "static"

DATA_PAGES = ("worklist", "upload", "failures", "destinations", "health")
"""Names of pages that load all their data from /api/v1. The page NAME has the path
/NAME and the template NAME.html. Its texts have the key NAME in texts.json."""

NAV = (
    ("/", "analyze"),
    *((f"/{name}", name) for name in DATA_PAGES),
    ("/docs", "docs"),
)


def page_templates(version: str, *, guarded: bool) -> Jinja2Templates:
    """Return the templates of the pages, with the globals that they use.

    Args:
        version: The version of this software, for the footer of each page.
        guarded: Whether users must identify themselves. If so, the example requests on
            the pages have an Authorization header with a token.
    """
    templates = Jinja2Templates(HERE / "templates")
    # Keep the key order and the non-ASCII characters of the examples.
    templates.env.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    templates.env.globals.update(
        version=version,
        largest_file=LARGEST_FILE,
        guarded=guarded,
        nav=NAV,
        texts=json.loads((HERE / "templates" / "texts.json").read_text("utf-8")),
    )
    return templates


router = APIRouter(include_in_schema=False)


@router.get("/")
def index(request: Request, _user: Viewer, templates: TemplatesDep) -> Response:
    """Show the start page, where a user can analyze an image."""
    return templates.TemplateResponse(request, "index.html")


def page(request: Request, _user: Viewer, templates: TemplatesDep) -> Response:
    """Show the page of DATA_PAGES that the path names."""
    name = request.scope["route"].path.removeprefix("/")
    return templates.TemplateResponse(request, f"{name}.html")


for _name in DATA_PAGES:
    router.add_api_route(f"/{_name}", page)


@router.get("/studies/{study_instance_uid}")
def study(
    request: Request, _user: Viewer, study_instance_uid: str, templates: TemplatesDep
) -> Response:
    """Show the images and results of a study."""
    del study_instance_uid  # the script reads it from the URL
    return templates.TemplateResponse(request, "study.html")


@router.get("/docs")
def docs(request: Request, _user: Viewer, templates: TemplatesDep) -> Response:
    """Show the description of the API."""
    context = {"api": request.app.openapi()}
    return templates.TemplateResponse(request, "docs.html", context)


@router.get("/openapi.json")
def openapi(request: Request, _user: Viewer) -> Response:
    """Return the OpenAPI description."""
    return JSONResponse(request.app.openapi())


@router.get("/phantom.png")
def phantom(_user: Viewer) -> Response:
    """Return a synthetic radiograph with a fracture, to try the start page."""
    pixels = draw_phantom(broken=True).radiograph().pixels
    _, png = cv2.imencode(".png", pixels)
    return Response(png.tobytes(), media_type="image/png")
