"""FastSwitch's three parts on simulated sessions: tails, throughput, bytes sent, fairness.

Each figure is over the requests of all seeds together, ours and the baseline's on the same
sessions; the range is of single seeds. The baseline is the same policy on plain paging with swaps
that the step waits for. Time between tokens includes the time a request is put aside, as its
reader sees it. The load is where the baseline falls behind: below it swaps are rare, far above it
every variant only drains a queue; ``_sweep`` shows both.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from plimsoll.catalog import fastswitch_setting as setting
from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Context,
    Measured,
    Report,
)
from plimsoll.catalog.fastswitch_setting import ALL, PLAIN, RATE_PER_S, Figures

__all__ = ["SIMULATED_CHECKS"]

_TURNS = 1000
_FAIR_SEEDS = 4
_SWEEP = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)

Read = Callable[[Figures], float]


@functools.lru_cache(maxsize=64)
def _run(
    parts: tuple[str, ...],
    seeds: tuple[int, ...],
    *,
    launch_s: float = 10e-6,
    rate_per_s: float = RATE_PER_S,
    draw: int = 0,
) -> tuple[Figures, ...]:
    """Figures of all seeds together, then of each; ``draw``: other priorities, same sessions."""
    runs = [
        setting.serve(
            setting.sessions(rate_per_s, seed, num_turns=_TURNS),
            parts,
            launch_s=launch_s,
            seed=seed + draw,
        )
        for seed in seeds
    ]
    return (setting.figures(runs), *(setting.figures([run]) for run in runs))


def _tbt(figures: Figures) -> float:
    return figures.tbt_p999_s


def _ttft(figures: Figures) -> float:
    return figures.ttft_p99_s


def _gain(
    read: Read, parts: tuple[str, ...], *, launch_s: float = 10e-6, draw: int = 0
) -> Callable[[Context], Measured]:
    """The baseline's figure over that with ``parts``."""

    def compute(context: Context) -> Measured:
        theirs = _run(PLAIN, context.seeds, launch_s=launch_s)
        ours = _run(parts, context.seeds, launch_s=launch_s, draw=draw)
        values = [read(a) / read(b) for a, b in zip(theirs, ours, strict=True)]
        return Measured(
            value=values[0],
            values=tuple(values[1:]),
            detail=f"{_TURNS:,} turns a seed, {RATE_PER_S:g} sessions/s, f = "
            f"{setting.FREQUENCY}, launch {launch_s * 1e6:.0f} us: {read(theirs[0]):.3g} against "
            f"{read(ours[0]):.3g} s; steps wait for copies {theirs[0].wait_share:.1%} and "
            f"{ours[0].wait_share:.1%} of the time",
        )

    return compute


def _throughput(context: Context) -> Measured:
    theirs, ours = _run(PLAIN, context.seeds), _run(ALL, context.seeds)
    values = [b.tokens_per_s / a.tokens_per_s for a, b in zip(theirs, ours, strict=True)]
    detail = f"{theirs[0].tokens_per_s:.0f} and {ours[0].tokens_per_s:.0f} tokens/s"
    return Measured(value=values[0], values=tuple(values[1:]), detail=detail)


def _sent(parts: tuple[str, ...]) -> Callable[[Context], Measured]:
    """Blocks that swap-outs send, over those without host copies; both in runs, asynchronously."""

    def compute(context: Context) -> Measured:
        without = _run(("groups", "asynchronous"), context.seeds)
        ours = _run(parts, context.seeds)
        values = [b.sent_blocks / a.sent_blocks for a, b in zip(without, ours, strict=True)]
        return Measured(
            value=values[0],
            values=tuple(values[1:]),
            detail=f"{ours[0].sent_blocks:,} against {without[0].sent_blocks:,} blocks of 2 MiB "
            f"over all seeds; {ours[0].sent_blocks / ours[0].whole_blocks:.0%} of what the same "
            "swap-outs would send whole",
        )

    return compute


@functools.lru_cache(maxsize=8)
def _served(parts: tuple[str, ...], counted: bool) -> tuple[tuple[int, ...], ...]:
    source = "served-tokens" if counted else "random"
    return tuple(
        tuple(setting.served_tokens(setting.tenants(seed), parts, source, seed))  # type: ignore[arg-type]
        for seed in range(_FAIR_SEEDS)
    )


def _spread(served: Sequence[int]) -> float:
    """Most less least tokens of a tenant, as a share of their mean."""
    return float((max(served) - min(served)) / np.mean(served))


