"""Llumnix: dispatch by freeness and live migration across instances.

Mechanism in ``serving/routers/freeness.py``, ``serving/kv/migrate.py`` and
``serving/executors/live_moves.py``; the setting is ``llumnix_setting.py``. Figures are over the
requests of all seeds together. The knee of the load is where the load-aware baseline's queue
starts to grow; past it a run measures how long it takes to drain.
Source: arXiv 2406.03243.
"""

import functools
from collections.abc import Callable

import numpy as np

from plimsoll.catalog import llumnix_setting as setting
from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
)
from plimsoll.catalog.llumnix_real import REAL_CHECKS
from plimsoll.catalog.llumnix_scaling import SCALING_CHECKS
from plimsoll.catalog.llumnix_setting import Figures
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.serving.routers import FreenessPolicy, LeastDemandPolicy, RoundRobinPolicy

__all__ = ["SYSTEM"]

KNEE_PER_S = 5.1
_BELOW_PER_S = 4.5
_HEADROOM_TOKENS = 800
_SWEEP = {"S": (14, 18, 22, 24, 26), "M": (7, 8, 9, 9.5, 10), "L": (4, 4.5, 4.75, 5, 5.1)}

_ROUTERS: dict[str, Callable[[], ClusterPolicy]] = {
    "freeness": FreenessPolicy,
    "no moves": lambda: FreenessPolicy(migrate=False),
    "least-demand": LeastDemandPolicy,
    "round-robin": RoundRobinPolicy,
}


@functools.lru_cache(maxsize=64)
def _run(router: str, kind: str, rate_per_s: float, seeds: tuple[int, ...]) -> Figures:
    runs = [
        setting.serve(setting.traffic(kind, rate_per_s, seed), _ROUTERS[router]()) for seed in seeds
    ]
    return setting.figures(runs)


def _better(
    read: Callable[[Figures], float], rival: str, ours: str, rate_per_s: float, beside: str = ""
) -> Callable[[Context], Measured]:
    """The rival's figure over ours, at one load; ``beside``: a third router's, only shown."""

    def compute(context: Context) -> Measured:
        values = []
        for seeds in (context.seeds, *((seed,) for seed in context.seeds)):
            theirs, mine = (read(_run(name, "L", rate_per_s, seeds)) for name in (rival, ours))
            values.append(theirs / mine)
        both = [_run(name, "L", rate_per_s, context.seeds) for name in (rival, ours)]
        detail = (
            f"16 instances, {rate_per_s:g} requests/s, 5,000 requests a seed: {rival} "
            f"{read(both[0]):.3g}, {ours} {read(both[1]):.3g}; the range is of single seeds"
        )
        if beside:
            third = read(_run(beside, "L", rate_per_s, context.seeds))
            detail += f"; {beside} {third:.3g}"
        return Measured(value=values[0], values=tuple(values[1:]), detail=detail)

    return compute


def _less_lost(ours: str, rate_per_s: float) -> Callable[[Context], Measured]:
    """Share of the baseline's time lost to preemption that is not lost."""

    def compute(context: Context) -> Measured:
        theirs, mine = (
            _run(name, "L", rate_per_s, context.seeds).loss_s for name in ("least-demand", ours)
        )
        detail = f"{rate_per_s:g} requests/s: {theirs:.3g} s a request, {ours} {mine:.3g} s"
        return Measured(value=1 - mine / theirs, detail=detail)

    return compute


