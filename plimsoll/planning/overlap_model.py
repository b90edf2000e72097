"""The overlap plan of a model on a device: operators from the cost model, the batch from lengths.

In the steady state of a dense batch as many requests end as start, so decodes hold the share of
output tokens, a decode is met in proportion to how long it runs and a prompt token in proportion to
the length of its prompt. Where memory holds fewer decodes than that, prompts fill the rest.
Source: arXiv 2408.12757; ``cost/overlap_layer.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.cost.memory import kv_capacity
from plimsoll.cost.overlap_curves import CURVES_DEVICE, overlap_curves
from plimsoll.cost.overlap_layer import ModelLayer
from plimsoll.cost.overlap_profile import OpProfile
from plimsoll.cost.step import replica_clock
from plimsoll.planning.overlap_search import GRAIN_TOKENS, search_overlap
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.overlap import OverlapPlan
from plimsoll.spec.plan import Parallel

__all__ = [
    "ExpectedBatch",
    "ModelOverlap",
    "assumed_curves",
    "expected_batch",
    "search_model_overlap",
]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBatch:
    """A step in the steady state: ``decodes`` over ``decode_context`` tokens of KV, and chunks."""

    decodes: int
    decode_context: int
    chunks: tuple[tuple[int, int], ...]
    limited: bool
    """Whether memory holds fewer decodes than the lengths lead to."""


def expected_batch(
    prompt_tokens: Ints, output_tokens: Ints, *, batch_tokens: int, kv_tokens: int = 0
) -> ExpectedBatch:
    """The step that requests of these lengths lead to; ``kv_tokens`` of memory, 0 for any."""
    prompt, output = prompt_tokens.astype(float), output_tokens.astype(float)
    decodes = batch_tokens * output.mean() / (prompt + output).mean()
    each = (prompt * output + output**2 / 2).mean() / output.mean()
    limited = bool(0 < kv_tokens < decodes * each)
    if limited:
        decodes = kv_tokens / each
    count = min(max(int(decodes), 1), batch_tokens - 1)
    left = batch_tokens - count
    longest = max(1, round((prompt**2).mean() / prompt.mean()))
    if longest >= left:
        chunks: tuple[tuple[int, int], ...] = ((left, (longest - left) // 2),)
    else:
        whole, rest = divmod(left, longest)
        chunks = ((longest, 0),) * whole + (((rest, 0),) if rest else ())
    return ExpectedBatch(
        decodes=count, decode_context=max(count, int(count * each)), chunks=chunks, limited=limited
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverlap:
    """A plan and what it was searched for. ``operators`` are of one layer on the whole batch.

    ``step_s`` is a step with operators one by one, embedding, head and host included;
    ``saved_s`` what the plan takes off it.
    """

    plan: OverlapPlan
    batch: ExpectedBatch
    operators: tuple[OpProfile, ...]
    step_s: float
    saved_s: float


def search_model_overlap(
    model: ModelSpec,
    device: Device,
    parallel: Parallel,
    *,
    prompt_tokens: Ints,
    output_tokens: Ints,
    batch_tokens: int,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    engine: str = "vllm",
    devices_per_node: int | None = None,
    memory_fraction: float = 0.9,
    budget_s: float = 120.0,
    on_progress: Callable[[str], None] | None = None,
) -> ModelOverlap:
    """Search for the batch that requests of these lengths lead to.

    Raises:
        SpecError: the dense batch cannot be cut in two.
        UnsupportedError: layers or cuts that are not planned for.
        InfeasibleError: the weights leave no room for KV.
    """
    if batch_tokens < 2 * GRAIN_TOKENS:
        raise SpecError(
            f"a dense batch of {batch_tokens} tokens cannot be cut; it needs at least "
            f"{2 * GRAIN_TOKENS}, two nano-batches of {GRAIN_TOKENS}"
        )
    clock = replica_clock(
        model,
        device,
        parallel,
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        engine=engine,
        num_devices_per_node=devices_per_node,
    )
    layer = ModelLayer(clock.setting)
    capacity = kv_capacity(
        model,
        device,
        parallel,
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        memory_fraction=memory_fraction,
        max_batched_tokens=batch_tokens,
        max_num_seqs=batch_tokens,
        block_tokens=16,
    )
    if capacity.num_tokens <= 0:
        raise InfeasibleError(
            f"{model.name}: its weights leave no room for KV on {parallel.tp} x {device.name}",
            binding="device memory",
            change="raise tp, or use a smaller weight format",
        )
    batch = expected_batch(
        prompt_tokens, output_tokens, batch_tokens=batch_tokens, kv_tokens=capacity.num_tokens
    )
    decode_s, prompt_s = layer.attention_s(batch.chunks, batch.decodes, batch.decode_context)
    operators = layer.operators(float(batch_tokens), decode_s, prompt_s)
    plan = search_overlap(
        operators,
        layer.dependencies,
        overlap_curves(),
        batch_tokens=batch_tokens,
        layers=layer.layers,
        budget_s=budget_s,
        on_progress=on_progress,
    )
    step_s = clock.step_s(batch.chunks, batch.decodes, batch.decode_context)
    return ModelOverlap(
        plan=plan,
        batch=batch,
        operators=operators,
        step_s=step_s,
        saved_s=max(0.0, plan.sequential_s - plan.iteration_s),
    )


def assumed_curves(device: Device) -> str:
    """What is assumed of a device that no speed curves were measured on, or ""."""
    if device.name == CURVES_DEVICE:
        return ""
    return f"kernels share {device.name} as they share {CURVES_DEVICE}, where that was measured"
