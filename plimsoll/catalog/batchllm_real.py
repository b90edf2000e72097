"""BatchLLM on the real engine: what it computes, what comes out, how long it takes.

A random Llama on one CPU thread; 400 prompts in 40 groups, shuffled. The KV pool holds a fifth of
what the batch needs with each prefix kept once. Baseline in the same run: chunked prefill, first
come, first served, with an LRU prefix cache.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from plimsoll.catalog.contract import AtLeast, Between, Check, Context, Measured
from plimsoll.catalog.real_engine import real_runs
from plimsoll.serving.group_plan import GroupPlan, order_groups
from plimsoll.serving.plan_groups import plan_groups
from plimsoll.serving.policies import ChunkedPrefillPolicy, GroupPolicy
from plimsoll.serving.policy import StepPolicy

__all__ = ["REAL_CHECKS"]

_GROUPS, _MEMBERS, _PREFIX = 40, 10, 256
_BUDGET, _BLOCK = 512, 16
_POOL_FRACTION = 0.2
_READ_PROMPTS, _READ_MEMBERS = 72, 12
_SETTING = f"{_GROUPS * _MEMBERS} prompts in {_GROUPS} groups with prefixes of {_PREFIX} tokens"

How = Literal["groups", "alone", "lru", "unbounded"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    tokens: list[list[int]]
    prefill_tokens: int
    plan: GroupPlan
    wall_s: float
    blocks: int


def _batch(seed: int) -> list[tuple[list[int], int]]:
    """Prompts with their outputs, shuffled."""
    rng = np.random.default_rng(seed)
    vocabulary = real_runs().VOCABULARY
    rows = []
    for _ in range(_GROUPS):
        prefix = rng.integers(0, vocabulary, _PREFIX).tolist()
        for _ in range(_MEMBERS):
            suffix = rng.integers(0, vocabulary, int(rng.integers(10, 40))).tolist()
            rows.append((prefix + suffix, int(rng.integers(4, 12))))
    return [rows[i] for i in rng.permutation(len(rows))]


@functools.lru_cache(maxsize=16)
def _served(how: How, seed: int, hidden: int = 64, layers: int = 2) -> _Outcome:
    """ "alone": planned without groups; "unbounded": no cache and memory for all."""
    runs = real_runs()
    batch = _batch(seed)
    prompts, outputs = [p for p, _ in batch], [n for _, n in batch]
    needed = plan_groups(prompts, outputs).prefill_tokens + sum(outputs)
    blocks = round(_POOL_FRACTION * needed / _BLOCK)
    memory = {"block_tokens": _BLOCK, "kv_tokens": blocks * _BLOCK}
    plan = plan_groups(prompts, outputs, **memory)
    policy: StepPolicy = ChunkedPrefillPolicy(token_budget=_BUDGET)
    if how == "groups":
        policy = GroupPolicy(plan=plan, token_budget=_BUDGET)
    elif how == "alone":
        plan = order_groups((), [len(p) for p in prompts], outputs, **memory)
        policy = GroupPolicy(plan=plan, token_budget=_BUDGET)
    free = how == "unbounded"
    spec = runs.instance(
        policy,
        num_blocks=20_000 if free else blocks,
        max_num_seqs=256,
        prefix_caching=how in ("groups", "lru"),
    )
    asked = [runs.Asked(prompt, num) for prompt, num in batch]
    with (
        tempfile.TemporaryDirectory(prefix="plimsoll-") as place,
        runs.RealRun(runs.random_llama(Path(place), hidden=hidden, layers=layers), [spec]) as run,
    ):
        started_s = time.monotonic()
        tokens = run.serve(asked)
        wall_s = time.monotonic() - started_s
        prefill_tokens = int(run.record.steps.prefill_tokens.sum())
    return _Outcome(tokens, prefill_tokens, plan, wall_s, blocks)


def _exact(how: How) -> Callable[[Context], Measured]:
    """Prompt tokens computed over those that the planner's groups need."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        for seed in context.seeds:
            planned = _served("groups", seed).plan.prefill_tokens
            computed = _served(how, seed).prefill_tokens
            values.append(computed / planned)
            shown.append(f"{computed:,} of {planned:,}")
        blocks = _served(how, context.seeds[0]).blocks
        detail = f"{_SETTING}, {blocks} blocks of KV; computed of planned: {', '.join(shown)}"
        return Measured(
            value=max(values, key=lambda v: abs(v - 1)), values=tuple(values), detail=detail
        )

    return compute


def _equal(context: Context) -> Measured:
    values = []
    for seed in context.seeds:
        ours, theirs = _served("groups", seed).tokens, _served("unbounded", seed).tokens
        values.append(float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)])))
    detail = "against no sharing, no cache and memory for all, request by request; fp32"
    return Measured(value=min(values), values=tuple(values), detail=detail)


