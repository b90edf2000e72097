"""API keys: who a caller is, how often and how much they may ask.

A presented key is compared with every stored one by digest, in constant time and without an
early end, so neither the time taken nor the order of the file says anything about the keys.
Rates are a token bucket; quotas count tokens in windows of a day that start with the first use.
Both run on the monotonic clock. Left out: keys that expire, accounting that outlives the process.
"""

import hashlib
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from plimsoll.serving.http.errors import ApiError
from plimsoll.spec.errors import SpecError

__all__ = ["KEYS_VARIABLE", "ApiKey", "KeyRing", "Meter", "read_keys"]

KEYS_VARIABLE = "PLIMSOLL_API_KEYS"
MIN_KEY_LENGTH = 16
DAY_S = 86_400.0
FIELDS = {"name", "key", "requests_per_minute", "tokens_per_day"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A caller by name. ``digest`` is SHA-256 of the key, which itself is not kept."""

    name: str
    digest: bytes
    requests_per_minute: float | None = None
    tokens_per_day: int | None = None


def read_keys(file: Path | None, environ: Mapping[str, str]) -> tuple[ApiKey, ...]:
    """Keys of a YAML or JSON file and of ``PLIMSOLL_API_KEYS`` ("name:key,name:key").

    The file is a list of ``{name, key, requests_per_minute?, tokens_per_day?}``.

    Raises:
        SpecError: a key is short, a name or key is used twice, a field is unknown.
    """
    entries: list[tuple[str, object]] = []
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SpecError(f"{file}: cannot be read as YAML ({type(error).__name__})") from None
        if not isinstance(loaded, list) or not loaded:
            raise SpecError(f"{file}: expected a list of {{name, key}}, found none")
        entries += [(f"{file}: entry {i}", entry) for i, entry in enumerate(loaded)]
    for i, pair in enumerate(filter(None, environ.get(KEYS_VARIABLE, "").split(","))):
        name, colon, key = pair.strip().partition(":")
        if not colon:
            raise SpecError(f"{KEYS_VARIABLE}: entry {i} is not name:key")
        entries.append((f"{KEYS_VARIABLE}: entry {i}", {"name": name, "key": key}))
    keys = tuple(_key(where, entry) for where, entry in entries)
    if len({key.name for key in keys}) < len(keys):
        raise SpecError("two API keys have the same name; give each its own")
    if len({key.digest for key in keys}) < len(keys):
        raise SpecError("two names share one API key; give each its own")
    return keys


def _key(where: str, entry: object) -> ApiKey:
    if not isinstance(entry, dict) or not {"name", "key"} <= set(entry) <= FIELDS:
        raise SpecError(f"{where}: expected the fields name and key, and of {sorted(FIELDS)} only")
    name, key = entry["name"], entry["key"]
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise SpecError(f"{where}: name is not a printable string")
    if not isinstance(key, str) or len(key) < MIN_KEY_LENGTH or not key.isascii():
        raise SpecError(f"{where}: key is not an ASCII string of {MIN_KEY_LENGTH} or more")
    for limit in ("requests_per_minute", "tokens_per_day"):
        value = entry.get(limit)
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise SpecError(f"{where}: {limit} = {value}; expected more than 0")
    return ApiKey(
        name=name,
        digest=hashlib.sha256(key.encode()).digest(),
        requests_per_minute=entry.get("requests_per_minute"),
        tokens_per_day=entry.get("tokens_per_day"),
    )


class Meter:
    """What one caller has used; every method takes the monotonic time."""

    def __init__(
        self, name: str, *, requests_per_minute: float | None, tokens_per_day: int | None
    ) -> None:
        self.name = name
        self._per_s = None if requests_per_minute is None else requests_per_minute / 60
        self._burst = max(1.0, requests_per_minute or 0.0)
        self._level = self._burst
        self._seen_at_s: float | None = None
        self._tokens_per_day = tokens_per_day
        self._used_tokens = 0
        self._day_began_at_s: float | None = None

    def admit(self, now_s: float) -> None:
        """Count a request.

        Raises:
            ApiError: 429 with the time to wait, when the rate is used up.
        """
        if self._per_s is None:
            return
        if self._seen_at_s is not None:
            gained = (now_s - self._seen_at_s) * self._per_s
            self._level = min(self._burst, self._level + gained)
        self._seen_at_s = now_s
        if self._level < 1:
            wait_s = (1 - self._level) / self._per_s
            raise _too_many("Too many requests for this API key.", "rate_limit_exceeded", wait_s)
        self._level -= 1

    def reserve(self, num_tokens: int, now_s: float) -> None:
        """Set ``num_tokens`` aside, the most that a request can come to.

        Raises:
            ApiError: 429 when the day's quota cannot hold them.
        """
        if self._tokens_per_day is None:
            return
        if self._day_began_at_s is None or now_s - self._day_began_at_s >= DAY_S:
            self._day_began_at_s, self._used_tokens = now_s, 0
        if self._used_tokens + num_tokens > self._tokens_per_day:
            wait_s = self._day_began_at_s + DAY_S - now_s
            left = self._tokens_per_day - self._used_tokens
            message = f"The daily quota of this API key has {left} tokens left."
            raise _too_many(message, "insufficient_quota", wait_s)
        self._used_tokens += num_tokens

    def settle(self, reserved_tokens: int, used_tokens: int) -> None:
        """Give back what a request did not use of its reservation."""
        self._used_tokens = max(0, self._used_tokens - reserved_tokens + used_tokens)


def _too_many(message: str, code: str, wait_s: float) -> ApiError:
    return ApiError(429, message, code=code, headers={"retry-after": str(math.ceil(wait_s))})


class KeyRing:
    """The keys of a server and their meters; without keys, one meter for everybody."""

    def __init__(
        self,
        keys: Sequence[ApiKey],
        *,
        requests_per_minute: float | None,
        tokens_per_day: int | None,
        compare: Callable[[bytes, bytes], bool] = hmac.compare_digest,
    ) -> None:
        self._compare = compare
        self._keys = tuple(keys)
        self._meters = [
            Meter(
                key.name,
                requests_per_minute=key.requests_per_minute or requests_per_minute,
                tokens_per_day=key.tokens_per_day or tokens_per_day,
            )
            for key in keys
        ]
        self._everybody = Meter(
            "", requests_per_minute=requests_per_minute, tokens_per_day=tokens_per_day
        )

    def __len__(self) -> int:
        return len(self._keys)

    def meter(self, authorization: str | None) -> Meter:
        """Whose request it is, by its Authorization header.

        Raises:
            ApiError: 401 when no key or none of these was given.
        """
        if not self._keys:
            return self._everybody
        scheme, _, presented = (authorization or "").partition(" ")
        digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for key, meter in zip(self._keys, self._meters, strict=True):
            if self._compare(digest, key.digest):
                found = meter
        if scheme.lower() != "bearer" or found is None:
            message = "Give a valid API key in the header Authorization: Bearer KEY."
            headers = {"www-authenticate": "Bearer"}
            raise ApiError(401, message, code="invalid_api_key", headers=headers)
        return found
