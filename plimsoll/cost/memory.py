"""What fills a device: weights, activations, graphs, runtime reserve, and the rest is KV.

Weights are exact: every matrix of the device's pipeline stage, cut as ``cost/cut.py`` says.
Activations are the larger of two moments: the widest layer at ``max_batched_tokens`` tokens, or
the sampler at ``max_num_seqs`` rows of logits; parallel streams hold each token as many times.
Graphs and runtime reserve are constants, in ``library/memory.yaml``, marked modeled, with their
source. ``memory_fraction`` means what vLLM means by it: weights, activations, graphs, reserve and
KV together stay within that share of the device's memory. Left out: fragmentation, and weights of
draft models.

KV capacity is that of the pipeline stage with the least room. With attention data parallelism
each rank holds its own requests, and the capacity is the sum over ranks.
"""

import functools
import importlib.resources
import math
from dataclasses import dataclass

import yaml

from plimsoll.cost.cut import check_parallel, stage_groups, stage_weight_bytes
from plimsoll.cost.kv import mixer_cache
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    StateSpace,
)
from plimsoll.spec.parameters import with_weight_dtype
from plimsoll.spec.plan import Parallel
from plimsoll.spec.streams import PREFIX_TOKENS, check_streams

__all__ = [
    "Footprint",
    "KvCapacity",
    "footprint",
    "kv_capacity",
    "max_context",
    "stage_footprints",
]

