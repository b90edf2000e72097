"""Theoretical peak of serving long contexts: what 4K against 50K tokens costs, and why.

The cost model is ``cost/peak.py``, compressors ``cost/kv_transform.py``, sessions
``serving/simulate/session.py``; this file states claims and recomputes them.
Source: arXiv 2405.08944.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
    Within,
)
from plimsoll.catalog.floor_points import CpuFloor
from plimsoll.cost.kv_transform import KVTransform, grouped_bits
from plimsoll.cost.peak import PeakReport, peak
from plimsoll.serving.simulate.session import (
    SessionWorkload,
    session_costs,
    session_s,
    simulate_sessions,
)
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device, Link, PowerEnvelope
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.model import ModelSpec

__all__ = ["SYSTEM"]

_NOMINAL = 34e9
"""The paper counts the model as 34B parameters, all read and multiplied for every token."""


@functools.cache
def _model(num_kv_heads: int = 8) -> ModelSpec:
    """Yi-34B-200K from the fields of its published config.json."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 7168,
        "intermediate_size": 20480,
        "max_position_embeddings": 200000,
        "num_attention_heads": 56,
        "num_hidden_layers": 60,
        "num_key_value_heads": num_kv_heads,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 64000,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
    }
    return model_from_config(config, name="Yi-34B-200K", where="Yi-34B-200K config.json")


_A100 = Device(
    name="A100-80GB as the paper takes it",
    vendor="nvidia",
    family="ampere",
    memory_bytes=80 * 2**30,
    memory_bytes_per_s=2e12,
    peak_flops_per_s={DType.BF16: 312e12},
    host=Link(kind="pcie", bytes_per_s=20e9),
    power=PowerEnvelope(idle_w=50, peak_w=400),
    source="arXiv 2405.08944 section 2",
    as_of="2024-05",
)


def _at(context_tokens: int, **options: Any) -> PeakReport:
    model = _model(options.pop("num_kv_heads", 8))
    return peak(model, _A100, context_tokens, nominal_parameters=_NOMINAL, **options)


def _value(
    read: Callable[[PeakReport], float], context_tokens: int, **options: Any
) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        report = _at(context_tokens, **options)
        extra = "".join(f", {k} {v}" for k, v in options.items() if isinstance(v, int | str))
        return Measured(
            value=read(report), detail=f"{context_tokens:,} tokens, 34B parameters{extra}"
        )

    return compute


def _kv_gib(report: PeakReport) -> float:
    return report.kv_bytes / 2**30


_COMPRESSORS = (
    KVTransform(name="2 bits in groups of 32", bits_fraction=grouped_bits(2, group=32) / 16),
    KVTransform(name="one KV head", head_fraction=1 / 8),
    KVTransform(name="half of the layers", layer_fraction=0.5),
    KVTransform(name="a tenth of the tokens", token_fraction=0.1),
)


