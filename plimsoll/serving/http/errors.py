"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}``.

One exception carries the status and the four fields; handlers turn it, FastAPI's validation
errors and Starlette's own into that shape. No message holds a path or a traceback.
Source: the error object of OpenAI's API reference.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

__all__ = [
    "ApiError",
    "ErrorBody",
    "context_length_exceeded",
    "invalid",
    "overloaded",
    "validation_error",
]

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetail(BaseModel):
    """What went wrong, in words and in codes."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every answer that is not a success."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail


class ApiError(Exception):
    """Ends a request with ``status`` and a sentence for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type_: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        default = "invalid_request_error" if status < 500 else "server_error"
        self.type = type_ or TYPES.get(status, default)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error object, as sent in a body or in a stream's frame."""
        detail = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": detail}

    def response(self) -> Response:
        """The same as an answer; ASCII, so that no echo of a broken string can fail to encode."""
        return Response(
            json.dumps(self.body()).encode("ascii"),
            status_code=self.status,
            media_type="application/json",
            headers=self.headers,
        )


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the client must change its request."""
    return ApiError(400, message, param=param, code=code)


def context_length_exceeded(
    num_tokens: int, max_tokens: int, *, asked: str, param: str
) -> ApiError:
    """A 400 with OpenAI's code for too long a prompt."""
    return invalid(
        f"This model's maximum context length is {max_tokens} tokens, but {num_tokens} were "
        f"requested ({asked}). Please shorten the prompt or ask for fewer tokens.",
        param=param,
        code="context_length_exceeded",
    )


def overloaded(message: str, *, retry_after_s: float = 1.0) -> ApiError:
    """A 503 that says when to come back."""
    headers = {"retry-after": str(max(1, round(retry_after_s)))}
    return ApiError(503, message, code="overloaded", headers=headers)


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Pydantic's findings as one 400: the first field at fault and what was expected of it."""
    if not errors:
        return invalid("The request is malformed.")
    first = errors[0]
    if first["type"] == "json_invalid":
        return invalid(f"The body is not valid JSON: {first.get('ctx', {}).get('error', '')}.")
    field = _field(first)
    said: list[str] = []
    for error in errors:
        if _field(error) == field and (words := _sentence(error)) not in said:
            said.append(words)
    message = "; or ".join(said[:4])
    if not field:
        return invalid(f"{message}.")
    where = f"{field}: {message}" if first["type"] != "extra_forbidden" else message
    return invalid(f"{where}.", param=field)


def _field(error: Mapping[str, Any]) -> str:
    """The top-level field of the body, "" for the body itself."""
    path = [part for part in error["loc"] if part != "body"]
    return str(path[0])[:100] if path else ""


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        path = ".".join(str(part)[:100] for part in error["loc"] if part != "body")
        return f"Unknown field: {path}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return str(error["msg"])
