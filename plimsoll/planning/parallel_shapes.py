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

from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    LatentAttention,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    StateSpace,
)
from plimsoll.spec.plan import Parallel

__all__ = ["Site", "Skips", "has_experts", "parallel_shapes", "replicas_that_fit", "why_not"]

Skips = Counter[str]
"""How many candidates were left out, by reason in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Equal devices in nodes: ``nodes`` are the devices of each node, largest node first."""

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


def _divides(num: int, by: int) -> bool:
    return num % by == 0


def _mixer_problem(model: ModelSpec, tp: int) -> str:
    for group in model.layers:
        mixer = group.layer.mixer
        if isinstance(mixer, Attention):
            if not _divides(mixer.num_heads, tp):
                return f"tp does not divide {mixer.num_heads} attention heads"
            if not (_divides(mixer.num_kv_heads, tp) or _divides(tp, mixer.num_kv_heads)):
                return f"tp neither divides nor is a multiple of {mixer.num_kv_heads} KV heads"
        elif isinstance(mixer, LatentAttention):
            if not _divides(mixer.num_heads, tp):
                return f"tp does not divide {mixer.num_heads} attention heads"
        elif isinstance(mixer, LinearAttention):
            if not (_divides(mixer.num_k_heads, tp) and _divides(mixer.num_v_heads, tp)):
                return "tp does not divide the linear-attention heads"
        elif isinstance(mixer, StateSpace):
            groups = mixer.num_groups
            if not _divides(mixer.num_heads, tp):
                return "tp does not divide the state-space heads"
            if not (_divides(groups, tp) or _divides(tp, groups)):
                return "tp does not divide the state-space groups"
    return ""


def _width_problem(width: int, parts: int, dtype: DType, what: str) -> str:
    if not _divides(width, parts):
        return f"{parts} devices do not divide the {what} width {width}"
    if dtype is DType.FP8_BLOCK and parts > 1 and not _divides(width // parts, _BLOCK):
        return f"{what} width {width} over {parts} devices breaks the {_BLOCK}-wide scale blocks"
    return ""


def _ffn_problem(model: ModelSpec, parallel: Parallel, weight_dtype: DType | None) -> str:
    dense = weight_dtype or model.quantization.ffn
    experts = weight_dtype or model.quantization.experts
    for group in model.layers:
        ffn = group.layer.ffn
        if isinstance(ffn, DenseFfn):
            problem = _width_problem(ffn.intermediate, parallel.tp, dense, "feed-forward")
        elif isinstance(ffn, MoeFfn):
            if not _divides(ffn.num_experts, parallel.ep):
                return f"ep does not divide {ffn.num_experts} experts"
            problem = _width_problem(ffn.intermediate, parallel.moe_tp, experts, "expert")
        else:
            problem = ""
        if problem:
            return problem
    return ""


def why_not(model: ModelSpec, parallel: Parallel, weight_dtype: DType | None = None) -> str:
    """Why the model cannot be cut this way, or "" if it can."""
    group = parallel.tp * parallel.attention_dp
    if parallel.pp > model.num_layers:
        return f"more pipeline stages than {model.num_layers} layers"
    if not _divides(group, parallel.ep):
        return "ep does not divide the devices of a stage"
    if not has_experts(model):
        if parallel.ep > 1:
            return "expert parallelism of a model without experts"
        if parallel.attention_dp > 1:
            return "data-parallel attention without experts is the same as more replicas"
    return _mixer_problem(model, parallel.tp) or _ffn_problem(model, parallel, weight_dtype)


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
    node = site.nodes[0]
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

    Placed largest first. A replica larger than a node takes whole nodes of the largest size and
    the rest from one more; a smaller one sits on the node with the least room that suffices.
    """
    if sum(devices * count for devices, count in sizes) > site.num_devices:
        return False
    free = list(site.nodes)
    for devices, count in sorted(sizes, reverse=True):
        for _ in range(count):
            whole, rest = divmod(devices, site.nodes[0])
            for index, left in enumerate(free):
                if whole and left == site.nodes[0]:
                    free[index], whole = 0, whole - 1
            room = [(left, i) for i, left in enumerate(free) if left >= rest]
            if whole or (rest and not room):
                return False
            if rest:
                free[min(room)[1]] -= rest
    return True