_UNBOUNDED_BLOCKS = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on one device by part, against ``limit_bytes``, the share the engine may take.

    ``kv_budget_bytes`` is what is left for KV and states, 0 if nothing is. Weights and the KV
    budget are derived from shapes; activations, graphs and reserve are modeled.
    """

    weights_bytes: float
    activations_bytes: float
    graphs_bytes: float
    reserve_bytes: float
    limit_bytes: float

    @property
    def needed_bytes(self) -> float:
        """Everything but KV."""
        return self.weights_bytes + self.activations_bytes + self.graphs_bytes + self.reserve_bytes

    @property
    def kv_budget_bytes(self) -> float:
        """What is left for KV and states."""
        return max(0.0, self.limit_bytes - self.needed_bytes)

    @property
    def shortfall_bytes(self) -> float:
        """By how much the parts exceed the limit before any KV, 0 if they do not."""
        return max(0.0, self.needed_bytes - self.limit_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCapacity:
    """How much cache one replica holds, in blocks of ``block_tokens`` tokens.

    A request of n tokens takes ``ceil(n / block_tokens) + blocks_per_request`` blocks; the
    second term stands for its windows, states and streams' prefixes. With streams a block holds
    its tokens in all of them. ``num_blocks`` is the sum over ``num_ranks``
    attention-data-parallel ranks; a request lives on one of them.
    """

    num_blocks: int
    block_tokens: int
    blocks_per_request: int
    num_ranks: int = 1

    @property
    def num_tokens(self) -> int:
        """Tokens that all blocks hold."""
        return self.num_blocks * self.block_tokens

    @property
    def max_request_tokens(self) -> int:
        """Tokens of the longest request that fits alone on a rank."""
        free = self.num_blocks // self.num_ranks - self.blocks_per_request
        return max(0, free) * self.block_tokens

    def blocks_for(self, tokens: int) -> int:
        """Blocks that a request of ``tokens`` tokens takes."""
        return -(-tokens // self.block_tokens) + self.blocks_per_request

    def max_concurrency(self, tokens: int) -> int:
        """Requests of ``tokens`` tokens that fit at once."""
        per_rank = self.num_blocks // self.num_ranks
        return self.num_ranks * (per_rank // max(1, self.blocks_for(tokens)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Constants:
    sampler_bytes_per_logit: float
    residual_copies: float
    activation_bytes: float
    graph_base_bytes: float
    graph_layer_bytes: float
    runtime_bytes: float
    communication_bytes: float


@functools.cache
def _constants() -> _Constants:
    path = importlib.resources.files("plimsoll") / "library" / "memory.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe
    return _Constants(**{k: v for k, v in content.items() if isinstance(v, float)})


def _layer_width(layer: Layer, parallel: Parallel, hidden: int) -> float:
    """Values a token that the widest moment of a layer keeps beside the hidden state."""
    mixer, ffn, tp = layer.mixer, layer.ffn, parallel.tp
    width = 0.0
    if isinstance(mixer, Attention):
        v_dim = mixer.v_head_dim or mixer.head_dim
        kv_heads = -(-mixer.num_kv_heads // tp)
        gate = 1 if mixer.output_gate else 0
        width = mixer.num_heads / tp * (mixer.head_dim + (1 + gate) * v_dim)
        width += kv_heads * (mixer.head_dim + v_dim)
    elif isinstance(mixer, LatentAttention):
        qk = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
        width = mixer.num_heads / tp * (2 * qk + 2 * mixer.v_head_dim)
        width += mixer.q_lora_rank + mixer.kv_lora_rank + mixer.qk_rope_head_dim
    elif isinstance(mixer, LinearAttention):
        keys, values = mixer.num_k_heads * mixer.head_k_dim, mixer.num_v_heads * mixer.head_v_dim
        width = 2 * (2 * keys + 2 * values) / tp
    elif isinstance(mixer, StateSpace):
        width = 4 * mixer.num_heads * mixer.head_dim / tp
        width += 2 * mixer.num_groups * mixer.state_size
    inner = 0.0
    if isinstance(ffn, DenseFfn):
        inner = (3 if ffn.gated else 2) * ffn.intermediate / tp
    elif isinstance(ffn, MoeFfn):
        copies = 3 if ffn.gated else 2
        routed = ffn.top_k * (copies * ffn.intermediate / parallel.moe_tp + hidden)
        inner = routed / parallel.ep + copies * ffn.shared_intermediate / tp
    return max(width, inner)


def _activation_bytes(
    model: ModelSpec,
    stage: list[tuple[int, Layer]],
    parallel: Parallel,
    *,
    max_batched_tokens: int,
    max_num_seqs: int,
    is_last: bool,
) -> float:
    constants = _constants()
    max_batched_tokens *= model.streams
    widest = max(
        (_layer_width(layer, parallel, model.hidden_size) for _, layer in stage), default=0.0
    )
    values = constants.residual_copies * model.hidden_size + widest
    layers = max_batched_tokens * values * constants.activation_bytes
    rows = (
        min(max_num_seqs, max_batched_tokens // model.streams) / parallel.attention_dp
        if is_last
        else 0
    )
    return max(layers, rows * model.vocab_size * constants.sampler_bytes_per_logit)


def stage_footprints(
    model: ModelSpec,
    device: Device,
    parallel: Parallel,
    *,
    weight_dtype: DType | None = None,
    memory_fraction: float = 0.9,
    max_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
) -> tuple[Footprint, ...]:
    """The footprint of one device of each pipeline stage.

    Raises:
        SpecError: the model cannot be cut like this.
    """
    check_parallel(model, parallel)
    check_streams(model)
    stored = with_weight_dtype(model, weight_dtype)
    constants = _constants()
    stages = stage_groups(stored, parallel.pp)
    weights = stage_weight_bytes(stored, parallel)
    several = parallel.num_devices > 1
    return tuple(
        Footprint(
            weights_bytes=weights[index],
            activations_bytes=_activation_bytes(
                stored,
                stage,
                parallel,
                max_batched_tokens=max_batched_tokens,
                max_num_seqs=max_num_seqs,
                is_last=index == len(stages) - 1,
            ),
            graphs_bytes=constants.graph_base_bytes
            + constants.graph_layer_bytes * sum(count for count, _ in stage),
            reserve_bytes=constants.runtime_bytes
            + (constants.communication_bytes if several else 0.0),
            limit_bytes=memory_fraction * device.memory_bytes,
        )
        for index, stage in enumerate(stages)
    )


def footprint(
    model: ModelSpec,
    device: Device,
    parallel: Parallel,
    *,
    weight_dtype: DType | None = None,
    memory_fraction: float = 0.9,
    max_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
) -> Footprint:
    """The footprint of the fullest device of a replica, before KV.

    ``weight_dtype`` None: as the checkpoint stores them.

    Raises:
        SpecError: the model cannot be cut like this.
    """
    stages = stage_footprints(
        model,
        device,
        parallel,
        weight_dtype=weight_dtype,
        memory_fraction=memory_fraction,
        max_batched_tokens=max_batched_tokens,
        max_num_seqs=max_num_seqs,
    )
    return max(stages, key=lambda stage: stage.needed_bytes)


def _stage_cache(
    stage: list[tuple[int, Layer]], kv_dtype: DType, tp: int, context_tokens: int, streams: int
) -> tuple[float, float]:
    """(bytes a token, bytes a request) of a stage on one device, in all streams."""
    grows = fixed = 0.0
    for count, layer in stage:
        cache = mixer_cache(layer.mixer, kv_dtype, tp)
        grows += count * cache.growth_bytes_per_token
        bound = min(cache.bound_tokens, context_tokens) if context_tokens else cache.bound_tokens
        fixed += count * (cache.fixed_bytes + cache.bounded_token_bytes * bound)
    if streams > 1:
        return streams * grows, streams * (fixed + PREFIX_TOKENS * grows)
    return grows, fixed


def kv_capacity(
    model: ModelSpec,
    device: Device,
    parallel: Parallel,
    *,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    memory_fraction: float = 0.9,
    max_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    block_tokens: int = 16,
    context_tokens: int = 0,
) -> KvCapacity:
    """How many blocks of KV one replica holds; 0 where the weights alone do not fit.

    ``kv_dtype`` None: as the checkpoint says. ``context_tokens``: requests are about this
    long, so that windows longer than that are counted at that length; 0 counts them full. A
    model whose cache does not grow has one block a request, as long as its context.

    Raises:
        SpecError: the model cannot be cut like this.
    """
    stages = stage_footprints(
        model,
        device,
        parallel,
        weight_dtype=weight_dtype,
        memory_fraction=memory_fraction,
        max_batched_tokens=max_batched_tokens,
        max_num_seqs=max_num_seqs,
    )
    cached = kv_dtype or model.quantization.kv_cache
    caches = [
        _stage_cache(stage, cached, parallel.tp, context_tokens, model.streams)
        for stage in stage_groups(model, parallel.pp)
    ]
    budgets = [stage.kv_budget_bytes for stage in stages]
    pairs = list(zip(budgets, caches, strict=True))
    ranks = parallel.attention_dp
    if all(grows == 0 for grows, _ in caches):
        requests = min(
            (int(budget // fixed) for budget, (_, fixed) in pairs if fixed),
            default=_UNBOUNDED_BLOCKS,
        )
        return KvCapacity(
            num_blocks=requests * ranks,
            block_tokens=model.max_context,
            blocks_per_request=0,
            num_ranks=ranks,
        )
    blocks = min(int(budget // (grows * block_tokens)) for budget, (grows, _) in pairs if grows)
    per_request = 0
    for budget, (grows, fixed) in pairs:
        if fixed and grows:
            per_request = max(per_request, math.ceil(fixed / (grows * block_tokens)))
        elif fixed:
            requests = int(budget // fixed)
            if not requests:
                blocks = 0
                continue
            per_request = max(per_request, math.ceil(blocks / requests))
    return KvCapacity(
        num_blocks=blocks * ranks,
        block_tokens=block_tokens,
        blocks_per_request=per_request,
        num_ranks=ranks,
    )


def max_context(capacity: KvCapacity, model: ModelSpec) -> int:
    """The longest context one request can have: what fits, and what the model was made for."""
    return min(capacity.max_request_tokens, model.max_context)
