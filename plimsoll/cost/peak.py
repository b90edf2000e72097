"""The analytical peak of serving a context: what no engine on this hardware can beat.

Four metrics, each with one limit: users <- memory, prefill <- arithmetic, decode <- memory
bandwidth, context switch <- host link.

    users   = floor((memory - reserve - weights / G) / KV)         per device, G devices
    prefill = (2 n P + (c / 4) * 4 n^2 h L) / (G * peak)           c = 1, 2 or 4
    decode  = tokens * (weights read / G + users * KV read) / bandwidth
    switch  = 2 KV / link                                          out and in again

Per layer rather than per model: windows, sparse choices and fixed-size states bound the KV of
their layers, experts count only where a token meets them, number formats multiply at their own
peak. KV heads fewer than G are replicated. Exact causal attention has c = 2; c = 4 multiplies
the masked half as well; c = 1 is what the source's printed times imply.
Leaves out everything that makes real systems slower: collectives, launches, efficiency below
one, activations (give ``reserve_bytes``), fragmentation.
Source: arXiv 2405.08944.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.kv import mixer_cache
from plimsoll.cost.kv_transform import (
    KVTransform,
    kept_tokens,
    prefill_tokens,
    stored_fraction,
)
from plimsoll.cost.pair_work import pair_work, state_flops
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError, suggest
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, LatentAttention, Layer, LinearAttention, ModelSpec
from plimsoll.spec.model import StateSpace as StateSpaceMixer
from plimsoll.spec.origin import Number, Origin
from plimsoll.spec.parameters import (
    Weight,
    layer_weights,
    outer_weights,
    total_parameters,
    weight_bytes,
    weight_format,
    with_weight_dtype,
)
from plimsoll.spec.streams import one_stream_only
from plimsoll.spec.units import format_bytes

__all__ = ["ATTENTION_COUNTS", "AttentionCount", "PeakReport", "peak"]

AttentionCount = Literal["paper", "causal", "full"]

ATTENTION_COUNTS: dict[str, float] = {"paper": 1.0, "causal": 2.0, "full": 4.0}
"""FLOPs of attention a layer, a unit of width and a squared token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakReport:
    """The peak of one context length; bytes are of all devices together unless named otherwise.

    ``kv_bytes`` is one user's cache, stored once; ``kv_bytes_per_device`` one device's share,
    replication included. ``decode_s`` is for ``decode_tokens`` tokens with ``users`` users in
    the batch. ``prefill_s`` uses ``attention``; the other counts stand beside it.
    """

    model: str
    device: str
    num_devices: int
    context_tokens: int
    users: int
    decode_tokens: int
    attention: AttentionCount
    transforms: tuple[str, ...]
    parameters: float
    weights_bytes: float
    memory_bytes: float
    reserve_bytes: float
    free_bytes: float
    kv_bytes: float
    kv_bytes_per_device: float
    num_users: int
    prefill_flops: float
    prefill_s: float
    prefill_paper_s: float
    prefill_causal_s: float
    prefill_full_s: float
    decode_step_s: float
    decode_s: float
    switch_s: float
    warnings: tuple[str, ...] = ()

    def numbers(self) -> dict[str, Number]:
        """What a table shows, in order, each with its unit and origin."""
        shown = {
            "weights": (self.weights_bytes / 2**30, "GiB"),
            "KV of one user": (self.kv_bytes / 2**30, "GiB"),
            "users at once": (float(self.num_users), "users"),
            "prefill": (self.prefill_s, "s"),
            "prefill, quarter of pairs (c=1)": (self.prefill_paper_s, "s"),
            "prefill, causal (c=2)": (self.prefill_causal_s, "s"),
            "prefill, full (c=4)": (self.prefill_full_s, "s"),
            f"decode of {self.decode_tokens} tokens": (self.decode_s, "s"),
            "context switch": (self.switch_s, "s"),
        }
        return {
            name: Number(value=value, unit=unit, origin=Origin.DERIVED)
            for name, (value, unit) in shown.items()
        }


def _weights(model: ModelSpec) -> list[tuple[float, Weight, DType]]:
    """Every (how often, matrix, stored format) of the model."""
    listed: list[tuple[float, Weight, DType]] = []
    for group in model.layers:
        for weight in layer_weights(group.layer, model.hidden_size):
            stored = weight_format(weight, model.quantization, group.layer.formats)
            listed.append((group.count, weight, stored))
    for weight in outer_weights(model):
        listed.append((1.0, weight, weight_format(weight, model.quantization)))
    return listed


