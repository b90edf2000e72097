"""What an operator sets on the HTTP server, and which bindings are refused.

Plain data. A server without API keys answers to loopback only; that is checked before a socket
is opened. Left out: TLS, which belongs to the proxy in front.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["HttpSettings", "check_binding", "is_loopback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where to listen, who may call, how much one caller may take; None is no limit.

    ``keys_file`` is described in ``keys.read_keys``. ``max_sequences_per_request`` bounds prompts
    times choices of one call, ``max_concurrent_requests`` the calls in progress, queued ones
    included. ``first_delta_wait_s`` is how long a stream holds its status line back for the
    engine's first word, so that a refusal is still a plain HTTP error.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys_file: Path | None = None
    requests_per_minute: float | None = None
    tokens_per_day: int | None = None
    max_body_bytes: int = 8 * 2**20
    max_header_bytes: int = 16 * 2**10
    max_prompt_tokens: int | None = None
    max_connections: int = 16_384
    max_concurrent_requests: int = 4_096
    max_sequences_per_request: int = 128
    max_embedding_inputs: int = 2_048
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    idle_timeout_s: float = 15.0
    first_delta_wait_s: float = 1.0
    drain_timeout_s: float = 60.0
    pooling: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SpecError(f"port = {self.port}; expected 0 to 65535, 0 for any free one")
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            limit = name.startswith(("max_", "tokens_", "requests_")) or name.endswith("_s")
            if limit and value is not None and not value > 0:
                raise SpecError(f"{name} = {value}; expected more than 0")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; a name other than localhost is not trusted."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(settings: HttpSettings, *, num_keys: int) -> None:
    """Refuse to listen beyond loopback without API keys.

    Raises:
        UnsupportedError: the host is not loopback and there are no keys.
    """
    if num_keys == 0 and not is_loopback(settings.host):
        raise UnsupportedError(
            f"host = {settings.host} can be reached from other machines and there are no API "
            "keys; give a keys file or set PLIMSOLL_API_KEYS, or listen on 127.0.0.1"
        )
