"""Which ways of cutting one replica of a model are legal on one part of a fleet.

Tensor parallelism splits heads and widths evenly and stays inside the scale-up domain;
pipeline stages may cross nodes, but no stage straddles one. Experts are cut by expert (ep) or
by width. Data-parallel attention is tried for mixture-of-experts models only: without experts
to share it is the same as more replicas. Each shape appears once; what is left out is counted
with the reason. Leaves out: uneven tensor splits, which engines do not run.
Source: the divisibility checks that vLLM, SGLang and TensorRT-LLM make at start.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from plimsoll.cost.cut import check_parallel
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import DenseFfn, ModelSpec, MoeFfn
from plimsoll.spec.plan import Parallel

__all__ = ["Site", "Skips", "has_experts", "parallel_shapes", "replicas_that_fit", "why_not"]

Skips = Counter[str]
"""How many candidates were left out, by reason in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Equal devices in nodes: ``nodes`` are the devices of each node, as the fleet lists them."""

    device: Device
    nodes: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """Devices in all nodes."""
        return sum(self.nodes)


_BLOCK = 128  # rows and columns that share one scale in block-quantized weights
_MAX_STAGES = 16


def has_experts(model: ModelSpec) -> bool:
    """Whether any layer is a mixture of experts."""
    return any(isinstance(group.layer.ffn, MoeFfn) for group in model.layers)


def _breaks_blocks(model: ModelSpec, parallel: Parallel, weight_dtype: DType | None) -> str:
    """Engines refuse to cut through the tiles that share a scale."""
    for group in model.layers:
        ffn = group.layer.ffn
        if isinstance(ffn, DenseFfn):
            dtype, width, parts = model.quantization.ffn, ffn.intermediate, parallel.tp
        elif isinstance(ffn, MoeFfn):
            dtype, width, parts = model.quantization.experts, ffn.intermediate, parallel.moe_tp
        else:
            continue
        if (weight_dtype or dtype) is DType.FP8_BLOCK and parts > 1 and width // parts % _BLOCK:
            return f"width {width} over {parts} devices cuts the {_BLOCK}-wide scale blocks"
    return ""


def why_not(model: ModelSpec, parallel: Parallel, weight_dtype: DType | None = None) -> str:
    """Why the model cannot be cut this way, or "" if it can."""
    try:
        check_parallel(model, parallel)
    except SpecError as error:
        return str(error)
    if parallel.attention_dp > 1 and not has_experts(model):
        return "data-parallel attention without experts is the same as more replicas"
    return _breaks_blocks(model, parallel, weight_dtype)


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]


def _stages(model: ModelSpec, most: int) -> list[int]:
    even = [n for n in range(1, min(most, _MAX_STAGES) + 1) if model.num_layers % n == 0]
    return sorted(set(even) | {n for n in _powers(most) if n <= _MAX_STAGES})


def _expert_degrees(group: int, engine: str) -> list[int]:
    if engine == "trtllm":
        return [d for d in range(1, group + 1) if group % d == 0]
    return [1, group] if group > 1 else [1]


def parallel_shapes(
    model: ModelSpec,
    site: Site,
    *,
    max_devices: int,
    engine: str = "vllm",
    weight_dtype: DType | None = None,
    skips: Skips,
) -> Iterator[Parallel]:
    """Every legal shape of at most ``max_devices`` devices, small degrees first, each once.

    ``skips`` is added to: shapes left out, by reason.
    """
    node = max(site.nodes)
    most = min(max_devices, site.num_devices)
    moe = has_experts(model)
    tensor = sorted(set(_powers(node)) | {d for d in range(1, node + 1) if node % d == 0})
    for tp in [t for t in tensor if t <= most]:
        for dp in _powers(most // tp) if moe else [1]:
            group = tp * dp
            if group > node and group % node:
                skips["a stage would straddle nodes"] += 1
                continue
            for pp in _stages(model, most // group):
                if group * pp > node and group < node and node % group:
                    skips["a stage would straddle nodes"] += 1
                    continue
                for ep in _expert_degrees(group, engine) if moe else [1]:
                    shape = Parallel(tp=tp, pp=pp, attention_dp=dp, ep=ep)
                    reason = why_not(model, shape, weight_dtype)
                    if reason:
                        skips[reason] += 1
                    else:
                        yield shape


def replicas_that_fit(site: Site, sizes: list[tuple[int, int]]) -> bool:
    """Whether replicas, given as (devices of one, how many), fit on the nodes of a site.

    They are seated in order, as the simulator seats a plan: each on the first node with room,
    or from untouched nodes in order if it is larger than the room of any.
    """
    if sum(devices * count for devices, count in sizes) > site.num_devices:
        return False
    free = list(site.nodes)
    for devices, count in sizes:
        for _ in range(count):
            fits = [i for i, left in enumerate(free) if left >= devices]
            if fits:
                free[fits[0]] -= devices
                continue
            left = devices
            for i, size in enumerate(site.nodes):
                if left and free[i] == size:
                    used = min(left, size)
                    free[i], left = size - used, left - used
            if left:
                return False
    return True