def _is_head(model: ModelSpec, weight: Weight) -> bool:
    part = "embedding" if model.tied_embeddings else "lm-head"
    return weight.part == part


def _half_flops_per_s(device: Device) -> float:
    return device.flops_per_s(multiply_format(DType.BF16, device).math)


def _multiply_s(model: ModelSpec, device: Device, tokens: int) -> tuple[float, float]:
    """(FLOPs, seconds at peak) of the weights; the head multiplies the last token alone."""
    flops = seconds = 0.0
    for count, weight, stored in _weights(model):
        runs = 1 if _is_head(model, weight) else tokens
        work = 2.0 * runs * count * weight.parameters * weight.active
        if work:
            flops += work
            seconds += work / device.flops_per_s(multiply_format(stored, device).math)
    return flops, seconds


def _mixing_flops(layer: Layer, tokens: int, kv_dtype: DType, count: float) -> float:
    """FLOPs between tokens of one layer: attention pairs, indexer scores, state products."""
    mixer = layer.mixer
    if isinstance(mixer, Attention | LatentAttention):
        flops = 0.0
        for part in pair_work(mixer, kv_dtype):
            share = 1.0 if part.scores_only else count / ATTENTION_COUNTS["causal"]
            flops += part.prefill_flops * part.prefill_pairs(tokens) * share
        return flops
    if isinstance(mixer, LinearAttention | StateSpaceMixer):
        return state_flops(mixer) * tokens
    return 0.0


def _cache_bytes(layer: Layer, tokens: int, kv_dtype: DType, tp: int, stored: float) -> float:
    """Bytes one sequence holds in one layer of one device; compressors leave states alone."""
    held = mixer_cache(layer.mixer, kv_dtype, tp).bytes_at(tokens)
    return held * stored if isinstance(layer.mixer, Attention | LatentAttention) else held


def _read_bytes(layer: Layer, tokens: int, kv_dtype: DType, tp: int, stored: float) -> float:
    """Bytes of its cache that one decode step moves: states both ways, chosen tokens only."""
    mixer, held = layer.mixer, _cache_bytes(layer, tokens, kv_dtype, tp, stored)
    if isinstance(mixer, LinearAttention | StateSpaceMixer):
        return 2 * held
    if not isinstance(mixer, Attention | LatentAttention) or mixer.indexer is None:
        return held
    plain = replace(layer, mixer=replace(mixer, indexer=None))
    entries = _cache_bytes(plain, tokens, kv_dtype, tp, stored)
    num_entries = tokens / (mixer.kv_reduction if isinstance(mixer, Attention) else 1)
    return held - entries + entries * min(1.0, mixer.indexer.top_k / num_entries)


def _weights_read_bytes(model: ModelSpec, users: int) -> float:
    """Bytes of weights a decode step of ``users`` tokens reads: experts only if one is chosen."""
    total = 0.0
    for count, weight, stored in _weights(model):
        read = weight.active
        if weight.part == "experts":
            read = 1.0 - (1.0 - weight.active) ** users
        total += count * weight.parameters * stored.bytes * read
    return total


def _check(model: ModelSpec, context_tokens: int, attention: str, nominal: float | None) -> None:
    if attention not in ATTENTION_COUNTS:
        raise SpecError(
            f"attention is {attention!r}; expected {', '.join(ATTENTION_COUNTS)}."
            + suggest(attention, ATTENTION_COUNTS)
        )
    if context_tokens < 1:
        raise SpecError(f"context_tokens is {context_tokens}; expected 1 or more")
    if not model.layers:
        raise SpecError(f"{model.name}: has no layers")
    sparse = any(w.part == "experts" for g in model.layers for w in layer_weights(g.layer, 1))
    if nominal is not None and (sparse or nominal <= 0):
        raise SpecError(
            f"{model.name}: nominal_parameters is {nominal:g}; it must be above zero, and the "
            "model must be dense, because experts are counted one by one"
        )