def _fairness(counted: bool) -> Callable[[Context], Measured]:
    """Mean spread with all parts over the baseline's, which counts tokens."""

    def compute(_: Context) -> Measured:
        theirs = [_spread(row) for row in _served(PLAIN, True)]
        ours = [_spread(row) for row in _served(ALL, counted)]
        return Measured(
            value=float(np.mean(ours) / np.mean(theirs)),
            values=tuple(a / b for a, b in zip(ours, theirs, strict=True)),
            detail=f"4 tenants, all with more to do, 600 s, {_FAIR_SEEDS} seeds: "
            f"{np.mean(theirs):.2%} and {np.mean(ours):.2%} of a tenant's mean of "
            f"{np.mean(_served(PLAIN, True)):,.0f} and {np.mean(_served(ALL, counted)):,.0f} "
            "tokens; one request is about 0.5 % of the mean, so single seeds say little",
        )

    return compute


def _sweep(context: Context) -> Measured:
    """Gain of all parts in P99.9 time between tokens at several loads, of the first seed."""
    rows, gains = [], []
    for rate in _SWEEP:
        theirs, ours = (_run(p, context.seeds[:1], rate_per_s=rate)[0] for p in (PLAIN, ALL))
        gains.append(_tbt(theirs) / _tbt(ours))
        rows.append(
            f"{rate:g}/s {gains[-1]:.2f}x, first token {_ttft(theirs) / _ttft(ours):.2f}x, "
            f"tokens/s {ours.tokens_per_s / theirs.tokens_per_s:.2f}x"
        )
    return Measured(value=float(np.median(gains)), values=tuple(gains), detail="; ".join(rows))


_AGAIN = "the baseline with other priorities drawn: what chance does"

SIMULATED_CHECKS = (
    Check(
        claim="tail",
        title="P99.9 time between tokens, groups alone",
        how="simulated",
        band=AtLeast(1.1),
        compute=_gain(_tbt, ("groups",)),
        unit="x",
        ablation=_gain(_tbt, ("groups",), launch_s=0.0),
        ablation_title="groups alone, launches that cost nothing",
        slow=True,
    ),
    Check(
        claim="tail",
        title="P99.9 time between tokens, asynchronous copies alone",
        how="simulated",
        band=AtLeast(1.5),
        compute=_gain(_tbt, ("asynchronous",)),
        unit="x",
        ablation=_gain(_tbt, PLAIN, draw=100),
        ablation_title=_AGAIN,
        slow=True,
    ),
    Check(
        claim="tail",
        title="P99.9 time between tokens, reuse alone",
        how="simulated",
        band=AtLeast(1.5),
        compute=_gain(_tbt, ("reuse",)),
        unit="x",
        ablation=_gain(_tbt, PLAIN, draw=100),
        ablation_title=_AGAIN,
        slow=True,
    ),
    Check(
        claim="tail",
        title="P99.9 time between tokens, all three",
        how="simulated",
        band=AtLeast(2.0),
        compute=_gain(_tbt, ALL),
        unit="x",
        ablation=_gain(_tbt, PLAIN, draw=100),
        ablation_title=_AGAIN,
        slow=True,
    ),
    Check(
        claim="tail",
        title="P99 first token, all three",
        how="simulated",
        band=AtLeast(1.4),
        compute=_gain(_ttft, ALL),
        unit="x",
        ablation=_gain(_ttft, PLAIN, draw=100),
        ablation_title=_AGAIN,
        slow=True,
    ),
    Check(
        claim="tail",
        title="throughput, all three over the baseline",
        how="simulated",
        band=Between(1.0, 1.44),
        compute=_throughput,
        unit="x",
        slow=True,
    ),
    Check(
        claim="tail",
        title="P99.9 time between tokens over loads, all three",
        how="simulated",
        band=Report("where swaps are rare there is nothing to gain"),
        compute=_sweep,
        unit="x",
        slow=True,
    ),
    Check(
        claim="reuse",
        title="blocks sent on the session trace, over those without host copies",
        how="simulated",
        band=AtMost(0.6),
        compute=_sent(ALL),
        unit="of them",
        ablation=_sent(("groups", "asynchronous")),
        ablation_title="copies dropped when requests return",
        slow=True,
    ),
    Check(
        claim="fair",
        title="spread of served tokens over tenants in ten minutes, over the baseline's",
        how="simulated",
        band=AtMost(1.0),
        compute=_fairness(counted=True),
        unit="x",
        ablation=_fairness(counted=False),
        ablation_title="random priorities instead of counters",
        slow=True,
    ),
)
