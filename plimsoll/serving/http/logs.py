"""One JSON line a request on stderr, and the record that the line is made of.

The record starts in the outermost layer, which also gives or checks the request id, and is
filled in as the request goes through. Keys, prompts and answers never enter it.
Left out: files, rotation, sampling; that is for whoever collects stderr.
"""

import json
import logging
import re
import sys
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.types import Scope

__all__ = ["JsonLines", "RequestRecord", "log_to_stderr", "record_of", "request_id"]

SCOPE_KEY = "plimsoll.record"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
LOGGERS = ("plimsoll.serving", "uvicorn.error")


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """What is known of one request. Times are seconds from its arrival, None: it did not happen."""

    request_id: str
    method: str
    path: str
    status: int = 0
    key: str = ""
    user: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float | None = None
    e2e_s: float = 0.0
    disconnected: bool = False
    error: str = ""
    arrived_at_s: float = 0.0

    def fields(self) -> dict[str, Any]:
        """What the log line says: nothing that is empty, no reading of the monotonic clock."""
        kept = {k: v for k, v in asdict(self).items() if v not in ("", None, False)}
        del kept["arrived_at_s"]
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in kept.items()}


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that ``scope`` belongs to."""
    record: RequestRecord = scope[SCOPE_KEY]
    return record


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-Id if it is short and plain, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return uuid.uuid4().hex


class JsonLines(logging.Formatter):
    """Log records as JSON objects; ``extra={"fields": {...}}`` is merged in."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the server's records to stderr as JSON lines; for programs, not for libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
