"""The dependency that gives a route the templates of the pages."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.templating import Jinja2Templates


async def _templates(request: Request) -> Jinja2Templates:
    templates: Jinja2Templates = request.app.state.templates
    return templates


TemplatesDep = Annotated[Jinja2Templates, Depends(_templates)]
"""The templates of the pages."""
