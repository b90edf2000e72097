"""Kinetics: test-time scaling when KV traffic is paid for.

Mechanism in ``cost/testtime.py`` (equivalent FLOPs of long generations, dense and sparse) and
``laws/testtime.py`` (pass@n of measured generations, frontiers, budgets). The arithmetic is
recomputed for the Qwen3 family; that choices change with it is shown on a fixed made-up table.
Source: arXiv 2506.05333.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
    Within,
)
from plimsoll.catalog.kinetics_setting import qwen3_shapes, table
from plimsoll.cost.testtime import (
    B200_INTENSITY,
    DecodeShape,
    eflops_dense,
    eflops_sparse,
    read_positions,
)
from plimsoll.laws.testtime import Choice, cheapest, choices
from plimsoll.spec.errors import UnsupportedError

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_PROMPT, _TOKENS = 256, 32_768
_BUDGET = 1024
_LIMITS = (4096, 8192, 16_384, 32_768)
_TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_TABLE = {
    "0.6b": (174, 35_176, 47, 16.0),
    "1.7b": (258, 35_176, 126, 15.5),
    "4b": (585, 45_226, 194, 15.1),
    "8b": (858, 45_226, 395, 13.9),
    "14b": (1_415, 50_251, 641, 12.7),
    "32b": (3_291, 80_402, 889, 11.8),
}
"""Claims by size: TFLOPs, TeFLOPs of traffic, tokens at which both parts are equal, and how many
times less a budget of 1,024 costs."""


def _of(size: str, value: Callable[[DecodeShape], float], detail: str) -> Compute:
    return lambda _: Measured(value=value(qwen3_shapes()[size]), detail=detail)


def _tflops(shape: DecodeShape) -> float:
    cost = eflops_dense(shape, prompt_tokens=_PROMPT, tokens=_TOKENS)
    return float(cost.flops) / 1e12


def _traffic(shape: DecodeShape) -> float:
    cost = eflops_dense(shape, prompt_tokens=_PROMPT, tokens=_TOKENS)
    return B200_INTENSITY * float(cost.bytes) / 1e12


def _equal_tokens(shape: DecodeShape) -> float:
    """Length at which traffic costs what the weights' multiplies do, without a prompt."""
    low, high = 1.0, 1e6
    while high - low > 1e-3:
        tokens = (low + high) / 2
        moved = eflops_dense(shape, prompt_tokens=0, tokens=tokens).bytes
        if B200_INTENSITY * float(moved) < 2 * shape.params * tokens:
            low = tokens
        else:
            high = tokens
    return low


def _sparse_gain(shape: DecodeShape) -> float:
    dense = eflops_dense(shape, prompt_tokens=_PROMPT, tokens=_TOKENS)
    sparse = eflops_sparse(shape, prompt_tokens=_PROMPT, tokens=_TOKENS, kv_budget=_BUDGET)
    return float(dense.eflops(B200_INTENSITY) / sparse.eflops(B200_INTENSITY))


