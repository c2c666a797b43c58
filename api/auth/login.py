"""/login and /logout: exchange a token for a session cookie, and end the session.

Login and logout work without JavaScript. Scripts cannot read the session cookie.
Browsers do not send it with requests that another website causes.
"""

import re
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response, status
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates

from api.auth.access import Access, cookie_name, user_of
from api.auth.audit import audit_access
from api.auth.request_user import request_user, unauthenticated
from api.auth.sessions import LIFE_S
from api.http.body import small_form
from api.http.templates import TemplatesDep
from config.access import Token
from dicom_node.audit.event import AuditEventType

# A path on this node with an optional query. "//elsewhere" would name another host.
PATH = re.compile(r"/(?!/)[\w./~-]*(\?[\w./~%&=+:-]*)?", re.ASCII)


async def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


AccessDep = Annotated[Access, Depends(_access)]

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def login(request: Request, templates: TemplatesDep) -> Response:
    """Show the login page."""
    after = _path(request.query_params.get("next", "/"))
    return _page(request, templates, after, None)


@router.post("/login")
async def log_in(
    request: Request, access: AccessDep, templates: TemplatesDep
) -> Response:
    """Begin a session, and redirect to the page that the user wanted to see.

    If the login is refused, show the login page again, with the reason.
    """
    form = await small_form(request)
    after = _path(form.get("next", "/"))
    try:
        token = await _check_token(request, access, form.get("token", ""))
    except HTTPException as problem:
        return _page(request, templates, after, problem)
    return _redirect_with_session(request, access.sessions.begin(token), after)


@router.post("/logout")
async def log_out(request: Request, access: AccessDep) -> Response:
    """End the session, and redirect to the login page."""
    name = cookie_name(request_user(request).secure)
    access.sessions.end(request.cookies.get(name, ""))
    if request_user(request).auth_method == "session":
        await audit_access(request, AuditEventType.LOGGED_OUT, "/logout")
    response = RedirectResponse("/login", status.HTTP_303_SEE_OTHER)
    _set_cookie(response, request, "", 0)
    return response


def _page(
    request: Request,
    templates: Jinja2Templates,
    after: str,
    problem: HTTPException | None,
) -> Response:
    context = {"next": after, "problem": problem and problem.detail}
    response = templates.TemplateResponse(request, "login.html", context)
    if problem is not None:
        response.status_code = problem.status_code
        response.headers.update(problem.headers or {})
    return response


async def _check_token(request: Request, access: Access, text: str) -> Token:
    """Return the token with the text that the user entered, and audit the login.

    Raises:
        HTTPException: 401 if the token is unknown. 429 if the address must wait after
            too many unknown tokens.
    """
    address = request_user(request).address
    if wait_s := access.logins.wait_s(address):
        raise HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            f"Too many wrong tokens came from {address}. Try again in {wait_s} s.",
            {"Retry-After": str(wait_s)},
        )
    token = access.token(text.strip())
    if token is None:
        access.logins.failed(address)
        await audit_access(request, AuditEventType.LOGIN_FAILED, "/login")
        raise unauthenticated("This token is not known.")
    access.logins.succeeded(address)
    request.state.request_user = replace(request_user(request), user=user_of(token))
    await audit_access(request, AuditEventType.LOGGED_IN, "/login")
    return token


def _redirect_with_session(request: Request, cookie: str, after: str) -> Response:
    response = RedirectResponse(after, status.HTTP_303_SEE_OTHER)
    _set_cookie(response, request, cookie, LIFE_S)
    return response


def _set_cookie(response: Response, request: Request, cookie: str, life_s: int) -> None:
    secure = request_user(request).secure
    response.set_cookie(
        cookie_name(secure),
        cookie,
        max_age=life_s,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def _path(text: str) -> str:
    """Return a path on this node unchanged, and "/" for any other text."""
    return text if PATH.fullmatch(text) else "/"
