"""Step times as fitted lines: prefill quadratic in prompt length, decode linear in two parts.

prefill = base + token * sum(l) + square * sum(l^2) over the prompts of a batch;
decode = base + context * sum(context) + request * batch, one fit for small batches and one
from ``decode_switch_batch`` on. A pipeline of p stages divides both by p. A chunk of n tokens
after c cached ones has the quadratic term n (2 c + n), so that chunks add up to the whole
prompt. A step with both kinds pays the larger base once. Leaves out: bubbles between unlike
stages, and the extra reads of a chunk's cached keys beyond what the quadratic term holds.
Source: arXiv 2401.09670 section 3 and its published coefficients of two engines
(library/calibration/distserve_a100.yaml, vllm_a100.yaml).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plimsoll.spec.errors import SpecError, UnsupportedError, suggest
from plimsoll.spec.io import PLAIN, read

__all__ = [
    "DecodeLine",
    "Engine",
    "FitError",
    "PrefillDecodeFit",
    "PrefillLine",
    "PublishedFit",
    "fit_decode",
    "fit_prefill",
    "published_fit",
    "published_fits",
]

_FOREVER = 2**62
_PUBLISHED = {
    "distserve": "library/calibration/distserve_a100.yaml",
    "vllm": "library/calibration/vllm_a100.yaml",
}

Engine = Literal["distserve", "vllm"]

Coefficient = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLine:
    """Seconds a batch of prompts takes: fixed, per token, per squared prompt length."""

    __pydantic_config__: ClassVar = PLAIN
    base_s: Coefficient
    token_s: Coefficient
    square_s: Coefficient

    def seconds(self, lengths: Sequence[int]) -> float:
        """Time of one batch of whole prompts of these lengths."""
        squares = sum(length * length for length in lengths)
        return self.base_s + self.token_s * sum(lengths) + self.square_s * squares


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLine:
    """Seconds a decode step takes: fixed, per context token of the batch, per request."""

    __pydantic_config__: ClassVar = PLAIN
    base_s: Coefficient
    context_s: Coefficient
    request_s: Coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillDecodeFit:
    """A ``StepClock`` of fitted coefficients, which are for all pipeline stages together.

    ``overhead_s`` and ``overhead_token_s`` (a token of context in the step) are engine time
    outside the kernels that a pipeline does not divide. ``swap_token_s`` is the time to move
    one token's KV over the host link.
    """

    prefill: PrefillLine
    decode_small: DecodeLine
    decode_large: DecodeLine
    decode_switch_batch: int
    swap_token_s: float
    num_stages: int = 1
    overhead_s: float = 0.0
    overhead_token_s: float = 0.0

    def _decode(self, num_decodes: int) -> DecodeLine:
        return self.decode_small if num_decodes < self.decode_switch_batch else self.decode_large

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``; an empty step takes no time."""
        if not chunks and num_decodes == 0:
            return 0.0
        base_s = moving_s = overhead_s = 0.0
        if num_decodes:
            line = self._decode(num_decodes)
            base_s = line.base_s
            moving_s = line.context_s * decode_context + line.request_s * num_decodes
            overhead_s = self.overhead_token_s * decode_context
        if chunks:
            base_s = max(base_s, self.prefill.base_s)
            for new, cached in chunks:
                moving_s += self.prefill.token_s * new
                moving_s += self.prefill.square_s * new * (2 * cached + new)
                overhead_s += self.overhead_token_s * (new + cached)
        return (base_s + moving_s) / self.num_stages + self.overhead_s + overhead_s

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``: one straight line for any context, at a given batch."""
        line = self._decode(num_decodes)
        base_s = (line.base_s + line.request_s * num_decodes) / self.num_stages
        slope_s = line.context_s / self.num_stages
        return base_s + self.overhead_s, slope_s + self.overhead_token_s, _FOREVER

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``."""
        return self.swap_token_s * num_tokens

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``; not told apart here."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFit:
    """A published clock and the KV tokens that fit beside the weights on those devices."""

    model: str
    device: str
    tp: int
    pp: int
    clock: PrefillDecodeFit
    max_kv_tokens: int
    kv_bytes_per_token: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    __pydantic_config__: ClassVar = PLAIN
    prefill: PrefillLine
    decode_switch_batch: Tokens
    decode_small: DecodeLine
    decode_large: DecodeLine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    __pydantic_config__: ClassVar = PLAIN
    kv_bytes_per_token: Tokens
    max_kv_tokens: dict[int, dict[int, Tokens]]
    fits: dict[int, _Fit]


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostLink:
    __pydantic_config__: ClassVar = PLAIN
    host_bytes_per_s: Annotated[float, Field(gt=0)]
    source: str
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: int
    source: str
    as_of: str
    device: str
    link: _HostLink
    models: dict[str, _Model]