def _compressor_error(transforms_of: Callable[[KVTransform], tuple[KVTransform, ...]]) -> float:
    """Largest relative distance of a metric from its closed form, over all compressors."""
    plain, worst = _at(50_000), 0.0
    for transform in _COMPRESSORS:
        report = _at(50_000, transforms=transforms_of(transform))
        kv = plain.kv_bytes * transform.stored_fraction * transform.token_fraction
        expected = {
            report.kv_bytes: kv,
            report.decode_s: 250 * (plain.weights_bytes + kv) / 2e12,
            report.switch_s: 2 * kv / 20e9,
            report.prefill_s: plain.prefill_s,
            float(report.num_users): float(plain.free_bytes // kv),
        }
        worst = max(worst, *(abs(ours / theirs - 1) for ours, theirs in expected.items()))
    return worst


def _compressors(_: Context) -> Measured:
    return Measured(
        value=_compressor_error(lambda transform: (transform,)),
        detail="; ".join(t.name for t in _COMPRESSORS) + ": KV, decode, switch, prefill, users",
    )


def _no_compressors(_: Context) -> Measured:
    return Measured(value=_compressor_error(lambda _: ()), detail="nothing compressed")


def _one_user(_: Context) -> Measured:
    worst = 0.0
    for context in (4_000, 50_000):
        work = SessionWorkload(
            num_users=1, context_tokens=context, num_rounds=5, sessions_per_user=3
        )
        costs = session_costs(_model(), _A100, work, nominal_parameters=_NOMINAL)
        result = simulate_sessions(work, costs)
        closed_s = 3 * session_s(work, costs)
        worst = max(worst, abs(result.end_s / closed_s - 1))
    return Measured(value=worst, detail="3 sessions of 5 rounds at 4,000 and 50,000 tokens")


def _knee(link_bytes_per_s: float) -> Callable[[Context], Measured]:
    """Users at the highest throughput, less the closed-form count; the worst of three cases."""

    def compute(_: Context) -> Measured:
        device = replace(_A100, host=Link(kind="nvme", bytes_per_s=link_bytes_per_s))
        distances = []
        for context, devices in ((4_000, 1), (30_000, 1), (50_000, 2)):
            work = SessionWorkload(
                num_users=1,
                context_tokens=context,
                num_rounds=60,
                answer_tokens=10,
                followup_tokens=0,
                think_s=200.0,
            )
            costs = session_costs(
                _model(), device, work, nominal_parameters=_NOMINAL, num_devices=devices
            )
            users = range(1, costs.capacity + 8)
            rates = [
                simulate_sessions(replace(work, num_users=n), costs).rounds_per_s for n in users
            ]
            distances.append(float(users[rates.index(max(rates))] - costs.capacity))
        worst = max(distances, key=abs)
        link = f"link of {link_bytes_per_s / 1e9:g} GB/s"
        return Measured(value=worst, values=tuple(distances), detail=f"{link}, 200 s to read")

    return compute


def _link_slope(num_users: int) -> Callable[[Context], Measured]:
    """Growth of swapped bytes/s with the bytes/s of the link."""

    def compute(_: Context) -> Measured:
        work = SessionWorkload(
            num_users=num_users,
            context_tokens=4_000,
            num_rounds=60,
            answer_tokens=10,
            followup_tokens=0,
            think_s=5.0,
        )
        moved = []
        for link in (0.1e9, 0.4e9):
            device = replace(_A100, host=Link(kind="nvme", bytes_per_s=link))
            costs = session_costs(_model(), device, work, nominal_parameters=_NOMINAL)
            result = simulate_sessions(work, costs)
            moved.append(result.num_moves * costs.move_s * link / result.end_s)
        return Measured(
            value=(moved[1] - moved[0]) / 0.3e9, detail=f"{num_users} users, room for 18"
        )

    return compute


def _flops_ratio(attention: Any) -> Callable[[Context], Measured]:
    """Counted multiplies of a real forward pass over the formula's."""

    def compute(_: Context) -> Measured:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from plimsoll.catalog.plain_transformer import PlainTransformer, plain_spec

        spec = plain_spec(
            num_layers=3,
            hidden_size=128,
            num_heads=8,
            num_kv_heads=2,
            intermediate=384,
            vocab_size=512,
            max_context=512,
        )
        device = replace(_A100, peak_flops_per_s={DType.FP32: 1e12})
        ratios = []
        for tokens in (64, 256, 512):
            net = PlainTransformer(spec, explicit_scores=True)
            with FlopCounterMode(display=False) as counter:
                net.prefill(torch.arange(tokens) % 512, net.empty_cache(tokens))
            ours = peak(spec, device, tokens, attention=attention).prefill_flops
            ratios.append(counter.get_total_flops() / ours)
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        return Measured(value=worst, values=tuple(ratios), detail="64, 256 and 512 tokens")

    return compute


@functools.cache
def _cpu() -> CpuFloor:
    from plimsoll.catalog.cpu_floor import measure_cpu_floor

    return measure_cpu_floor()


def _detail(floor: CpuFloor) -> str:
    points = ", ".join(f"{p.metric} {p.context_tokens:,}: x{p.ratio:.2f}" for p in floor.points)
    return f"{floor.parameters / 1e6:.0f}M parameters, one thread; {points}"


def _floor(pick: Callable[..., float]) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        floor = _cpu()
        ratios = tuple(point.ratio for point in floor.points)
        return Measured(value=pick(ratios), values=ratios, detail=_detail(floor))

    return compute


def _growth(predicted: bool) -> Callable[[Context], Measured]:
    """Measured over predicted ratio of 8k to 1k; worst metric. Without prediction: over 1."""

    def compute(_: Context) -> Measured:
        floor = _cpu()
        found = []
        for metric in ("prefill", "decode", "swap"):
            short, long = floor.point(metric, 1024), floor.point(metric, 8192)
            measured = long.best_s / short.best_s
            found.append(floor.long_over_short(metric) if predicted else measured)
        worst = max(found, key=lambda ratio: abs(ratio - 1))
        return Measured(value=worst, values=tuple(found), detail="prefill, decode, swap")

    return compute


_CLAIMS = (
    Claim(id="kv-4k", text="KV cache of 4K tokens", value=0.91, unit="GiB", where="section 2"),
    Claim(id="kv-50k", text="KV cache of 50K tokens", value=11.4, unit="GiB", where="section 2"),
    Claim(id="kv-100k", text="KV cache of 100K tokens", value=22.8, unit="GiB", where="section 2"),
    Claim(id="users-4k", text="Users at once at 4K", value=20.0, unit="users", where="section 2"),
    Claim(id="users-50k", text="Users at once at 50K", value=1.0, unit="users", where="section 2"),
    Claim(id="prefill-4k", text="Prefill of 4K tokens", value=0.89, unit="s", where="section 2"),
    Claim(id="prefill-50k", text="Prefill of 50K tokens", value=14.1, unit="s", where="section 2"),
    Claim(id="decode-4k", text="250 tokens at 4K", value=8.5, unit="s", where="section 2"),
    Claim(id="decode-50k", text="250 tokens at 50K", value=9.8, unit="s", where="section 2"),
    Claim(id="switch-4k", text="Context switch at 4K", value=0.1, unit="s", where="section 2"),
    Claim(id="switch-50k", text="Context switch at 50K", value=1.1, unit="s", where="section 2"),
    Claim(id="peak", text="Peaks bound what real systems reach, and predict how context scales"),
    Claim(id="sessions", text="Session throughput follows users, link and compute together"),
    Claim(id="parallel", text="Tensor parallelism raises users more than linearly"),
    Claim(
        id="compressors", text="Compression of layers, heads, tokens or bits scales all but some"
    ),
)

_DECODE_4K = _value(lambda r: r.decode_s, 4_000)
_SWITCH_4K = _value(lambda r: r.switch_s, 4_000)

_CHECKS = (
    Check(
        claim="kv-4k",
        title="KV of one user, from config.json",
        how="derived",
        band=Within(0.01),
        compute=_value(_kv_gib, 4_000),
        unit="GiB",
        ablation=_value(_kv_gib, 4_000, num_kv_heads=56, num_devices=8),
        ablation_title="a KV head for every query head",
    ),
    Check(
        claim="kv-50k",
        title="KV of one user, from config.json",
        how="derived",
        band=Within(0.01),
        compute=_value(_kv_gib, 50_000),
        unit="GiB",
    ),
    Check(
        claim="kv-100k",
        title="KV of one user, from config.json",
        how="derived",
        band=Within(0.01),
        compute=_value(_kv_gib, 100_000),
        unit="GiB",
    ),
    Check(
        claim="users-4k",
        title="floor of 80 GiB less 34B weights over KV, true units",
        how="derived",
        band=Within(0.12),
        compute=_value(lambda r: float(r.num_users), 4_000),
        unit="users",
    ),
    Check(
        claim="users-50k",
        title="floor of 80 GiB less 34B weights over KV, true units",
        how="derived",
        band=Within(0.0),
        compute=_value(lambda r: float(r.num_users), 50_000),
        unit="users",
        ablation=_value(lambda r: float(r.num_users), 50_000, transforms=_COMPRESSORS[1:2]),
        ablation_title="cache of one KV head",
    ),
    Check(
        claim="prefill-4k",
        title="prefill that counts a quarter of the pairs (c = 1)",
        how="derived",
        band=Within(0.02),
        fitted_on="c = 1 was read off the printed 50K prefill",
        compute=_value(lambda r: r.prefill_s, 4_000, attention="paper"),
        unit="s",
        ablation=_value(lambda r: r.prefill_s, 4_000),
        ablation_title="exact causal count (c = 2)",
    ),
    Check(
        claim="prefill-50k",
        title="prefill that counts a quarter of the pairs (c = 1)",
        how="derived",
        band=Report("c = 1 was read off this very number, so that agreement shows nothing"),
        compute=_value(lambda r: r.prefill_s, 50_000, attention="paper"),
        unit="s",
    ),
    Check(
        claim="prefill-50k",
        title="prefill with the exact causal count (c = 2)",
        how="derived",
        band=Report("the printed time needs c = 1; causal attention multiplies twice that"),
        compute=_value(lambda r: r.prefill_s, 50_000),
        unit="s",
    ),
    Check(
        claim="prefill-50k",
        title="prefill with all pairs, masked ones too (c = 4)",
        how="derived",
        band=Report("the printed time needs c = 1; a kernel that skips nothing multiplies four"),
        compute=_value(lambda r: r.prefill_s, 50_000, attention="full"),
        unit="s",
    ),
    Check(
        claim="decode-4k",
        title="weights and KV over bandwidth, decimal units",
        how="derived",
        band=Within(0.03),
        compute=_DECODE_4K,
        unit="s",
    ),
    Check(
        claim="decode-50k",
        title="weights and KV over bandwidth, decimal units",
        how="derived",
        band=Within(0.03),
        compute=_value(lambda r: r.decode_s, 50_000),
        unit="s",
        ablation=_DECODE_4K,
        ablation_title="the KV of 4,000 tokens",
    ),
    Check(
        claim="switch-4k",
        title="KV out and in over the host link",
        how="derived",
        band=Within(0.12),
        compute=_SWITCH_4K,
        unit="s",
    ),
    Check(
        claim="switch-50k",
        title="KV out and in over the host link",
        how="derived",
        band=Within(0.12),
        compute=_value(lambda r: r.switch_s, 50_000),
        unit="s",
        ablation=_SWITCH_4K,
        ablation_title="the KV of 4,000 tokens",
    ),
    Check(
        claim="peak",
        title="counted FLOPs of a real prefill over the formula",
        how="run",
        band=Between(0.99, 1.01),
        compute=_flops_ratio("full"),
        ablation=_flops_ratio("paper"),
        ablation_title="a quarter of the pairs counted",
    ),
    Check(
        claim="peak",
        title="fastest measured pass over its predicted peak, least of six",
        how="run",
        band=AtLeast(1.0),
        compute=_floor(min),
        slow=True,
    ),
    Check(
        claim="peak",
        title="fastest measured pass over its predicted peak, largest of six",
        how="run",
        band=AtMost(3.0),
        compute=_floor(max),
        slow=True,
    ),
    Check(
        claim="peak",
        title="growth from 1k to 8k tokens, measured over predicted, worst metric",
        how="run",
        band=Between(0.7, 1.3),
        compute=_growth(predicted=True),
        ablation=_growth(predicted=False),
        ablation_title="a prediction that ignores context",
        slow=True,
    ),
    Check(
        claim="sessions",
        title="one user without reading time against the closed form",
        how="simulated",
        band=AtMost(1e-12),
        compute=_one_user,
    ),
    Check(
        claim="sessions",
        title="users at the throughput knee, less the closed-form count",
        how="simulated",
        band=Between(-1.0, 1.0),
        compute=_knee(0.05e9),
        unit="users",
        ablation=_knee(500e9),
        ablation_title="a link so fast that swapping is free",
    ),
    Check(
        claim="sessions",
        title="swapped bytes/s against bytes/s of the link, slope",
        how="simulated",
        band=Between(0.95, 1.05),
        compute=_link_slope(40),
        ablation=_link_slope(18),
        ablation_title="no more users than fit",
    ),
    Check(
        claim="parallel",
        title="users at 50K on two devices",
        how="derived",
        band=Between(8.0, 8.0),
        compute=_value(lambda r: float(r.num_users), 50_000, num_devices=2),
        unit="users",
        ablation=_value(lambda r: float(r.num_users), 50_000),
        ablation_title="one device",
    ),
    Check(
        claim="compressors",
        title="largest distance of any metric from its closed form",
        how="derived",
        band=AtMost(1e-9),
        compute=_compressors,
        ablation=_no_compressors,
        ablation_title="compressors off",
    ),
)

SYSTEM = System(
    id="long-context-peak",
    title="Theoretical peak of serving long contexts",
    arxiv="2405.08944",
    family="memory",
    summary=(
        "Users, prefill, decode and context switch each have one hardware limit; all that a long "
        "context costs more traces to the size of its KV cache"
    ),
    claims=_CLAIMS,
    rooms=(
        "cost/peak.py",
        "cost/kv_transform.py",
        "cost/kv.py",
        "serving/simulate/session.py",
    ),
    checks=_CHECKS,
    not_reproduced={
        "prefill-50k": "14.1 s needs a quarter of all (query, key) pairs; exact causal attention "
        "multiplies half of them, which takes longer at the same peak"
    },
)