def _overspent(spend_intensity: float) -> Compute:
    """At how many of seven accuracies the choice by FLOPs alone costs 1.5 to 4 times more eFLOPs
    than the choice by eFLOPs at that intensity."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            found = choices(table(seed), trials=range(1, 33), limits=_LIMITS)
            pairs = [
                (
                    cheapest(found, target, intensity=0.0),
                    cheapest(found, target, intensity=spend_intensity),
                )
                for target in _TARGETS
            ]
            ratios = [
                by_flops.eflops(spend_intensity) / best.eflops(spend_intensity)
                for by_flops, best in pairs
            ]
            values.append(float(sum(1.5 <= ratio <= 4 for ratio in ratios)))
            lines.append(
                ", ".join(
                    f"{target:g}: {_named(by_flops)} against {_named(best)} {ratio:.2f}x"
                    for target, ratio, (by_flops, best) in zip(_TARGETS, ratios, pairs, strict=True)
                )
            )
        return Measured(value=min(values), values=tuple(values), detail=lines[0])

    return compute


def _named(one: Choice) -> str:
    return f"{one.trials} x {one.model.removeprefix('qwen3-')}"


def _sum_gap(sign: float) -> Compute:
    """Largest distance of the closed form from the sum over steps, relative; ``sign`` −1 is the
    one here, +1 that of the published code."""

    def compute(context: Context) -> Measured:
        worst = 0.0
        short = 0
        for seed in context.seeds:
            rng = np.random.default_rng(seed)
            for _ in range(1000):
                prompt, tokens, budget = (int(rng.integers(1, 3000)) for _ in range(3))
                steps = np.minimum(budget, prompt + np.arange(tokens) + 0.5)
                missing = max(0, budget - prompt)
                short += tokens < missing
                closed = float(read_positions(prompt, tokens, budget))
                if sign > 0 and tokens >= missing:
                    closed += missing**2
                worst = max(worst, abs(closed / steps.sum() - 1))
        return Measured(
            value=worst,
            detail=f"{1000 * len(context.seeds):,} random prompts, lengths and budgets up to "
            f"3,000, {short} that end before the budget is reached",
        )

    return compute


def _decode_steps(value: str) -> Compute:
    """Middle of the seeds; each is a measurement of all settings anew."""

    def compute(context: Context) -> Measured:
        try:
            from plimsoll.catalog.kinetics_real import step_fit
        except ImportError as error:
            raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
        found = [step_fit(seed=seed) for seed in context.seeds]
        values = tuple(float(getattr(one, value)) for one in found)
        small, large = found[0].num_params
        return Measured(
            value=float(np.median(values)),
            values=values,
            detail=f"{small / 1e6:.1f} M and {large / 1e6:.1f} M parameters, equal KV width, batch "
            f"16, caches of 256 to 8,192, fp32 on one thread; {found[0].intensity:.1f} FLOPs in "
            "the time of a byte",
        )

    return compute


def _tiny(value: str, **options: bool) -> Compute:
    """What ``kinetics_equal_cost`` measures."""

    def compute(context: Context) -> Measured:
        try:
            from plimsoll.catalog import kinetics_equal_cost
        except ImportError as error:
            raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
        measured: Measured = getattr(kinetics_equal_cost, value)(context, **options)
        return measured

    return compute


_CLAIMS = (
    Claim(
        id="overspend",
        text="Choices that are optimal by FLOPs cost up to 3 times more than those that pay for KV",
        value=3.0,
        unit="x",
        setup="Qwen3 0.6 to 32 B, AIME24",
        where="section 4",
    ),
    Claim(
        id="sparse",
        text="Sparse attention gains over 60 points at low cost and over 5 at high cost",
        value=60.0,
        unit="points",
        setup="Qwen3, AIME24 and 25",
        where="abstract",
    ),
    Claim(
        id="sum",
        text="A budget of B positions reads B·L − (B − c)²/2 of them in all",
        where="cost model",
    ),
    Claim(
        id="room",
        text="Block top-k with a budget no smaller than the length is dense attention",
    ),
    Claim(id="time", text="Time of a decode step follows arithmetic and KV traffic"),
    *(
        Claim(
            id=f"{what}-{size}",
            text=text.format(size=size.upper()),
            value=float(_TABLE[size][at]),
            unit=unit,
            setup="prompt 256, 32,768 tokens, one trial, 562.5 FLOPs a byte",
        )
        for size in _TABLE
        for at, (what, text, unit) in enumerate(
            (
                ("flops", "Arithmetic of a generation, Qwen3-{size}", "TFLOPs"),
                ("traffic", "Its KV traffic as FLOPs, Qwen3-{size}", "TFLOPs"),
                ("equal", "Tokens at which both are equal, no prompt, Qwen3-{size}", "tokens"),
                ("budget", "What a budget of 1,024 positions saves, Qwen3-{size}", "x"),
            )
        )
    ),
)


def _table_checks() -> list[Check]:
    found = []
    for size in _TABLE:
        for what, value, fraction, title in (
            ("flops", _tflops, 0.005, "arithmetic"),
            ("traffic", _traffic, 0.005, "KV traffic"),
            ("equal", _equal_tokens, 0.011, "tokens at which both are equal"),
            ("budget", _sparse_gain, 0.005, "saved by a budget of 1,024 positions"),
        ):
            found.append(
                Check(
                    claim=f"{what}-{size}",
                    title=f"Qwen3-{size.upper()}: {title}",
                    how="derived",
                    band=Within(fraction),
                    compute=_of(size, value, "from the shape of the model"),
                )
            )
    return found


_CHECKS = (
    *_table_checks(),
    Check(
        claim="overspend",
        title="of 7 accuracies, those at which the choice by FLOPs costs 1.5 to 4 times more",
        how="simulated",
        band=AtLeast(3),
        compute=_overspent(B200_INTENSITY),
        ablation=_overspent(0.0),
        ablation_title="bytes cost nothing",
    ),
    Check(
        claim="sum",
        title="closed form against the sum over steps, relative",
        how="derived",
        band=AtMost(1e-12),
        compute=_sum_gap(-1.0),
        ablation=_sum_gap(1.0),
        ablation_title="half the square added, as in the published code",
    ),
    Check(
        claim="time",
        title="decode steps of two models here: R2 of arithmetic plus traffic",
        how="run",
        band=AtLeast(0.97),
        compute=_decode_steps("r2"),
        ablation=_decode_steps("flops_only_r2"),
        ablation_title="arithmetic alone",
        slow=True,
        timed=True,
    ),
    Check(
        claim="time",
        title="time at a length held out, larger error of the two models",
        how="run",
        band=AtMost(0.15),
        compute=_decode_steps("worst"),
        ablation=_decode_steps("flops_only_worst"),
        ablation_title="arithmetic alone",
        slow=True,
        timed=True,
    ),
    Check(
        claim="sparse",
        title="long sums of a tiny model trained here with dense attention: points that block "
        "top-k solves more at equal eFLOPs, the lesser of the two lowest budgets, the least of 3 "
        "seeds",
        how="run",
        band=AtLeast(5),
        unit="points",
        compute=_tiny("gain", blind=False),
        ablation=_tiny("gain", blind=True),
        ablation_title="blocks at random",
        slow=True,
    ),
    Check(
        claim="sparse",
        title="the same at a budget that cuts no dense generation",
        how="run",
        band=Report("sums end: once dense attention affords them all, nothing is left to gain"),
        unit="points",
        compute=_tiny("gain_with_all"),
        slow=True,
    ),
    Check(
        claim="room",
        title="largest difference of its scores from dense attention's, of the largest score",
        how="run",
        band=AtMost(1e-5),
        compute=_tiny("gap", room=True),
        ablation=_tiny("gap", room=False),
        ablation_title="room for 8 positions",
        slow=True,
    ),
)

SYSTEM = System(
    id="kinetics",
    title="Kinetics: test-time scaling when memory traffic is paid for",
    arxiv="2506.05333",
    family="scaling laws",
    summary=(
        "cost of long generations is arithmetic plus KV traffic times the device's FLOPs a byte; "
        "small models keep nearly as much KV a token as large ones, so many trials of them are "
        "dearer than they look"
    ),
    claims=_CLAIMS,
    rooms=(
        "cost/testtime.py",
        "laws/testtime.py",
        "laws/testtime_price.py",
        "models/block_topk.py",
    ),
    checks=_CHECKS,
)