def _priority(*, high: bool, others: bool = False) -> Callable[[Context], Measured]:
    """Mean end-to-end time of one class, all alike over one tenth of them urgent; ``others``: the
    same requests while another tenth is."""

    def compute(context: Context) -> Measured:
        plain, urgent = [], []
        for seed in context.seeds:
            load = setting.traffic("L", _PRIORITY_PER_S, seed, high_share=0.1)
            alike = load.with_changes(priority=np.zeros(len(load), dtype=np.int64))
            members = (load.priority > 0) == high
            shifted = load.with_changes(priority=np.roll(load.priority, len(load) // 2))
            told = shifted if others else load
            for asked, router, found in (
                (alike, FreenessPolicy(), plain),
                (told, FreenessPolicy(headroom_tokens=_HEADROOM_TOKENS), urgent),
            ):
                found.append(setting.serve(asked, router).requests.e2e_s[members].mean())
        ratios = np.array(plain) / np.array(urgent)
        value = float(np.mean(plain) / np.mean(urgent))
        detail = (
            f"{_PRIORITY_PER_S:g} requests/s, headroom {_HEADROOM_TOKENS} tokens: "
            f"{np.mean(plain):.1f} s, then {np.mean(urgent):.1f} s"
        )
        if not high:
            value, ratios = 1 / value, 1 / ratios
        return Measured(value=value, values=tuple(ratios.tolist()), detail=detail)

    return compute


_PRIORITY_PER_S = 5.5


def _sweep(context: Context) -> Measured:
    """Lengths and loads at which it helps, and at which not: P99 first token, least-demand over
    freeness."""
    rows, gains = [], []
    for kind, rates in _SWEEP.items():
        shown = []
        for rate in rates:
            theirs, mine = (
                _run(name, kind, float(rate), context.seeds[:2])
                for name in ("least-demand", "freeness")
            )
            gains.append(theirs.ttft_p99_s / mine.ttft_p99_s)
            shown.append(
                f"{rate:g}/s {gains[-1]:.2f}x (per token "
                f"{theirs.tpot_p99_s / mine.tpot_p99_s:.2f}x, lost {theirs.loss_s:.2g} and "
                f"{mine.loss_s:.2g} s)"
            )
        rows.append(f"{kind}-{kind}: {', '.join(shown)}")
    return Measured(value=float(np.median(gains)), values=tuple(gains), detail="; ".join(rows))


SYSTEM = System(
    id="llumnix",
    title="Llumnix: live migration and freeness scheduling across instances",
    arxiv="2406.03243",
    family="serving schedulers",
    summary=(
        "Sends a request to the instance with most decode steps left before its memory is full, "
        "and moves running requests live, so that room is where it is needed."
    ),
    claims=(
        Claim(
            id="tail",
            text="P99 first token up to 15x better than load-aware dispatch",
            value=15.0,
            unit="x",
            setup="16 LLaMA-7B on A10-24G; the best of figures 11 to 16",
            where="section 6",
        ),
        Claim(id="per-token", text="P99 time per token up to 2x better", value=2.0, unit="x"),
        Claim(id="loss", text="preemption loss 70 % less on average", value=0.7, unit="less"),
        Claim(
            id="priority",
            text="high-priority requests up to 1.5x faster",
            value=1.5,
            unit="x",
            where="abstract",
        ),
        Claim(
            id="downtime",
            text="a move pauses a request for 20 to 30 ms whatever its length",
            where="section 6",
        ),
        Claim(
            id="cost",
            text="up to 36 % cost saved at similar tail latency",
            value=0.36,
            unit="less",
            where="abstract",
        ),
    ),
    rooms=(
        "serving/routers/freeness.py",
        "serving/routers/autoscaled.py",
        "serving/routers/least_demand.py",
        "serving/kv/migrate.py",
        "serving/executors/live_moves.py",
        "serving/executors/lives.py",
    ),
    checks=(
        Check(
            claim="tail",
            title="P99 first token at the knee, least-demand over freeness",
            how="simulated",
            band=AtLeast(2.5),
            compute=_better(lambda f: f.ttft_p99_s, "least-demand", "freeness", KNEE_PER_S),
            unit="x",
            ablation=_better(lambda f: f.ttft_p99_s, "least-demand", "no moves", KNEE_PER_S),
            ablation_title="freeness without moves",
            slow=True,
        ),
        Check(
            claim="tail",
            title="P99 first token at the knee, round-robin over freeness",
            how="simulated",
            band=AtLeast(10.0),
            compute=_better(lambda f: f.ttft_p99_s, "round-robin", "freeness", KNEE_PER_S),
            unit="x",
            ablation=_better(lambda f: f.ttft_p99_s, "round-robin", "no moves", KNEE_PER_S),
            ablation_title="freeness without moves",
            slow=True,
        ),
        Check(
            claim="tail",
            title="P99 first token below the knee, freeness over least-demand",
            how="simulated",
            band=AtMost(1.3),
            compute=_better(  # a guard: moves gain nothing here, so there is nothing to remove
                lambda f: f.ttft_p99_s, "freeness", "least-demand", _BELOW_PER_S, "no moves"
            ),
            unit="x",
            slow=True,
        ),
        Check(
            claim="per-token",
            title="P99 time per token at the knee, least-demand over freeness",
            how="simulated",
            band=AtLeast(1.25),
            compute=_better(  # half of it is the dispatch's, which passes the band without moves
                lambda f: f.tpot_p99_s, "least-demand", "freeness", KNEE_PER_S, "no moves"
            ),
            unit="x",
            slow=True,
        ),
        Check(
            claim="loss",
            title="less time lost to preemption than least-demand at the knee",
            how="simulated",
            band=AtLeast(0.6),
            compute=_less_lost("freeness", KNEE_PER_S),
            unit="less",
            ablation=_less_lost("no moves", KNEE_PER_S),
            ablation_title="freeness without moves",
            slow=True,
        ),
        Check(
            claim="loss",
            title="less time lost to preemption than least-demand below the knee",
            how="simulated",
            band=AtLeast(0.9),
            compute=_less_lost("freeness", _BELOW_PER_S),
            unit="less",
            ablation=_less_lost("no moves", _BELOW_PER_S),
            ablation_title="freeness without moves",
            slow=True,
        ),
        Check(
            claim="tail",
            title="P99 first token over lengths and loads, least-demand over freeness",
            how="simulated",
            band=Report("the regimes where the gain vanishes are part of the answer"),
            compute=_sweep,
            unit="x",
            slow=True,
        ),
        Check(
            claim="priority",
            title="mean end-to-end time of urgent requests, all alike over urgent first",
            how="simulated",
            band=AtLeast(1.3),
            compute=_priority(high=True),
            unit="x",
            ablation=_priority(high=True, others=True),
            ablation_title="the same requests while others are urgent",
            slow=True,
        ),
        Check(
            claim="priority",
            title="mean end-to-end time of the other requests, over all alike",
            how="simulated",
            band=AtMost(1.1),
            compute=_priority(high=False),
            unit="x",
            slow=True,
        ),
        *SCALING_CHECKS,
        *REAL_CHECKS,
    ),
)
