"""The application: endpoints, the layers before them, errors in one shape.

``create_app`` needs no network, so tests can call the application directly; ``run.serve`` puts
it on a socket. Left out: FastAPI's documentation pages, which load scripts from the network.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from plimsoll import __version__
from plimsoll.serving.generation import LiveEngine
from plimsoll.serving.http.chat import chat_router
from plimsoll.serving.http.completions import completions_router
from plimsoll.serving.http.embeddings import embeddings_router
from plimsoll.serving.http.errors import ApiError, ErrorBody, invalid, validation_error
from plimsoll.serving.http.keys import ApiKey, KeyRing
from plimsoll.serving.http.limits import Doorman, Recorder, Room
from plimsoll.serving.http.logs import record_of
from plimsoll.serving.http.metrics import CONTENT_TYPE, ServerMetrics
from plimsoll.serving.http.replies import Health, ModelCard, ModelList
from plimsoll.serving.http.service import Service
from plimsoll.serving.http.settings import HttpSettings, check_binding
from plimsoll.serving.http.tokens import TextTools

__all__ = ["create_app"]

PAGE = Path(__file__).with_name("page") / "index.html"
SAYS = {
    400: "The request is wrong; the message says what and where.",
    401: "No valid API key was given.",
    403: "A server without keys was called by a name that is not this machine's.",
    404: "No such model.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    429: "The rate or the quota of the API key is used up.",
    431: "The headers are too large.",
    500: "The request failed inside.",
    503: "The server is full, draining or has no replica; try again later.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": said} for status, said in SAYS.items()
}


def create_app(
    engine: LiveEngine,
    text: TextTools,
    settings: HttpSettings,
    *,
    keys: Sequence[ApiKey] = (),
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The server of one engine; ``app.state.service`` is what ``run.serve`` drains.

    Raises:
        UnsupportedError: the host is not loopback and there are no keys.
    """
    check_binding(settings, num_keys=len(keys))
    metrics = ServerMetrics(engine.model_name)
    service = Service(engine=engine, text=text, settings=settings, metrics=metrics, clock=clock)
    app = FastAPI(
        title="Plimsoll",
        version=__version__,
        description="An OpenAI-compatible server.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS | {"4XX": {"model": ErrorBody, "description": "Refused."}},
    )
    app.state.service = service
    app.openapi = _document(app, engine.model_name)  # type: ignore[method-assign]
    app.include_router(completions_router(service))
    app.include_router(chat_router(service))
    app.include_router(embeddings_router(service))
    _add_status(app, service)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RecursionError, _on_recursion)
    ring = KeyRing(
        keys,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_day=settings.tokens_per_day,
    )
    # The last one added is the outermost.
    app.add_middleware(Room, settings=settings)
    app.add_middleware(Doorman, settings=settings, keys=ring, clock=clock)
    app.add_middleware(Recorder, metrics=metrics, clock=clock)
    return app


def _document(app: FastAPI, model_name: str) -> Callable[[], dict[str, Any]]:
    """The OpenAPI document, in which requests can name no model but the one served."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        made = plain()
        for name, schema in made["components"]["schemas"].items():
            if name.endswith("Request"):
                schema["properties"]["model"] = {"type": "string", "enum": [model_name]}
        return made

    return document


def _add_status(app: FastAPI, service: Service) -> None:
    """Models, health, metrics and the page."""
    engine = service.engine
    card = ModelCard(
        id=engine.model_name,
        created=int(time.time()),
        owned_by="plimsoll",
        max_model_len=engine.max_model_len,
    )
    page = PAGE.read_text(encoding="utf-8")
    policy = _content_security_policy(page)

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The model served here."""
        return ModelList(data=[card])

    @app.get("/v1/models/{model:path}", response_model=ModelCard)
    async def get_model(model: str) -> ModelCard:
        """A model by name."""
        if model != card.id:
            message = f"The model {model[:200]!r} does not exist; {card.id!r} does."
            raise ApiError(404, message, param="model", code="model_not_found")
        return card

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """Whether requests are taken."""
        well = engine.healthy() and not service.draining
        status = "ok" if well else "unavailable"
        return JSONResponse({"status": status}, status_code=200 if well else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        stats = await asyncio.to_thread(engine.stats)
        return Response(service.metrics.text(stats), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def chat_page() -> Response:
        """A chat in the browser."""
        return HTMLResponse(page, headers={"content-security-policy": policy})


def _content_security_policy(page: str) -> str:
    """Only the page's own script and style run, and it talks to this server alone."""
    parts = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    parts += ["frame-ancestors 'none'", "img-src data:"]
    for tag in ("script", "style"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(b.encode()).digest()).decode() for b in bodies]
        parts.append(f"{tag}-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    return "; ".join(parts)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    record_of(request.scope).error = error.message
    return error.response()


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_api_error(request, validation_error(error.errors()))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "There is nothing at this address.", 405: "This method is not allowed here."}
    message = said.get(error.status_code, "The body cannot be read as UTF-8 JSON.")
    answer = ApiError(error.status_code, message, headers=error.headers)
    return await _on_api_error(request, answer)


async def _on_recursion(request: Request, error: Exception) -> Response:
    return await _on_api_error(request, invalid("The request is nested too deeply."))
