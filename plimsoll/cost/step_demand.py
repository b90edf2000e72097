"""How busy recorded steps keep a device: seconds at full arithmetic and at full bandwidth.

The floor of each step, from the shapes of the model alone: two FLOPs a parameter a token, every
visible (query, key) pair, weights read once a step, experts only where a token chooses them,
every cached token read once a step. Ranks of data-parallel attention each read their own copy of
all weights but the experts. Over the step's own duration these give utilizations, from
which power follows, for a record of either executor. Prompts that share a step are taken at
their mean length; windows limit the mean context. Leaves out activations, collectives and KV
heads replicated over devices. Source: doi:10.1145/1498765.1498785 (roofline).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.kv import mixer_cache
from plimsoll.cost.pair_work import pair_work, state_flops
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import (
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    StateSpace,
)
from plimsoll.spec.parameters import (
    Weight,
    layer_weights,
    outer_weights,
    weight_format,
    with_weight_dtype,
)
from plimsoll.spec.record import StepColumns
from plimsoll.spec.streams import PREFIX_TOKENS

__all__ = ["AttentionDemand", "ExpertDemand", "StepDemand", "step_demand"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDemand:
    """Equal attention layers: seconds of a visible pair, bytes of a cached token, visibility."""

    decode_pair_s: float
    prefill_pair_s: float
    token_bytes: float
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertDemand:
    """Routed experts of equal layers: bytes of all of them, and the share one token chooses."""

    weight_bytes: float
    active: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDemand:
    """What a step asks of a whole replica, as seconds of one device at its peaks.

    Spread evenly over n devices each is busy an n-th of it.
    """

    token_s: float
    sample_s: float
    weight_bytes: float
    experts: tuple[ExpertDemand, ...]
    attention: tuple[AttentionDemand, ...]
    state_bytes: float
    memory_bytes_per_s: float
    prefix_tokens: int = 0
    """Cached before every sequence's own (``spec/streams.py``)."""

    def busy_s(self, steps: StepColumns) -> tuple[Floats, Floats]:
        """(arithmetic, memory) seconds of each row, all its steps together."""
        n = steps.num_steps.astype(np.float64)
        decodes = steps.num_decodes.astype(np.float64)
        new = steps.prefill_tokens.astype(np.float64)
        seqs = steps.prefill_seqs.astype(np.float64)
        cached = steps.prefill_context.astype(np.float64)
        context = n * steps.decode_context + decodes * n * (n - 1) / 2
        if self.prefix_tokens:
            context = context + n * decodes * self.prefix_tokens
            cached = cached + seqs * self.prefix_tokens
        tokens = decodes + new
        compute_s = n * (tokens * self.token_s + (decodes + seqs) * self.sample_s)
        moved = n * np.where(tokens > 0, self.weight_bytes, 0.0)
        for part in self.experts:
            moved += n * part.weight_bytes * (1.0 - (1.0 - part.active) ** tokens)
        each = np.maximum(seqs, 1.0)
        mean_visible = cached / each + (new / each + 1) / 2
        for layer in self.attention:
            seen, before = context, mean_visible
            if layer.limit:
                seen = np.minimum(context, n * decodes * layer.limit)
                before = np.minimum(mean_visible, layer.limit)
            compute_s += seen * layer.decode_pair_s + new * before * layer.prefill_pair_s
            moved += (seen + cached + new) * layer.token_bytes
        moved += (2 * n * decodes + seqs) * self.state_bytes
        return compute_s, moved / self.memory_bytes_per_s


def _mixing(
    layer: Layer, count: int, kv_dtype: DType, half_flops_per_s: float
) -> tuple[list[AttentionDemand], float, float]:
    """(attention parts, seconds a token, state bytes a sequence) of ``count`` equal layers."""
    mixer = layer.mixer
    if isinstance(mixer, Attention | LatentAttention):
        parts = [
            AttentionDemand(
                decode_pair_s=count * part.decode_flops / half_flops_per_s,
                prefill_pair_s=count * part.prefill_flops / half_flops_per_s,
                token_bytes=count * part.token_bytes,
                limit=part.limit,
            )
            for part in pair_work(mixer, kv_dtype)
        ]
        return parts, 0.0, 0.0
    if isinstance(mixer, LinearAttention | StateSpace):
        token_s = count * state_flops(mixer) / half_flops_per_s
        return [], token_s, count * mixer_cache(mixer, kv_dtype).fixed_bytes
    return [], 0.0, 0.0


def step_demand(
    model: ModelSpec,
    device: Device,
    *,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    attention_dp: int = 1,
) -> StepDemand:
    """The demand of ``model``'s steps on ``device``; a dtype of None: as the model says.

    ``attention_dp`` ranks hold a copy each of what is not an expert.
    """
    model = with_weight_dtype(model, weight_dtype)
    cache_dtype = kv_dtype or model.quantization.kv_cache
    half = device.flops_per_s(multiply_format(DType.BF16, device).math)
    streams = model.streams
    token_s = sample_s = weight_bytes = state_bytes = 0.0
    experts: list[ExpertDemand] = []
    attention: list[AttentionDemand] = []

    def add(count: int, weight: Weight, stored: DType, head: bool, times: int = 1) -> None:
        nonlocal token_s, sample_s, weight_bytes
        flops = 2.0 * count * weight.parameters * weight.active * times
        size = count * weight.parameters * stored.bytes
        if flops:
            seconds = flops / device.flops_per_s(multiply_format(stored, device).math)
            if head:
                sample_s += seconds
            else:
                token_s += seconds
        if weight.part == "experts":
            experts.append(ExpertDemand(weight_bytes=size, active=weight.active))
        else:
            weight_bytes += attention_dp * size * weight.active

    for group in model.layers:
        for weight in layer_weights(group.layer, model.hidden_size, streams):
            stored = weight_format(weight, model.quantization, group.layer.formats)
            add(group.count, weight, stored, False, streams)
        parts, layer_s, layer_state = _mixing(group.layer, group.count * streams, cache_dtype, half)
        attention.extend(parts)
        token_s += layer_s
        state_bytes += layer_state
    head_part = "embedding" if model.tied_embeddings else "lm-head"
    for weight in outer_weights(model):
        stored = weight_format(weight, model.quantization)
        add(1, weight, stored, weight.part == head_part or weight.name == "stream weighing")
    return StepDemand(
        token_s=token_s,
        sample_s=sample_s,
        weight_bytes=weight_bytes,
        experts=tuple(experts),
        attention=tuple(attention),
        prefix_tokens=PREFIX_TOKENS if streams > 1 else 0,
        state_bytes=state_bytes,
        memory_bytes_per_s=device.memory_bytes_per_s,
    )
