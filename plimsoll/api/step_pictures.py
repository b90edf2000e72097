"""Pictures of what one engine step is made of: memory, time by operator, roofline.

The steps shown are the record's typical ones: the mean decode batch, and the mean prompt step.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.memory import footprint
from plimsoll.cost.roofline import OpCost
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.report.pictures import (
    BreakdownBar,
    BreakdownPart,
    MemoryPart,
    MemoryWaterfall,
    RooflineDot,
    RooflinePicture,
    TimeBreakdown,
)
from plimsoll.serving.simulate.placement import Seat
from plimsoll.serving.simulate.run import batched_tokens
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.origin import Origin
from plimsoll.spec.parameters import layer_weights, weight_format, with_weight_dtype
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.record import RunRecord

__all__ = ["memory_picture", "roofline_picture", "step_breakdown"]

_SMALL = 0.005


def memory_picture(plan: ServingPlan, model: ModelSpec, seat: Seat) -> MemoryWaterfall:
    """Memory of the fullest device of one replica, its KV budget taken as full."""
    pool = seat.pool
    context = plan.max_model_len or model.max_context
    memory = footprint(
        model,
        seat.device,
        pool.parallel,
        weight_dtype=plan.weight_dtype,
        memory_fraction=pool.memory_fraction,
        max_batched_tokens=batched_tokens(pool, context),
        max_num_seqs=pool.max_num_seqs,
    )
    cached = plan.kv_dtype or model.quantization.kv_cache
    token_bytes = kv_bytes_per_token(model, cached, pool.parallel.tp) / pool.parallel.pp
    room = (
        f"room for {memory.kv_budget_bytes / token_bytes:,.0f} tokens" if token_bytes else "state"
    )
    return MemoryWaterfall(
        title=f"Memory of one {seat.device.name} ({pool.role}): KV {room}",
        parts=(
            MemoryPart(name="weights", size_bytes=memory.weights_bytes),
            MemoryPart(
                name="activations", size_bytes=memory.activations_bytes, origin=Origin.MODELED
            ),
            MemoryPart(name="CUDA graphs", size_bytes=memory.graphs_bytes, origin=Origin.MODELED),
            MemoryPart(name="runtime", size_bytes=memory.reserve_bytes, origin=Origin.MODELED),
            MemoryPart(name="KV cache", size_bytes=memory.kv_budget_bytes),
        ),
        limit_bytes=memory.limit_bytes,
        capacity_bytes=seat.device.memory_bytes,
    )


def step_breakdown(
    plan: ServingPlan, model: ModelSpec, placed: Sequence[Seat], record: RunRecord
) -> TimeBreakdown:
    """Time by operator of a typical decode step and a typical prompt step."""
    bars = []
    for name, clock, chunks, decodes, context in _typical(plan, model, placed, record):
        ops = clock.step_ops(chunks, decodes, context)
        total = clock.step_s(chunks, decodes, context)
        parts = _parts(ops, total, clock.setting.device, _formats(plan, model, clock))
        host = total - sum(op.time_s for op in ops)
        if host > 1e-3 * total:
            parts.append(BreakdownPart(name="host", kind="host", seconds=host))
        bars.append(BreakdownBar(name=name, parts=tuple(parts)))
    if not bars:
        return TimeBreakdown(title="No step was taken", bars=())
    longest = max((part for bar in bars for part in bar.parts), key=lambda part: part.seconds)
    return TimeBreakdown(
        title=f"Where a step's time goes: most to {longest.name}",
        bars=tuple(bars),
        origin=Origin(record.meta.get("origin", Origin.MODELED)),
        notes=("one pipeline stage",) if placed[0].pool.parallel.pp > 1 else (),
    )


def roofline_picture(
    plan: ServingPlan, model: ModelSpec, placed: Sequence[Seat], record: RunRecord
) -> RooflinePicture:
    """Operators of the same steps against the device's limits."""
    device = placed[0].device
    dots = []
    used: dict[str, float] = {}
    for _, clock, chunks, decodes, context in _typical(plan, model, placed, record):
        used |= {d.value: device.flops_per_s(d) for d in _formats(plan, model, clock)}
        for op in clock.step_ops(chunks, decodes, context):
            if op.flops > 0 and op.bytes > 0 and op.time_s > 0:
                dots.append(
                    RooflineDot(
                        name=op.name,
                        phase="prefill" if chunks else "decode",
                        flops_per_byte=op.flops / op.bytes,
                        flops_per_s=op.flops / op.time_s,
                        bound=op.bound,
                    )
                )
    bound = sum(dot.bound == "memory" for dot in dots)
    return RooflinePicture(
        title=f"{bound} of {len(dots)} operators are bound by memory on {device.name}",
        device=device.name,
        memory_bytes_per_s=device.memory_bytes_per_s,
        peaks=tuple(used.items()),
        dots=tuple(dots),
        origin=Origin(record.meta.get("origin", Origin.MODELED)),
    )


