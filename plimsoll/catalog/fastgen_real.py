"""SplitFuse on the real engine: passes, tokens, pauses of others while long prompts come in."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import AtLeast, Between, Check, Context, Measured
from plimsoll.catalog.fastgen_setting import passes_filled
from plimsoll.catalog.real_engine import real_runs
from plimsoll.serving.policies import OrcaPolicy, PrefillFirstPolicy, SplitFusePolicy
from plimsoll.serving.policy import StepPolicy
from plimsoll.spec.errors import ExecutionError

__all__ = ["REAL_CHECKS"]

_PREFILL_FIRST = PrefillFirstPolicy(max_batched_tokens=2048)
_SPLITFUSE = SplitFusePolicy(token_budget=128)
_UNCUT = SplitFusePolicy(token_budget=4096)
_SPLITFUSE_SMALL = SplitFusePolicy(token_budget=64)
_BUDGETS = (16, 64, 512)
_SERVED = 40
_LONG_TOKENS = 1500
_LONG_PROMPTS = 12
_STREAM_TOKENS = 400


def _lengths(seed: int, num: int = _SERVED) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 300, num), rng.integers(4, 40, num)
    return [(int(n), int(m)) for n, m in zip(prompts, outputs, strict=True)]


def _tokens(policy: StepPolicy, seed: int, num_blocks: int = 2000) -> tuple[list[list[int]], int]:
    """Tokens of every request, and how often one was recomputed."""
    runs = real_runs()
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        folder = runs.random_llama(Path(place))
        spec = runs.instance(policy, num_blocks=num_blocks, max_num_seqs=12)
        with runs.RealRun(folder, [spec]) as run:
            tokens = run.serve(runs.prompts_of(_lengths(seed), seed=seed))
            return tokens, int(run.record.requests.preemptions.sum())


def _equal(first: list[list[int]], second: list[list[int]]) -> float:
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def _same_tokens(context: Context) -> Measured:
    """Share of requests with equal tokens under every budget, against whole prompts."""
    values = []
    for seed in context.seeds:
        whole, _ = _tokens(OrcaPolicy(), seed)
        values.append(
            min(_equal(whole, _tokens(SplitFusePolicy(token_budget=b), seed)[0]) for b in _BUDGETS)
        )
    return Measured(
        value=min(values),
        values=tuple(values),
        detail=f"{_SERVED} greedy requests, budgets 16, 64 and 512 against no budget, fp32",
    )


def _recomputed_equal(context: Context) -> Measured:
    """Share of requests with the same tokens where the KV pool is exhausted."""
    values, counts = [], []
    for seed in context.seeds:
        whole, _ = _tokens(_SPLITFUSE_SMALL, seed)
        tokens, count = _tokens(_SPLITFUSE_SMALL, seed, num_blocks=40)
        values.append(_equal(whole, tokens))
        counts.append(count)
    detail = f"40 blocks instead of 2,000; recomputations {counts}"
    return Measured(value=min(values), values=tuple(values), detail=detail)


def _recomputed(num_blocks: int) -> Callable[[Context], Measured]:
    """Recomputations: without any, equal tokens would show nothing."""

    def compute(context: Context) -> Measured:
        values = tuple(
            float(_tokens(_SPLITFUSE_SMALL, seed, num_blocks=num_blocks)[1])
            for seed in context.seeds
        )
        return Measured(value=min(values), values=values, detail=f"{num_blocks:,} blocks of 16")

    return compute


def _composition(policy: StepPolicy) -> Callable[[Context], Measured]:
    """Passes that hold exactly 128 tokens while prompts are left, all requests there early."""

    def compute(context: Context) -> Measured:
        runs, values = real_runs(), []
        for seed in context.seeds:
            asked = runs.prompts_of([(2000, 4), *_lengths(seed)], seed=seed)
            with (
                tempfile.TemporaryDirectory(prefix="plimsoll-") as place,
                runs.RealRun(runs.random_llama(Path(place)), [runs.instance(policy)]) as run,
            ):
                run.serve(asked)
                values.append(passes_filled(run.record, _SPLITFUSE.token_budget))
        detail = f"a prompt of 2,000 tokens, then {_SERVED} shorter ones"
        return Measured(value=min(values), values=tuple(values), detail=detail)

    return compute


def _gap_ratio(ours: StepPolicy) -> Callable[[Context], Measured]:
    """P95 gap of two streams beside long prompts: prefill-first over ``ours``."""

    def compute(context: Context) -> Measured:
        ratios, shown = [], []
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = real_runs().random_llama(Path(place), hidden=256, layers=4)
            for seed in context.seeds:
                mine_s, theirs_s = (_p95_gap_s(folder, p, seed) for p in (ours, _PREFILL_FIRST))
                ratios.append(theirs_s / mine_s)
                shown.append(f"{theirs_s * 1e3:.0f}/{mine_s * 1e3:.0f} ms")
        detail = (
            f"two decoding streams, {_LONG_PROMPTS} prompts of {_LONG_TOKENS:,} tokens, one "
            f"thread: {', '.join(shown)}"
        )
        return Measured(value=float(np.median(ratios)), values=tuple(ratios), detail=detail)

    return compute


def _p95_gap_s(folder: Path, policy: StepPolicy, seed: int) -> float:
    runs = real_runs()
    streams = runs.prompts_of([(20, _STREAM_TOKENS)] * 2, seed=seed)
    prompts = runs.prompts_of([(_LONG_TOKENS, 1)] * _LONG_PROMPTS, seed=seed + 1)
    with runs.RealRun(folder, [runs.instance(policy)]) as run:
        run.serve(runs.prompts_of([(_LONG_TOKENS, 2), (30, 8)], seed=9))  # kernels are built
        for stream in streams:
            run.send(stream)
        runs.await_tokens(streams, 10)
        sent_s = time.monotonic()
        for prompt in prompts:  # the next arrives as one has its first token
            run.send(prompt)
            runs.await_tokens([prompt], 1)
        run.wait()
    last_s = prompts[-1].token_at_s[0]
    gaps = [
        after_s - before_s
        for stream in streams
        for before_s, after_s in zip(stream.token_at_s[:-1], stream.token_at_s[1:], strict=True)
        if before_s < last_s and after_s > sent_s
    ]
    if len(gaps) < _LONG_PROMPTS:
        raise ExecutionError("the streams ended before the long prompts had run")
    return float(np.quantile(gaps, 0.95))


REAL_CHECKS = (
    Check(
        claim="splitfuse",
        title="requests with equal tokens under budgets 16, 64, 512 and none",
        how="run",
        band=Between(1.0, 1.0),
        compute=_same_tokens,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="splitfuse",
        title="real passes that hold exactly the budget while prompts are left",
        how="run",
        band=Between(1.0, 1.0),
        compute=_composition(_SPLITFUSE),
        unit="of passes",
        ablation=_composition(_PREFILL_FIRST),
        ablation_title="prefill-first instead of SplitFuse, real passes",
        slow=True,
    ),
    Check(
        claim="tail",
        title="P95 gap of two real streams beside long prompts, prefill-first over SplitFuse",
        how="run",
        band=AtLeast(2.0),
        compute=_gap_ratio(_SPLITFUSE),
        ablation=_gap_ratio(_UNCUT),
        ablation_title="SplitFuse with a budget that cuts no prompt",
        slow=True,
        timed=True,
    ),
    Check(
        claim="deadlock",
        title="requests with the same tokens after recomputation",
        how="run",
        band=Between(1.0, 1.0),
        compute=_recomputed_equal,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="deadlock",
        title="real recomputations with KV for 640 tokens",
        how="run",
        band=AtLeast(1.0),
        compute=_recomputed(40),
        unit="recomputations",
        ablation=_recomputed(2000),
        ablation_title="real recomputations with KV for 32,000 tokens",
        slow=True,
    ),
)
