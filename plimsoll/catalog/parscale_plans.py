"""ParScale in serving plans: KV in blocks, steps against the paper's roofline, whole runs.

The published shapes as models of the simulator (36 layers, 16 heads, 2 with KV, tied embedding):
1.6 B with one and with eight streams, and the dense model of equal loss. A run is a closed loop of
as many requests in flight as the batch says, lengths 64 to 512 in and out, on one A100.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.catalog.contract import AtMost, Between, Check, Context, Measured
from plimsoll.catalog.parscale_published import BASE, STREAMS, dense_of_equal_loss, shape_of
from plimsoll.cost.kv import kv_bytes, kv_bytes_per_token
from plimsoll.cost.memory import kv_capacity
from plimsoll.cost.parallel import StreamShape, parscale_cost
from plimsoll.cost.step import replica_clock
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.model import Attention, DenseFfn, Layer, LayerGroup, ModelSpec
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from plimsoll.spec.streams import PREFIX_TOKENS, with_streams
from plimsoll.spec.workload import Workload

__all__ = ["PLAN_CHECKS"]

_DEVICE = "A100-SXM-80"
_KV_LENGTHS = (1, 15, 16, 17, 500, 4096)
_LENGTHS = (64, 128, 256, 512)
_REQUESTS = 200
_HEADS, _KV_HEADS = 16, 2
_HEAVY = frozenset(
    {
        "qkv",
        "attention-out",
        "ffn",
        "attention-decode",
        "attention-prefill",
        "weigh-streams",
        "lm-head",
    }
)
"""Operators that the paper's roofline counts."""


def _model_of(shape: StreamShape) -> ModelSpec:
    """The shape as a model, its widths rounded so that heads divide them."""
    head = round(shape.hidden / _HEADS)
    mixer = Attention(num_heads=_HEADS, num_kv_heads=_KV_HEADS, head_dim=head, qkv_bias=True)
    layer = Layer(mixer=mixer, ffn=DenseFfn(intermediate=round(shape.ffn)))
    return ModelSpec(
        name=f"parscale {shape.parameters() / 1e9:.2f}B",
        hidden_size=_HEADS * head,
        vocab_size=shape.vocab,
        max_context=32_768,
        layers=(LayerGroup(count=shape.num_layers, layer=layer),),
        tied_embeddings=True,
    )


