"""Infinite-LLM's checks that serve requests: simulated throughput and contexts, real processes."""

import functools
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Context,
    Measured,
    Report,
)
from plimsoll.catalog.pooled_serving import Way, longest_blocks, serve
from plimsoll.catalog.real_engine import real_runs
from plimsoll.cost.pooled_kv import PooledKv
from plimsoll.cost.query_exchange import query_bytes
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import KvPoolPolicy
from plimsoll.spec.errors import ExecutionError

__all__ = ["run_checks", "simulated_longest"]

Compute = Callable[[Context], Measured]

_REQUEST = (560, 60)
_BLOCK = 16
_LAYERS, _HEADS, _HEAD_DIM = 2, 4, 16


def simulated_longest(pools: Callable[[float], list[PooledKv]], *, lending: bool) -> Compute:
    """Largest distance in blocks between the longest context served and the closed form."""

    def compute(_: Context) -> Measured:
        worst, num = 0, 0
        for lent_fraction in (0.5, 1.0):
            for pool in pools(lent_fraction):
                served = longest_blocks(pool, lending=lending)
                worst = max(worst, abs(served - pool.longest_tokens // pool.block_tokens))
                num += 1
        return Measured(value=float(worst), detail=f"{num} sizes of 7B, 13B and 70B to 32 A100")

    return compute


def _over(ours: Way, rival: Way, **setting: Any) -> Compute:
    """Throughput of one way over another, all seeds together."""

    def compute(context: Context) -> Measured:
        runs = [(serve(ours, s, **setting), serve(rival, s, **setting)) for s in context.seeds]
        mine, theirs = ([run[i].tokens_per_s for run in runs] for i in (0, 1))
        detail = (
            f"{ours} {statistics.mean(mine):,.0f}, {rival} {statistics.mean(theirs):,.0f} tokens/s;"
            f" preempted {sum(run[0].num_preempted for run in runs):,} and "
            f"{sum(run[1].num_preempted for run in runs):,}, long ones ended "
            f"{sum(run[0].num_long for run in runs)} and {sum(run[1].num_long for run in runs)}"
        )
        return Measured(
            value=sum(mine) / sum(theirs),
            values=tuple(a / b for a, b in zip(mine, theirs, strict=True)),
            detail=detail,
        )

    return compute


def _real(num_blocks: int, num: int) -> Any:
    runs = real_runs()
    policy = ChunkedPrefillPolicy(token_budget=64)
    router = KvPoolPolicy(tick_s=0.002, heartbeat_s=0.0, reserve_fraction=0.4)
    specs = [runs.instance(policy, num_blocks=num_blocks) for _ in range(num)]
    return lambda folder: runs.RealRun(folder, specs, router, peers=True)


def _alone(folder: Path, seeds: Sequence[int]) -> list[list[int]]:
    """The request's tokens from one process with room for it, for each seed."""
    runs = real_runs()
    with runs.RealRun(folder, [runs.instance(ChunkedPrefillPolicy(token_budget=64))]) as run:
        return [run.serve(runs.prompts_of([_REQUEST], seed=seed))[0] for seed in seeds]


@functools.lru_cache(maxsize=2)
def _thirds(seeds: tuple[int, ...]) -> tuple[tuple[bool, ...], tuple[tuple[int, int], ...]]:
    """(whether tokens are those of one process, (bytes, queries) of each step), by four processes
    that each have a third of the blocks that the request needs."""
    runs = real_runs()
    needed = -(-sum(_REQUEST) // _BLOCK)
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        folder = runs.random_llama(Path(place))
        expected = _alone(folder, seeds)
        with _real(needed // 3, 4)(folder) as run:
            tokens = [run.serve(runs.prompts_of([_REQUEST], seed=seed))[0] for seed in seeds]
            exchanged = [e for engine in run.live.engines for e in engine.exchanged]
    same = tuple(a == b for a, b in zip(tokens, expected, strict=True))
    return same, tuple(exchanged)


def _same(context: Context) -> Measured:
    values = tuple(map(float, _thirds(context.seeds)[0]))
    detail = "tiny Llama, fp32, 620 tokens in 39 blocks, 13 blocks a process"
    return Measured(value=min(values), values=values, detail=detail)


def _bytes(context: Context) -> Measured:
    """Bytes a query, layer and remote part of decode steps, over the formula."""
    steps = [(b, n) for b, n in _thirds(context.seeds)[1] if n <= 3 * _LAYERS]
    if len({b / n for b, n in steps}) != 1:
        raise ExecutionError(f"bytes a part change with the context: {sorted(set(steps))}")
    expected = query_bytes(_HEADS, _HEAD_DIM)
    each = steps[0][0] / steps[0][1]
    detail = f"{each:.0f} bytes, {expected} without headers, in each of {len(steps)} steps"
    return Measured(value=each / expected, detail=detail)


def _killed(context: Context) -> Measured:
    """Requests that end with their tokens though a process that held part of them was killed."""
    runs, values = real_runs(), []
    for seed in context.seeds[:1]:
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = runs.random_llama(Path(place))
            expected = _alone(folder, [seed])
            (asked,) = runs.prompts_of([_REQUEST], seed=seed)
            with _real(20, 4)(folder) as run:
                run.send(asked)
                runs.await_tokens([asked], 20)
                owner = run.live.engines[run.live.decisions[0][3].instance]
                killed = next(iter(next(iter(owner.inst.pool.away.values()))))
                os.kill(run.workers[killed].process.pid or 0, signal.SIGKILL)
                run.wait()
                preempted = int(run.record.requests.preemptions.sum())
        if not preempted:
            raise ExecutionError("the request was not computed anew: it had nothing there")
        values.append(float([asked.tokens] == expected))
    return Measured(value=min(values), values=tuple(values), detail="20 blocks a process")


def run_checks(pools: Callable[[float], list[PooledKv]]) -> tuple[Check, ...]:
    """``pools(lent fraction)``: the sizes of which contexts are tried."""
    return (
        Check(
            claim="context",
            title="longest context served by the simulator against the closed form",
            how="simulated",
            band=AtMost(1.0),
            compute=simulated_longest(pools, lending=True),
            unit="blocks",
            ablation=simulated_longest(pools, lending=False),
            ablation_title="instances that lend nothing",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="nine short to one very long, at a load chosen where memory binds: tokens/s with "
            "the pool over without",
            how="simulated",
            band=AtLeast(1.2),
            compute=_over("throughput", "none"),
            unit="x",
            ablation=_over("nothing lent", "none"),
            ablation_title="the same router, which lends nothing",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="the same, throughput mode over ledger mode",
            how="simulated",
            band=AtLeast(1.0),
            compute=_over("throughput", "ledger"),
            unit="x",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="the same, pool over one static TP8 instance",
            how="simulated",
            band=Report("the second baseline: eight copies of the weights leave less memory"),
            compute=_over("throughput", "tp8"),
            unit="x",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="the same, where a prompt starts only if all of it fits",
            how="simulated",
            band=Report("most of the gain is requests not put aside, which this avoids as well"),
            compute=_over("throughput", "none", guarded=True),
            unit="x",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="creditors' time not charged, over charged",
            how="simulated",
            band=Report(
                "attention to a quarter of an instance's KV is a small part of its step here; "
                "seeds differ by more"
            ),
            compute=_over("free creditors", "throughput"),
            unit="x",
            slow=True,
        ),
        Check(
            claim="throughput",
            title="short requests alone: tokens/s with the pool over without",
            how="simulated",
            band=AtLeast(0.97),
            compute=_over("throughput", "none", long_share=0.0),
            unit="x",
            slow=True,
        ),
        Check(
            claim="exact",
            title="greedy tokens of four processes with a third of the KV each, as of one",
            how="run",
            band=Between(1.0, 1.0),
            compute=_same,
            unit="of requests",
            slow=True,
        ),
        Check(
            claim="traffic",
            title="bytes a query, layer and remote part of real processes over the formula",
            how="run",
            band=Between(0.95, 1.05),
            compute=_bytes,
            unit="x",
            slow=True,
        ),
        Check(
            claim="exact",
            title="the same tokens when a process that holds part of the KV is killed",
            how="run",
            band=Between(1.0, 1.0),
            compute=_killed,
            unit="of requests",
            slow=True,
        ),
    )