def peak(
    model: ModelSpec,
    device: Device,
    context_tokens: int,
    *,
    users: int = 1,
    num_devices: int = 1,
    attention: AttentionCount = "causal",
    decode_tokens: int = 250,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    nominal_parameters: float | None = None,
    reserve_bytes: float = 0.0,
    transforms: Sequence[KVTransform] = (),
) -> PeakReport:
    """The peak of ``context_tokens`` on ``num_devices`` devices with tensor parallelism.

    A dtype of None: as the checkpoint says. ``nominal_parameters`` replaces the exact count
    of a dense model by a round one ("34B"), all of them read and multiplied for every token.
    ``reserve_bytes`` a device are kept for activations and the runtime.

    Raises:
        InfeasibleError: the weights do not fit; carries the number of devices that would do.
        SpecError: an unknown attention count, or a size of zero or less.
    """
    one_stream_only(model, "the analytical peak")
    _check(model, context_tokens, attention, nominal_parameters)
    if users < 1 or num_devices < 1 or decode_tokens < 1 or reserve_bytes < 0:
        raise SpecError(
            f"users {users}, num_devices {num_devices}, decode_tokens {decode_tokens}: expected 1 "
            f"or more of each, and reserve_bytes {reserve_bytes:g} of zero or more"
        )
    model = with_weight_dtype(model, weight_dtype)
    cache_dtype = kv_dtype or model.quantization.kv_cache
    parameters = float(total_parameters(model))
    weights_bytes = weight_bytes(model)
    read_bytes = _weights_read_bytes(model, users)
    run = prefill_tokens(context_tokens, transforms)
    multiply_flops, multiply_s = _multiply_s(model, device, run)
    if nominal_parameters is not None:
        weights_bytes *= nominal_parameters / parameters
        multiply_s *= 2 * nominal_parameters * run / multiply_flops
        multiply_flops = 2 * nominal_parameters * run
        parameters, read_bytes = nominal_parameters, weights_bytes

    room_bytes = device.memory_bytes - reserve_bytes
    if weights_bytes / num_devices > room_bytes:
        needed = math.ceil(weights_bytes / room_bytes) if room_bytes > 0 else 0
        change = f"{needed} x {device.name}" if needed else "a smaller reserve"
        raise InfeasibleError(
            f"{model.name}: weights of {format_bytes(weights_bytes)} do not fit {num_devices} x "
            f"{device.name} with {format_bytes(max(room_bytes, 0))} free each; use {change}",
            binding="memory",
            nearest=f"weights alone on {change}",
            change=change,
        )

    kept = kept_tokens(context_tokens, transforms)
    share = stored_fraction(transforms)
    held = sum(g.count * _cache_bytes(g.layer, kept, cache_dtype, 1, share) for g in model.layers)
    per_device = sum(
        g.count * _cache_bytes(g.layer, kept, cache_dtype, num_devices, share) for g in model.layers
    )
    moved = sum(
        g.count * _read_bytes(g.layer, kept, cache_dtype, num_devices, share) for g in model.layers
    )
    if per_device == 0:
        raise SpecError(f"{model.name}: no layer caches anything, so users have no limit")
    free_bytes = room_bytes - weights_bytes / num_devices
    decode_step_s = (read_bytes / num_devices + users * moved) / device.memory_bytes_per_s

    mixing_flops = {
        name: sum(g.count * _mixing_flops(g.layer, run, cache_dtype, count) for g in model.layers)
        for name, count in ATTENTION_COUNTS.items()
    }
    half = _half_flops_per_s(device)
    prefill_s = {n: (multiply_s + flops / half) / num_devices for n, flops in mixing_flops.items()}
    warnings: tuple[str, ...] = ()
    if context_tokens > model.max_context:
        warnings = (
            f"{context_tokens:,} tokens are more than the {model.max_context:,} that "
            f"{model.name} was made for",
        )
    return PeakReport(
        model=model.name,
        device=device.name,
        num_devices=num_devices,
        context_tokens=context_tokens,
        users=users,
        decode_tokens=decode_tokens,
        attention=attention,
        transforms=tuple(transform.name for transform in transforms),
        parameters=parameters,
        weights_bytes=weights_bytes,
        memory_bytes=device.memory_bytes * num_devices,
        reserve_bytes=reserve_bytes * num_devices,
        free_bytes=free_bytes * num_devices,
        kv_bytes=held,
        kv_bytes_per_device=per_device,
        num_users=int(free_bytes // per_device),
        prefill_flops=multiply_flops + mixing_flops[attention],
        prefill_s=prefill_s[attention],
        prefill_paper_s=prefill_s["paper"],
        prefill_causal_s=prefill_s["causal"],
        prefill_full_s=prefill_s["full"],
        decode_step_s=decode_step_s,
        decode_s=decode_tokens * decode_step_s,
        switch_s=2 * per_device / device.host.bytes_per_s,
        warnings=warnings,
    )