@functools.cache
def _published(engine: Engine) -> _File:
    name = _PUBLISHED.get(engine)
    if name is None:
        raise SpecError(
            f"no published fits of the engine {engine!r}; there are those of "
            f"{', '.join(_PUBLISHED)}." + suggest(engine, _PUBLISHED)
        )
    with resources.as_file(resources.files("plimsoll").joinpath(name)) as path:
        return read(_File, path)


def published_fits(engine: Engine = "distserve") -> tuple[tuple[str, int], ...]:
    """(model, tp) of every published fit of an engine."""
    models = _published(engine).models
    return tuple((name, tp) for name, model in models.items() for tp in model.fits)


def published_fit(
    model: str,
    *,
    tp: int,
    pp: int = 1,
    engine: Engine = "distserve",
    overhead_s: float = 0.0,
    overhead_token_s: float = 0.0,
) -> PublishedFit:
    """The published A100-80GB fit of ``model`` on ``tp`` x ``pp`` devices.

    Raises:
        SpecError: no such model, or no such engine, in the published set.
        UnsupportedError: the model was not fitted, or does not fit, on that many devices.
    """
    file = _published(engine)
    known = file.models.get(model)
    if known is None:
        raise SpecError(
            f"no published fit of {model!r}; there are fits of {', '.join(file.models)}."
            + suggest(model, file.models)
        )
    fit = known.fits.get(tp)
    if fit is None:
        listed = ", ".join(str(t) for t in known.fits)
        raise UnsupportedError(f"{model} has no published fit at tp {tp}; fitted at tp {listed}")
    capacity = known.max_kv_tokens.get(tp, {}).get(pp)
    if capacity is None:
        listed = ", ".join(str(p) for p in known.max_kv_tokens.get(tp, {}))
        raise UnsupportedError(
            f"{model} at tp {tp} has no published KV capacity at pp {pp}; published at pp {listed}"
        )
    clock = PrefillDecodeFit(
        prefill=fit.prefill,
        decode_small=fit.decode_small,
        decode_large=fit.decode_large,
        decode_switch_batch=fit.decode_switch_batch,
        num_stages=pp,
        swap_token_s=known.kv_bytes_per_token / (tp * pp) / file.link.host_bytes_per_s,
        overhead_s=overhead_s,
        overhead_token_s=overhead_token_s,
    )
    return PublishedFit(
        model=model,
        device=file.device,
        tp=tp,
        pp=pp,
        clock=clock,
        max_kv_tokens=capacity,
        kv_bytes_per_token=known.kv_bytes_per_token,
        source=file.source,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """Relative errors of a fit on the points it was fitted to."""

    num_points: int
    median_fraction: float
    max_fraction: float


def _least_squares(
    columns: list[npt.NDArray[np.float64]], seconds: Sequence[float], names: str
) -> tuple[list[float], FitError]:
    """Non-negative coefficients that minimize the squared *relative* error."""
    from scipy.optimize import nnls

    measured = np.asarray(seconds, dtype=np.float64)
    if not np.all(np.isfinite(measured)) or np.any(measured <= 0):
        raise SpecError("measured times must be finite and above zero")
    design = np.stack(columns, axis=1)
    if design.shape[0] != len(measured):
        raise SpecError(f"{design.shape[0]} points but {len(measured)} measured times")
    if np.linalg.matrix_rank(design / np.abs(design).max(axis=0)) < design.shape[1]:
        raise SpecError(
            f"{len(measured)} points do not tell {names} apart; measure more, with different sizes"
        )
    scale = np.abs(design / measured[:, None]).max(axis=0)
    solution, _ = nnls(design / measured[:, None] / scale, np.ones(len(measured)))
    coefficients = solution / scale
    errors = np.abs(design @ coefficients / measured - 1)
    return [float(c) for c in coefficients], FitError(
        num_points=len(measured),
        median_fraction=float(np.median(errors)),
        max_fraction=float(np.max(errors)),
    )


def fit_prefill(
    batches: Sequence[Sequence[int]], seconds: Sequence[float]
) -> tuple[PrefillLine, FitError]:
    """Fit prefill coefficients to measured batches of prompt lengths."""
    total = np.array([sum(lengths) for lengths in batches], dtype=np.float64)
    square = np.array([sum(n * n for n in lengths) for lengths in batches], dtype=np.float64)
    columns = [np.ones_like(total), total, square]
    (base_s, token_s, square_s), error = _least_squares(columns, seconds, "the three terms")
    return PrefillLine(base_s=base_s, token_s=token_s, square_s=square_s), error


def fit_decode(
    contexts: Sequence[int], batches: Sequence[int], seconds: Sequence[float]
) -> tuple[DecodeLine, FitError]:
    """Fit decode coefficients to measured steps.

    ``contexts`` are totals of the batch. Fit small and large batches apart, each on the
    points of its side of the switch.
    """
    context = np.asarray(contexts, dtype=np.float64)
    batch = np.asarray(batches, dtype=np.float64)
    columns = [np.ones_like(context), context, batch]
    (base_s, context_s, request_s), error = _least_squares(columns, seconds, "the three terms")
    return DecodeLine(base_s=base_s, context_s=context_s, request_s=request_s), error