Typical = tuple[str, ReplicaClock, tuple[tuple[int, int], ...], int, int]


def _typical(
    plan: ServingPlan, model: ModelSpec, placed: Sequence[Seat], record: RunRecord
) -> list[Typical]:
    steps = record.steps
    found: list[Typical] = []
    decoding = (steps.num_decodes > 0) & (steps.prefill_tokens == 0)
    if decoding.any():
        weight = steps.num_steps[decoding]
        batch = max(1, round(float(np.average(steps.num_decodes[decoding], weights=weight))))
        per_request = float(
            np.average(steps.decode_context[decoding] / steps.num_decodes[decoding], weights=weight)
        )
        clock = _clock(plan, model, placed[int(steps.instance[decoding][0])])
        found.append(
            (f"decode step, {batch} requests", clock, (), batch, max(1, round(batch * per_request)))
        )
    prompts = steps.prefill_tokens > 0
    if prompts.any():
        tokens = max(1, round(float(np.mean(steps.prefill_tokens[prompts]))))
        cached = round(float(np.mean(steps.prefill_context[prompts])))
        clock = _clock(plan, model, placed[int(steps.instance[prompts][0])])
        found.append((f"prompt step, {tokens:,} tokens", clock, ((tokens, cached),), 0, 0))
    return found


def _clock(plan: ServingPlan, model: ModelSpec, seat: Seat) -> ReplicaClock:
    return replica_clock(
        model,
        seat.device,
        seat.pool.parallel,
        weight_dtype=plan.weight_dtype,
        kv_dtype=plan.kv_dtype,
        engine=plan.engine,
        num_devices_per_node=seat.devices_per_node,
    )


def _formats(plan: ServingPlan, model: ModelSpec, clock: ReplicaClock) -> tuple[DType, ...]:
    """The formats that matrices multiply in on this clock's device; attention runs in 16 bits."""
    changed = with_weight_dtype(model, plan.weight_dtype)
    stored = {
        weight_format(weight, changed.quantization, group.layer.formats)
        for group in changed.layers
        for weight in layer_weights(group.layer, changed.hidden_size, changed.streams)
    }
    device = clock.setting.device
    used = {multiply_format(dtype, device).math for dtype in (DType.BF16, *stored)}
    return tuple(sorted(used, key=lambda dtype: device.flops_per_s(dtype)))


def _parts(
    ops: Sequence[OpCost], total_s: float, device: Device, formats: Sequence[DType]
) -> list[BreakdownPart]:
    """One part an operator name, longest first; what is under half a percent goes together.

    The bound of a part is arithmetic at the fastest peak in use or traffic at full bandwidth.
    """
    fastest = max(device.flops_per_s(dtype) for dtype in formats)
    named: dict[str, list[OpCost]] = {}
    for op in ops:
        if op.time_s > 0:
            named.setdefault(op.name, []).append(op)
    parts: list[BreakdownPart] = []
    rest: list[tuple[str, float]] = []
    for name, same in named.items():
        seconds = sum(op.time_s for op in same)
        if seconds < _SMALL * total_s:
            rest.append((name, seconds))
            continue
        kind = _kind(max(same, key=lambda op: op.time_s))
        bound_s = sum(max(op.flops / fastest, op.bytes / device.memory_bytes_per_s) for op in same)
        parts.append(
            BreakdownPart(
                name=name,
                kind=kind,
                seconds=seconds,
                bound_s=None if kind == "collective" or bound_s == 0 else bound_s,
            )
        )
    if rest:
        name = rest[0][0] if len(rest) == 1 else f"{len(rest)} others"
        parts.append(BreakdownPart(name=name, kind="memory", seconds=sum(s for _, s in rest)))
    return sorted(parts, key=lambda part: -part.seconds)


def _kind(op: OpCost) -> Literal["compute", "memory", "collective", "host"]:
    if op.name == "host":
        return "host"
    if op.bound == "network":
        return "collective"
    return "compute" if op.bound == "compute" else "memory"
