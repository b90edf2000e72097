"""Equivalent FLOPs of long generations: arithmetic, and KV traffic turned into arithmetic.

    eFLOPs = FLOPs + I·bytes,  I the device's FLOPs a byte

A generation of L tokens after a prompt of c reads (c + L/2)·L cached positions (each step counted
at its middle). Under a KV budget of B positions it reads min(B, context) a step. Trials of one
prompt share its KV while they run together; under a budget they do not, since each picks its own.
Weights are read once for a large batch and left out, as are prefill and everything between
operators. For models with experts the FLOPs are those of active parameters.
Source: arXiv 2506.05333, section 3. The published code *adds* half the square of B − c to the
positions of its top-k cost; the sum over steps subtracts it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from plimsoll.cost.roofline import Floats
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, ModelSpec
from plimsoll.spec.parameters import active_parameters, total_parameters
from plimsoll.spec.streams import one_stream_only

__all__ = [
    "B200_INTENSITY",
    "DecodeShape",
    "GenerationCost",
    "decode_shape",
    "eflops_dense",
    "eflops_sparse",
    "intensity",
    "read_positions",
]

B200_INTENSITY = 562.5
"""4.5 PFLOP/s over 8 TB/s: the paper's. Its peak is that of 8-bit or sparse 16-bit arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeShape:
    """What a step costs. ``params``: active ones with the input table, 2·params FLOPs a token;
    ``total_params``: those in memory. ``kv_width`` is layers x KV heads
    x head size, ``query_width`` the same with attention heads."""

    name: str
    params: float
    total_params: float
    kv_width: float
    query_width: float

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one position in 16 bits."""
        return 4.0 * self.kv_width


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCost:
    """FLOPs and KV bytes, one value for each length asked for."""

    flops: Floats
    bytes: Floats

    def eflops(self, intensity: float) -> Floats:
        """Equivalent FLOPs; ``intensity`` 0 leaves arithmetic alone."""
        return np.asarray(self.flops + intensity * self.bytes)


def decode_shape(model: ModelSpec, *, tied_twice: bool = False) -> DecodeShape:
    """The shape of a model whose layers all have plain attention.

    ``tied_twice`` counts a tied table also as the head, as files that store both do.

    Raises:
        UnsupportedError: some layer keeps another kind of state, or the model several streams.
    """
    one_stream_only(model, "the cost of long generations")
    kv = query = 0.0
    for group in model.layers:
        mixer = group.layer.mixer
        if not isinstance(mixer, Attention) or mixer.window or mixer.chunk:
            raise UnsupportedError(
                f"{model.name}: the cost of long generations is known for full attention only; a "
                f"layer has {type(mixer).__name__} or a window"
            )
        kv += group.count * mixer.num_kv_heads * mixer.head_dim
        query += group.count * mixer.num_heads * mixer.head_dim
    tied = model.vocab_size * model.hidden_size if tied_twice and model.tied_embeddings else 0
    return DecodeShape(
        name=model.name,
        params=float(active_parameters(model, embedding=True) + tied),
        total_params=float(total_parameters(model)),
        kv_width=kv,
        query_width=query,
    )


def intensity(device: Device, dtype: DType = DType.BF16) -> float:
    """Dense FLOPs a device does in the time of one byte.

    Raises:
        UnsupportedError: it lists no peak for ``dtype``.
    """
    return device.flops_per_s(dtype) / device.memory_bytes_per_s


def read_positions(
    prompt_tokens: ArrayLike, tokens: ArrayLike, kv_budget: float | None = None
) -> Floats:
    """Cached positions that a generation reads, at most ``kv_budget`` a step."""
    prompt, length = np.asarray(prompt_tokens, dtype=float), np.asarray(tokens, dtype=float)
    if kv_budget is None:
        return np.asarray(prompt * length + length**2 / 2)
    growing = np.clip(kv_budget - prompt, 0, length)
    return np.asarray(
        prompt * growing + growing**2 / 2 + kv_budget * np.maximum(length - growing, 0)
    )


def eflops_dense(
    shape: DecodeShape, *, prompt_tokens: ArrayLike, tokens: ArrayLike, trials: int = 1
) -> GenerationCost:
    """``trials`` generations of ``tokens`` each, side by side on one prompt's KV.

    Raises:
        SpecError: fewer than one trial or a negative count.
    """
    prompt, length = _checked(prompt_tokens, tokens, trials)
    positions = read_positions(prompt, length)
    flops = trials * (2 * shape.params * length + 4 * positions * shape.query_width)
    shared = prompt * length + trials * length**2 / 2
    return GenerationCost(flops=flops, bytes=np.asarray(shared * shape.kv_bytes_per_token))


def eflops_sparse(
    shape: DecodeShape,
    *,
    prompt_tokens: ArrayLike,
    tokens: ArrayLike,
    kv_budget: float,
    trials: int = 1,
    block: int = 0,
) -> GenerationCost:
    """The same where a step reads at most ``kv_budget`` positions.

    ``block`` positions stand behind one representative key that every step scores to choose; 0:
    the choice is free.

    Raises:
        SpecError: a budget that is not positive, a negative block, or as ``eflops_dense``.
    """
    prompt, length = _checked(prompt_tokens, tokens, trials)
    if not kv_budget > 0 or block < 0:
        raise SpecError(f"a KV budget of {kv_budget:g} in blocks of {block}; expected more than 0")
    positions = read_positions(prompt, length, kv_budget)
    flops = 2 * shape.params * length + 4 * positions * shape.query_width
    moved = positions * shape.kv_bytes_per_token
    if block:
        scored = read_positions(prompt, length) / block
        flops = flops + 2 * scored * shape.query_width
        moved = moved + scored * shape.kv_bytes_per_token / 2  # keys only
    return GenerationCost(flops=np.asarray(trials * flops), bytes=np.asarray(trials * moved))


def _checked(prompt_tokens: ArrayLike, tokens: ArrayLike, trials: int) -> tuple[Floats, Floats]:
    prompt, length = np.asarray(prompt_tokens, dtype=float), np.asarray(tokens, dtype=float)
    if trials < 1:
        raise SpecError(f"{trials} trials; expected 1 or more")
    for name, values in (("prompt", prompt), ("generated", length)):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise SpecError(f"{name} tokens are {values.min():g} at least; expected 0 or more")
    return prompt, length