def _kv_mismatches(base: ModelSpec, *, prefixes: bool = True) -> tuple[int, int]:
    """(differing, all) counts of P·(length + 48) positions against the simulator's bytes and
    blocks; ``prefixes`` False counts P sequences of the plain model instead."""
    device, wrong, total = load_device(_DEVICE), 0, 0
    token_bytes = kv_bytes_per_token(base, DType.BF16)
    for p in STREAMS:
        model = with_streams(base, p)
        capacity = kv_capacity(model if prefixes else base, device, Parallel())
        before = PREFIX_TOKENS if p > 1 else 0
        for length in _KV_LENGTHS:
            held = kv_bytes(model, length, DType.BF16)
            if not prefixes:
                held = p * kv_bytes(base, length, DType.BF16)
            block = p * capacity.block_tokens
            whole = -(-length // capacity.block_tokens) * capacity.block_tokens
            wrong += held != p * (length + before) * token_bytes
            wrong += capacity.blocks_for(length) * block != p * (whole + before)
            total += 2
    return wrong, total


def _roofline_gaps(base: ModelSpec, shape: StreamShape) -> dict[str, float]:
    """Relative differences of a decode step and of a prompt, batch 1 and 1,000 tokens, by P:
    the simulator's operators at 0.7 of arithmetic and 0.9 of bandwidth, no launches and no light
    operators, against ``parscale_cost``."""
    device = load_device(_DEVICE)
    flops_per_s = 0.7 * device.flops_per_s(DType.BF16)
    bytes_per_s = 0.9 * device.memory_bytes_per_s
    found = {}
    for p in STREAMS:
        clock = replica_clock(with_streams(base, p), device, Parallel())
        cost = parscale_cost(shape, device, streams=p, batch=1, prompt_tokens=999, output_tokens=1)
        steps = {
            "decode": (clock.step_ops((), 1, 1000), cost.decode_s),
            "prompt": (clock.step_ops(((999, 0),), 0, 0), cost.prefill_s),
        }
        for name, (ops, paper_s) in steps.items():
            ours_s = sum(
                max(op.flops / flops_per_s, op.bytes / bytes_per_s)
                for op in ops
                if op.name in _HEAVY
            )
            found[f"{name} {p}"] = abs(ours_s / paper_s - 1)
    return found


def _workload(in_flight: int) -> Workload:
    lengths = np.array([(a, b) for a in _LENGTHS for b in _LENGTHS])
    rows = np.resize(np.arange(len(lengths)), _REQUESTS)
    return Workload(
        name="lengths 64 to 512",
        arrival_s=np.zeros(_REQUESTS),
        prompt_tokens=lengths[rows, 0],
        output_tokens=lengths[rows, 1],
        num_in_flight=in_flight,
    )


def _mean_token_s(model: ModelSpec, in_flight: int) -> float:
    """Seconds of a request over its tokens out, mean over a run."""
    plan = ServingPlan(
        model="parscale",
        fleet=f"1x{_DEVICE}",
        streams=model.streams,
        pools=(Pool(device=_DEVICE, prefix_caching=False),),
    )
    record = simulate_plan(plan, model, parse_fleet(plan.fleet), _workload(in_flight))
    r = record.requests
    return float((r.e2e_s[r.ok] / r.output_tokens[r.ok]).mean())


def _tpot_increase(
    base: ModelSpec, dense: ModelSpec, in_flight: int, *, streams: int = 8, shared: bool = True
) -> tuple[float, str]:
    """(what the larger model adds to the time of a token over what streams add, in words).
    ``shared`` False: P models, each with weights of its own, in place of streams."""
    one = _mean_token_s(base, in_flight)
    larger = _mean_token_s(dense, in_flight)
    many = _mean_token_s(with_streams(base, streams), in_flight) if shared else streams * one
    words = (
        f"{one * 1e3:.2f} ms a token, {larger * 1e3:.2f} larger, {many * 1e3:.2f} {streams}-fold"
    )
    return (larger - one) / (many - one), words


def _kv(prefixes: bool) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        wrong, total = _kv_mismatches(_model_of(shape_of(BASE)), prefixes=prefixes)
        return Measured(value=float(wrong), detail=f"of {total} counts, in bytes and in blocks")

    return compute


def _roofline(_: Context) -> Measured:
    shape = shape_of(BASE)
    found = _roofline_gaps(_model_of(shape), shape)
    worst = max(found, key=lambda name: found[name])
    return Measured(
        value=found[worst],
        values=tuple(found.values()),
        detail=f"worst of {len(found)}: {worst}; what is left is activations moved",
    )


def _token_time(in_flight: int, shared: bool = True) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        base, dense = (_model_of(one) for one in (shape_of(BASE), dense_of_equal_loss()))
        value, words = _tpot_increase(base, dense, in_flight, shared=shared)
        return Measured(value=value, detail=f"{in_flight} in flight: {words}")

    return compute


PLAN_CHECKS = (
    Check(
        claim="memory",
        title="plans: counts of P(length + 48) positions that the simulator misses",
        how="derived",
        band=AtMost(0),
        compute=_kv(prefixes=True),
        ablation=_kv(prefixes=False),
        ablation_title="P sequences of the plain model",
    ),
    Check(
        claim="latency",
        title="plans: a simulated step without overheads, off the paper's roofline by at most",
        how="simulated",
        band=AtMost(0.01),
        compute=_roofline,
    ),
    Check(
        claim="latency",
        title="plans, one in flight: time of a token added by the larger model over 8 streams",
        how="simulated",
        band=Between(3, 10),
        compute=_token_time(1),
        unit="x",
        ablation=_token_time(1, shared=False),
        ablation_title="eight models in place of eight streams",
    ),
    Check(
        claim="latency",
        title="plans, 16 in flight: the same, streams now the dearer",
        how="simulated",
        band=AtMost(1),
        compute=_token_time(16),
        unit="x",
    ),
)
