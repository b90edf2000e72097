"""The prompts of an offline batch: a JSONL file, one request a line, checked before anything runs.

Two kinds of lines. Plain: ``{"id", "prompt", "max_tokens"}``, greedy unless a temperature is given.
OpenAI's batch input: ``{"custom_id", "method", "url", "body"}`` for completions and chat
completions, with the defaults of that API but for the seed, which is the line's number, so that a
batch gives the same answers again. Blank lines are skipped.
Leaves out: several choices, logprobs, tools, formats of answers.
Source: the Batch API of OpenAI's API reference.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plimsoll.serving.generation import SamplingParams
from plimsoll.spec.errors import SpecError, suggest

__all__ = ["BatchPrompt", "Encoder", "read_prompts"]

Style = Literal["plain", "completion", "chat"]
Encoder = Callable[[Any, Style], list[int]]
"""(prompt text, or messages of a chat, and which of them) -> token ids."""

_URLS: dict[str, Style] = {"/v1/completions": "completion", "/v1/chat/completions": "chat"}
_DRAWN = ("temperature", "top_p", "seed", "stop", "max_tokens")
_PLAIN = ("id", "prompt", *_DRAWN)
_ENVELOPE = ("custom_id", "method", "url", "body")
_BODY = ("model", "prompt", "messages", "max_completion_tokens", "user", "n", "stream", *_DRAWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPrompt:
    """A request. ``line`` counts from 1; ``tokens`` are the prompt's."""

    id: str
    line: int
    style: Style
    tokens: tuple[int, ...]
    params: SamplingParams


def read_prompts(
    path: Path,
    encode: Encoder,
    *,
    max_tokens: int,
    max_model_len: int,
    vocab_size: int,
) -> list[BatchPrompt]:
    """Every request of a file, in order. ``max_tokens`` where a line has none.

    Raises:
        SpecError: no such file, nothing in it, or a bad line, named with its number.
    """
    found: list[BatchPrompt] = []
    first_line: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text at byte {error.start}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        prompt = _prompt(line, where, number, encode, max_tokens)
        if prompt.id in first_line:
            raise SpecError(
                f"{where}: id {prompt.id!r} is that of line {first_line[prompt.id]} too; ids must "
                "differ"
            )
        first_line[prompt.id] = number
        if not prompt.tokens:
            raise SpecError(f"{where}: the prompt is empty; it needs at least one token")
        if min(prompt.tokens) < 0 or max(prompt.tokens) >= vocab_size:
            raise SpecError(f"{where}: prompt: token ids must be 0 to {vocab_size - 1}")
        total = len(prompt.tokens) + prompt.params.max_tokens
        if total > max_model_len:
            raise SpecError(
                f"{where}: {len(prompt.tokens):,} prompt tokens and max_tokens = "
                f"{prompt.params.max_tokens:,}, the model's limit is {max_model_len:,} together"
            )
        found.append(prompt)
    if not found:
        raise SpecError(f"{path}: holds no prompt; expected one JSON object a line")
    return found


def _prompt(line: str, where: str, number: int, encode: Encoder, max_tokens: int) -> BatchPrompt:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise SpecError(f"{where}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f'{where}: expected an object such as {{"id": "a", "prompt": "..."}}')
    if "custom_id" in data or "body" in data:
        return _enveloped(data, where, number, encode, max_tokens)
    _known(data, _PLAIN, where)
    own = data.get("id", str(number))
    if not isinstance(own, str | int) or isinstance(own, bool):
        raise SpecError(f"{where}: id is {own!r}; expected text or a number")
    params = _params(data, where, max_tokens=max_tokens, temperature=0.0, seed=number)
    tokens = _tokens(data.get("prompt"), "plain", encode, f"{where}: prompt")
    return BatchPrompt(id=str(own), line=number, style="plain", tokens=tokens, params=params)


def _enveloped(
    data: Mapping[str, Any], where: str, number: int, encode: Encoder, max_tokens: int
) -> BatchPrompt:
    _known(data, _ENVELOPE, where)
    own, body, url = data.get("custom_id"), data.get("body"), data.get("url")
    if not isinstance(own, str) or not own:
        raise SpecError(f"{where}: custom_id is {own!r}; expected text")
    style = _URLS.get(url) if isinstance(url, str) else None
    if style is None or data.get("method", "POST") != "POST":
        raise SpecError(
            f"{where}: {data.get('method')} {url}; expected POST to {' or '.join(_URLS)}"
        )
    if not isinstance(body, dict):
        raise SpecError(f"{where}: body is {body!r}; expected an object")
    where += ": body"
    _known(body, _BODY, where)
    if body.get("n", 1) != 1 or body.get("stream"):
        raise SpecError(f"{where}: n and stream are not for batches; leave them out")
    limited = {**body, "max_tokens": body.get("max_completion_tokens", body.get("max_tokens"))}
    params = _params(limited, where, max_tokens=max_tokens, temperature=1.0, seed=number)
    name = "messages" if style == "chat" else "prompt"
    tokens = _tokens(body.get(name), style, encode, f"{where}.{name}")
    return BatchPrompt(id=own, line=number, style=style, tokens=tokens, params=params)


def _known(data: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in data:
        if name not in names:
            raise SpecError(
                f"{where}: unknown field {name!r}; expected {', '.join(names)}."
                f"{suggest(name, names)}"
            )


def _tokens(prompt: Any, style: Style, encode: Encoder, where: str) -> tuple[int, ...]:
    if style != "chat" and isinstance(prompt, list):
        if not all(isinstance(t, int) and not isinstance(t, bool) for t in prompt):
            raise SpecError(f"{where}: expected text or a list of token ids")
        return tuple(prompt)
    wanted = list if style == "chat" else str
    if not isinstance(prompt, wanted) or not prompt:
        what = "a list of messages" if style == "chat" else "text or a list of token ids"
        raise SpecError(f"{where}: expected {what}, found {prompt!r}")
    try:
        return tuple(encode(prompt, style))
    except (ValueError, SpecError) as error:
        raise SpecError(f"{where}: {error}") from None


def _params(
    data: Mapping[str, Any], where: str, *, max_tokens: int, temperature: float, seed: int
) -> SamplingParams:
    def number(name: str, default: float, low: float, high: float, *, whole: bool = False) -> float:
        value = data.get(name)
        if value is None:
            return default
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            bound = f"{low:g} to {high:g}" if high < 2**62 else f"{low:g} or more"
            what = "a whole number" if whole else "a number"
            raise SpecError(f"{where}: {name} is {value!r}; expected {what}, {bound}")
        return value

    stop = data.get("stop") or []
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else None
    if stops is None or not all(isinstance(one, str) and one for one in stops):
        raise SpecError(f"{where}: stop is {stop!r}; expected text or a list of texts")
    return SamplingParams(
        max_tokens=int(number("max_tokens", max_tokens, 1, 2**62, whole=True)),
        temperature=float(number("temperature", temperature, 0, 2)),
        top_p=float(number("top_p", 1.0, 1e-6, 1)),
        seed=int(number("seed", seed, 0, 2**63 - 1, whole=True)),
        stop=stops,
    )