def _recomputed(how: How) -> Callable[[Context], Measured]:
    """Prompt tokens that the LRU baseline computes over those of ``how``."""

    def compute(context: Context) -> Measured:
        values = tuple(
            _served("lru", seed).prefill_tokens / _served(how, seed).prefill_tokens
            for seed in context.seeds
        )
        return Measured(value=float(np.median(values)), values=values, detail=_SETTING)

    return compute


def _faster(how: How) -> Callable[[Context], Measured]:
    """Wall time of the LRU baseline over that of ``how``, on a model large enough to matter."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        for seed in context.seeds:
            theirs_s, ours_s = (_served(one, seed, 256, 4).wall_s for one in ("lru", how))
            values.append(theirs_s / ours_s)
            shown.append(f"{theirs_s:.1f}/{ours_s:.1f} s")
        return Measured(
            value=float(np.median(values)),
            values=tuple(values),
            detail=f"{_SETTING}, four layers of 256, one thread: {', '.join(shown)}",
        )

    return compute


@functools.lru_cache(maxsize=16)
def _read(seed: int, shared: bool, members: int) -> tuple[list[list[int]], int]:
    """(tokens, bytes of KV read) of 72 prompts in groups, decodes long enough to matter."""
    runs = real_runs()
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(_READ_PROMPTS // members):
        prefix = rng.integers(0, runs.VOCABULARY, 512).tolist()
        for _ in range(members):
            suffix = rng.integers(0, runs.VOCABULARY, int(rng.integers(10, 40))).tolist()
            rows.append((prefix + suffix, int(rng.integers(10, 30))))
    batch = [rows[i] for i in rng.permutation(len(rows))]
    plan = plan_groups([p for p, _ in batch], [float(n) for _, n in batch], block_tokens=_BLOCK)
    spec = runs.instance(
        GroupPolicy(plan=plan, token_budget=_BUDGET),
        num_blocks=4000,
        max_num_seqs=256,
        prefix_caching=True,
    )
    with (
        tempfile.TemporaryDirectory(prefix="plimsoll-") as place,
        runs.RealRun(
            runs.random_llama(Path(place)), [spec], shared_attention=shared, local=True
        ) as run,
    ):
        tokens = run.serve([runs.Asked(prompt, num) for prompt, num in batch])
        return tokens, int(run.runners[0].store.read_bytes)


def _fewer_bytes(members: int) -> Callable[[Context], Measured]:
    """KV read by attention with each member's own reads over that with shared ones."""

    def compute(context: Context) -> Measured:
        pairs = [(_read(s, False, members)[1], _read(s, True, members)[1]) for s in context.seeds]
        values = tuple(theirs / ours for theirs, ours in pairs)
        shown = ", ".join(f"{a / 1e6:.0f}/{b / 1e6:.0f} MB" for a, b in pairs)
        return Measured(
            value=float(np.median(values)),
            values=values,
            detail=f"{_READ_PROMPTS} prompts, prefixes of 512 tokens, groups of {members}: {shown}",
        )

    return compute


def _same_when_shared(context: Context) -> Measured:
    values = []
    for seed in context.seeds:
        ours, theirs = _read(seed, True, _READ_MEMBERS)[0], _read(seed, False, _READ_MEMBERS)[0]
        values.append(float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)])))
    detail = "against attention that reads the prefix for each member; greedy, fp32"
    return Measured(value=min(values), values=tuple(values), detail=detail)


REAL_CHECKS = (
    Check(
        claim="attention",
        title="bytes of KV a real run's attention reads, member by member over prefixes once",
        how="run",
        band=AtLeast(2.0),
        compute=_fewer_bytes(_READ_MEMBERS),
        unit="x",
        ablation=_fewer_bytes(1),
        ablation_title="prompts that share nothing",
        slow=True,
    ),
    Check(
        claim="attention",
        title="real requests with the same greedy tokens when prefixes are read once",
        how="run",
        band=Between(1.0, 1.0),
        compute=_same_when_shared,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="planner",
        title="prompt tokens a real run computes over the planner's figure",
        how="run",
        band=Between(1.0, 1.0),
        compute=_exact("groups"),
        unit="x",
        ablation=_exact("lru"),
        ablation_title="LRU prefix cache, first come, first served, real run",
        slow=True,
    ),
    Check(
        claim="planner",
        title="real requests with the same greedy tokens as without sharing",
        how="run",
        band=Between(1.0, 1.0),
        compute=_equal,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="reuse",
        title="prompt tokens of a real run, LRU cache over groups",
        how="run",
        band=AtLeast(1.3),
        compute=_recomputed("groups"),
        unit="x",
        ablation=_recomputed("alone"),
        ablation_title="LRU cache over a plan without groups",
        slow=True,
    ),
    Check(
        claim="throughput",
        title="wall time of a real run, LRU cache over groups",
        how="run",
        band=AtLeast(1.2),
        compute=_faster("groups"),
        unit="x",
        ablation=_faster("alone"),
        ablation_title="LRU cache over a plan without groups, wall time",
        slow=True,
        timed=True,
    ),
)
