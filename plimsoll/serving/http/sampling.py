"""From request bodies to what the engine samples with, checked against the model.

Absent fields take OpenAI's defaults; choice i of n is drawn with ``seed + i``. A request without
a seed gets a random one.
"""

import json
import secrets
from dataclasses import replace

from plimsoll.serving.generation import LiveEngine, SamplingParams
from plimsoll.serving.http.errors import context_length_exceeded, invalid
from plimsoll.serving.http.protocol import GenerationFields

__all__ = ["check_prompt", "choices", "sampling_params"]

NUM_SEEDS = 2**63


def sampling_params(
    request: GenerationFields, *, max_tokens: int, logprobs: int | None, engine: LiveEngine
) -> SamplingParams:
    """The parameters of the first choice.

    Raises:
        ApiError: 400, a token id is none of the model's, or minimum and maximum cross.
    """
    bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    stop_tokens = tuple(request.stop_token_ids or ())
    for field, tokens in (("logit_bias", bias), ("stop_token_ids", stop_tokens)):
        if any(token >= engine.vocab_size for token in tokens):
            raise invalid(f"{field}: token ids go up to {engine.vocab_size - 1}.", param=field)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise invalid(
            f"min_tokens: {min_tokens} is more than the {max_tokens} tokens that the answer may "
            "have.",
            param="min_tokens",
        )
    seed = secrets.randbelow(NUM_SEEDS) if request.seed is None else request.seed % NUM_SEEDS
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=1.0 if request.temperature is None else float(request.temperature),
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else float(request.top_p),
        min_p=float(request.min_p or 0),
        presence_penalty=float(request.presence_penalty or 0),
        frequency_penalty=float(request.frequency_penalty or 0),
        repetition_penalty=float(request.repetition_penalty or 1),
        seed=seed,
        logprobs=logprobs,
        logit_bias=tuple(sorted(bias.items())),
        stop=request.stops,
        stop_token_ids=stop_tokens,
        ignore_eos=bool(request.ignore_eos),
        json_schema=_json_schema(request),
    )


def _json_schema(request: GenerationFields) -> str | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return "{}"
    return json.dumps(wanted.json_schema.schema_)


def choices(params: SamplingParams, n: int) -> list[SamplingParams]:
    """The parameters of ``n`` choices, which differ in their seeds."""
    return [replace(params, seed=(params.seed + i) % NUM_SEEDS) for i in range(n)]


def check_prompt(
    prompt: list[int],
    *,
    max_tokens: int | None,
    max_prompt_tokens: int | None,
    engine: LiveEngine,
    param: str,
) -> int:
    """How many tokens may be drawn after ``prompt``: ``max_tokens``, or what the model holds.

    Raises:
        ApiError: 400 when the prompt is empty, too long or not of this vocabulary.
    """
    if not prompt:
        raise invalid(f"{param}: there are no tokens in the prompt.", param=param)
    if max(prompt) >= engine.vocab_size:
        raise invalid(f"{param}: token ids go up to {engine.vocab_size - 1}.", param=param)
    if max_prompt_tokens is not None and len(prompt) > max_prompt_tokens:
        asked = f"{len(prompt)} in the prompt"
        raise context_length_exceeded(len(prompt), max_prompt_tokens, asked=asked, param=param)
    room = engine.max_model_len - len(prompt)
    wanted = max(1, room) if max_tokens is None else max_tokens
    if wanted > room:
        asked = f"{len(prompt)} in the prompt, {wanted} to generate"
        total = len(prompt) + wanted
        raise context_length_exceeded(total, engine.max_model_len, asked=asked, param=param)
    return wanted
