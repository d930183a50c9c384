"""create_app(parts): the API's app. No globals, no documentation pages, no rules."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .dependencies import ClientGone, Parts, known_caller, own_site
from .errors import MethodNotAllowed, NotFound, WorkerError
from .http_metrics import instrument
from .openapi import document
from .routes import health, images, models, page, token, verify


def create_app(parts: Parts) -> FastAPI:
    """The app without its surroundings (middleware.py)."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.parts = parts
    for route in (health, models, page, verify):
        app.include_router(route.router)
    for route in (images, token) if parts.settings.auth.token else (images,):
        app.include_router(route.router, dependencies=[Depends(own_site)])
    app.add_exception_handler(WorkerError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(ClientGone, nobody)
    instrument(app, parts.metrics.registry)
    frame = app.openapi
    # Not served (openapi_url is None): for the tests, and for whoever asks the factory.
    app.openapi = lambda: document(frame(), parts.settings.limits)  # type: ignore[method-assign]
    return app


def paths(app: FastAPI) -> list[str]:
    """Every path that is served, with {names} of its parameters."""
    return [*app.openapi()["paths"], "/"]


async def refused(_request: Request, error: Exception) -> Response:
    """The error knows its status."""
    assert isinstance(error, WorkerError)
    answer = JSONResponse(error.body(), error.status)
    for name, value in error.headers():
        answer.headers.append(name, value)
    return answer


async def no_route(request: Request, error: Exception) -> Response:
    """A stranger learns nothing of which paths there are."""
    assert isinstance(error, HTTPException)
    try:
        await known_caller(request)
    except WorkerError as stranger:
        return await refused(request, stranger)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return await refused(request, MethodNotAllowed(f"Only {allow} is served here.", allow))
    return await refused(request, NotFound("There is nothing here."))


async def nobody(_request: Request, _error: Exception) -> Response:
    """Nobody reads this; the status is for the access log."""
    return Response(status_code=499)
