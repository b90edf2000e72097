"""Prefill and decode in two processes of the real engine: same tokens, decodes left in peace."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import AtLeast, AtMost, Between, Check, Context, Measured
from plimsoll.catalog.real_engine import real_runs
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.serving.routers import DisaggPolicy, LeastWorkPolicy
from plimsoll.spec.errors import ExecutionError

__all__ = ["REAL_CHECKS"]

_LONG_TOKENS = 2000
_LONG_PROMPTS = 5
_STREAMS = 4
_STREAM_TOKENS = 600


def _deployment(*, apart: bool) -> tuple[list[InstanceSpec], ClusterPolicy]:
    policy, instance = PrefillFirstPolicy(max_batched_tokens=2048), real_runs().instance
    if not apart:
        return [instance(policy)], LeastWorkPolicy()
    return [instance(policy, role="prefill"), instance(policy, role="decode")], DisaggPolicy()


def _same_tokens(context: Context) -> Measured:
    """Share of requests whose tokens are those of one process."""
    runs, values = real_runs(), []
    for seed in context.seeds:
        rng = np.random.default_rng(seed)
        lengths = [(int(n), int(m)) for n, m in rng.integers((1, 2), (300, 40), (40, 2))]
        found = []
        for apart in (True, False):
            with (
                tempfile.TemporaryDirectory(prefix="plimsoll-") as place,
                runs.RealRun(runs.random_llama(Path(place)), *_deployment(apart=apart)) as run,
            ):
                found.append(run.serve(runs.prompts_of(lengths, seed=seed)))
        values.append(float(np.mean([a == b for a, b in zip(*found, strict=True)])))
    detail = "40 greedy requests, one prefill and one decode process against one process, fp32"
    return Measured(value=min(values), values=tuple(values), detail=detail)


def _gap_growth(*, apart: bool) -> Callable[[Context], Measured]:
    """P99 gap of running requests while long prompts prefill, over the same without prompts."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = real_runs().random_llama(Path(place), hidden=256, layers=4)
            for seed in context.seeds:
                idle_s, busy_s = _gaps_s(folder, seed, apart=apart)
                values.append(busy_s / idle_s)
                shown.append(f"{busy_s * 1e3:.1f}/{idle_s * 1e3:.1f} ms")
        detail = (
            f"{_STREAMS} running requests, {_LONG_PROMPTS} prompts of {_LONG_TOKENS:,} tokens, one "
            f"thread a process: {', '.join(shown)}"
        )
        return Measured(value=float(np.median(values)), values=tuple(values), detail=detail)

    return compute


def _gaps_s(folder: Path, seed: int, *, apart: bool) -> tuple[float, float]:
    """P99 gaps without and with prompts being prefilled."""
    runs = real_runs()
    streams = runs.prompts_of([(20, _STREAM_TOKENS)] * _STREAMS, seed=seed)
    prompts = runs.prompts_of([(_LONG_TOKENS, 1)] * _LONG_PROMPTS, seed=seed + 1)
    with runs.RealRun(folder, *_deployment(apart=apart)) as run:
        run.serve(runs.prompts_of([(_LONG_TOKENS, 2), (30, 8), (30, 8), (30, 8)], seed=9))
        for stream in streams:
            run.send(stream)
        runs.await_tokens(streams, _STREAM_TOKENS // 3)
        spans = []
        for prompt in prompts:
            sent_s = time.monotonic()
            run.send(prompt)
            runs.await_tokens([prompt], 1)
            spans.append((sent_s, prompt.token_at_s[0]))
        run.wait()
    idle, busy = [], []
    for stream in streams:
        pairs = zip(stream.token_at_s[:-1], stream.token_at_s[1:], strict=True)
        for place, (before_s, after_s) in enumerate(pairs):
            if any(before_s < end and after_s > begin for begin, end in spans):
                busy.append(after_s - before_s)
            elif place > _STREAM_TOKENS // 10 and after_s < spans[0][0]:
                idle.append(after_s - before_s)
    if len(idle) < _STREAMS or len(busy) < _LONG_PROMPTS:
        raise ExecutionError("the running requests ended before the long prompts had run")
    return float(np.quantile(idle, 0.99)), float(np.quantile(busy, 0.99))


REAL_CHECKS = (
    Check(
        claim="interference",
        title="requests with the tokens of one process, prefill and decode in two",
        how="run",
        band=Between(1.0, 1.0),
        compute=_same_tokens,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="interference",
        title="P99 gap of running requests beside real prompts over idle, apart",
        how="run",
        band=AtMost(1.5),
        compute=_gap_growth(apart=True),
        unit="x",
        ablation=_gap_growth(apart=False),
        ablation_title="in one process",
        slow=True,
        timed=True,
    ),
    Check(
        claim="interference",
        title="P99 gap of running requests beside real prompts over idle, in one process",
        how="run",
        band=AtLeast(3.0),
        compute=_gap_growth(apart=False),
        unit="x",
        slow=True,
        timed=True,
    ),
)
