"""BatchLLM: prefixes of a known batch found ahead, shared in groups, memory filled as predicted.

The planner is ``serving/prefix_tree.py`` and ``one_level.py``, the policy
``serving/policies/prefix_groups.py``; the simulated setting is ``batchllm_setting.py``, the trees
``batchllm_trees.py``, the real engine ``batchllm_real.py``. Attention that reads a shared prefix
once is priced in the simulation (``Step.read_once``) and done by the real engine, in two products
joined by log-sum-exp rather than in one kernel.
Source: arXiv 2412.03594.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from plimsoll.catalog.batchllm_real import REAL_CHECKS
from plimsoll.catalog.batchllm_setting import Case, serve, token_variation
from plimsoll.catalog.batchllm_trees import best_saving, deep_tree, large_plan, small_trees
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
)
from plimsoll.serving.group_plan import PrefixGroup
from plimsoll.serving.one_level import one_level_exact, one_level_greedy, saved_tokens
from plimsoll.serving.prefix_tree import PrefixTree

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_FULL = Case()
_SMALL = Case(groups=100)
_CAPPED = replace(_SMALL, cap=128)
_LOOSE = replace(_SMALL, cap=256)
_CLASSES = Case(groups=96, ratios=(2.0, *(0.05,) * 15), hint="group", budget=512)
_EVEN = replace(_CLASSES, ratios=(2.0, 0.05), budget=2048)
_EQUAL = replace(_CLASSES, ratios=(0.2,), sizes=(0.5, 1.5))
_LONG = Case(groups=60, prefix=512, suffix=64, output=600)
_WRONG = replace(_LONG, hint_scale=0.1)
_BATCH = "6,400 requests, prefix 2,000 x 16 members, suffix 200, outputs 100 +- 50"
_TREES = 500
_DEEP_TREES = 100


def _seeds(value: Callable[[int], float], detail: str) -> Compute:
    """The median over the seeds, with every value."""

    def compute(context: Context) -> Measured:
        values = tuple(value(seed) for seed in context.seeds)
        return Measured(value=float(np.median(values)), values=values, detail=detail)

    return compute


def _faster(ours: Case, theirs: Case) -> Callable[[int], float]:
    """Output tokens per second of one over those of the other."""

    def value(seed: int) -> float:
        mine, other = serve(replace(ours, seed=seed)), serve(replace(theirs, seed=seed))
        return mine.tokens_per_s / other.tokens_per_s

    return value


def _longer(case: Case) -> Callable[[int], float]:
    """Makespan with groups of few decodes first over the other way round."""

    def value(seed: int) -> float:
        later = serve(replace(case, seed=seed, order="ascending")).record.end_s
        return later / serve(replace(case, seed=seed)).record.end_s

    return value


def _variation(case: Case) -> Callable[[int], float]:
    def value(seed: int) -> float:
        ours = token_variation(serve(replace(_SMALL, seed=seed)).record)
        return ours / token_variation(serve(replace(case, seed=seed)).record)

    return value


def _variations(context: Context) -> str:
    shown = []
    for name, case in (
        ("groups", _SMALL),
        ("at most 128", _CAPPED),
        ("LRU", replace(_SMALL, policy="lru")),
        ("sorted", replace(_SMALL, policy="dfs")),
    ):
        found = token_variation(serve(replace(case, seed=context.seeds[0])).record)
        shown.append(f"{name} {found:.2f}")
    return "standard deviation over mean: " + ", ".join(shown)


def _with_variations(compute: Compute) -> Compute:
    return lambda context: replace(compute(context), detail=_variations(context))


def _pinned(case: Case) -> Callable[[int], float]:
    """Most prefix tokens pinned at once over the largest prefix."""
    return lambda seed: serve(replace(case, seed=seed)).pinned_tokens / case.prefix


def _lru_held(seed: int) -> float:
    return serve(replace(_SMALL, policy="lru", seed=seed)).cached_tokens / _SMALL.prefix


def _computed(case: Case) -> Callable[[int], float]:
    """Prompt tokens computed by the other over the plan's figure."""

    def value(seed: int) -> float:
        ours = serve(replace(_SMALL, seed=seed))
        return serve(replace(case, seed=seed)).prefill_tokens / ours.plan.prefill_tokens

    return value


def _finished(seed: int) -> float:
    return float(np.mean(serve(replace(_WRONG, seed=seed)).record.requests.ok))


def _put_aside(case: Case) -> Callable[[int], float]:
    def value(seed: int) -> float:
        return float(serve(replace(case, seed=seed)).record.requests.preemptions.mean())

    return value


def _optimal(choose: Callable[[PrefixTree], tuple[PrefixGroup, ...]]) -> Compute:
    """Share of small trees on which a choice saves as much as any."""

    def compute(context: Context) -> Measured:
        trees = small_trees(_TREES, context.seeds[0])
        equal = [saved_tokens(choose(tree)) == best_saving(tree) for tree in trees]
        detail = f"{_TREES} random trees of at most 10 inner nodes, every set of nodes tried"
        return Measured(value=float(np.mean(equal)), detail=detail)

    return compute


def _deep(context: Context) -> np.ndarray:
    rows = [deep_tree(100 * seed + i) for seed in context.seeds for i in range(_DEEP_TREES)]
    return np.array(rows)


def _never_worse(context: Context) -> Measured:
    every, exact, greedy = _deep(context).T
    detail = (
        f"{len(every)} random trees of four levels: all levels save {every.mean():.1%}, one "
        f"level {exact.mean():.1%}, the rule {greedy.mean():.1%}, at worst "
        f"{(exact - greedy).max():.1%} less; less on {np.mean(exact > greedy):.0%} of the trees"
    )
    return Measured(value=100 * float(np.min(exact - greedy)), detail=detail)


def _points_lost(context: Context) -> Measured:
    every, exact, _ = _deep(context).T
    return Measured(value=100 * float(np.mean(every - exact)), detail="trees of four levels")


def _plan_seconds(context: Context) -> Measured:
    spent_s, memory_bytes = large_plan(context.seeds[0])
    detail = f"one core; {memory_bytes / 2**30:.2f} GiB with the prompts"
    return Measured(value=spent_s, detail=detail)


def _plan_memory(context: Context) -> Measured:
    _, memory_bytes = large_plan(context.seeds[0])
    return Measured(
        value=memory_bytes / 2**30, detail="most memory of a process that does only this"
    )


_CLAIMS = (
    Claim(
        id="throughput",
        text="1.1x to 2x the throughput of vLLM",
        value=1.1,
        unit="x",
        setup="micro-benchmarks and two industry workloads",
        where="abstract, first version",
    ),
    Claim(
        id="latest",
        text="1.3x to 10.8x the throughput of vLLM and SGLang",
        unit="x",
        setup="vLLM 0.6.4 base, NVIDIA and AMD devices",
        where="abstract, latest version",
    ),
    Claim(
        id="reuse",
        text="An LRU prefix cache saves 35.8 % of prompt tokens where 58.1 % could be saved",
        setup="an industry workload",
        where="section 3",
    ),
    Claim(
        id="one-level",
        text="One level of sharing costs about a point of saving (56 % to 55 %)",
        setup="industry workloads",
        where="section 4",
    ),
    Claim(id="planner", text="Prefixes are found ahead of time, and each is computed once"),
    Claim(id="order", text="Groups with a high ratio of decode to prompt tokens go first"),
    Claim(id="memory", text="Batching by memory removes steps in which few decodes run alone"),
    Claim(id="attention", text="Attention reads a shared prefix once for all members and joins"),
    Claim(id="lifetime", text="A prefix lives shortly: its members are scheduled together"),
)

_CHECKS = (
    Check(
        claim="one-level",
        title="trees on which the exact choice equals brute force",
        how="derived",
        band=Between(1.0, 1.0),
        compute=_optimal(one_level_exact),
        unit="of trees",
        ablation=_optimal(one_level_greedy),
        ablation_title="the published bottom-up rule",
    ),
    Check(
        claim="one-level",
        title="least the exact choice saves more than the published rule",
        how="derived",
        band=AtLeast(0.0),
        compute=_never_worse,
        unit="points",
    ),
    Check(
        claim="one-level",
        title="points lost by one level on deep trees",
        how="derived",
        band=Report("the point lost in print is for shallow industry trees"),
        compute=_points_lost,
        unit="points",
    ),
    Check(
        claim="planner",
        title="time to plan 100,000 prompts of 1,000 tokens",
        how="run",
        band=AtMost(60.0),
        compute=_plan_seconds,
        unit="CPU-s",
        slow=True,
        timed=True,
    ),
    Check(
        claim="planner",
        title="memory to plan 100,000 prompts of 1,000 tokens",
        how="run",
        band=AtMost(4.0),
        compute=_plan_memory,
        unit="GiB",
        slow=True,
    ),
    Check(
        claim="throughput",
        title="throughput over first come, first served with an LRU cache",
        how="simulated",
        band=AtLeast(1.2),
        compute=_seeds(_faster(_FULL, replace(_FULL, policy="lru")), _BATCH),
        unit="x",
        ablation=_seeds(_faster(replace(_FULL, share=False), replace(_FULL, policy="lru")), _BATCH),
        ablation_title="planned without groups, over the same",
        slow=True,
    ),
    Check(
        claim="throughput",
        title="throughput over the batch sorted by prefix with an LRU cache",
        how="simulated",
        band=AtLeast(1.1),
        compute=_seeds(_faster(_FULL, replace(_FULL, policy="dfs")), _BATCH),
        unit="x",
        ablation=_seeds(
            _faster(replace(_FULL, attention=False), replace(_FULL, policy="dfs")),
            "what scheduling alone gives over a sorted batch",
        ),
        ablation_title="with attention that reads the prefix for each member",
        slow=True,
    ),
    Check(
        claim="throughput",
        title="the same over the LRU cache, with attention that reads the prefix for each member",
        how="simulated",
        band=AtLeast(1.2),
        compute=_seeds(
            _faster(replace(_SMALL, attention=False), replace(_SMALL, policy="lru")),
            "what planning alone gives; 1,600 requests",
        ),
        unit="x",
        ablation=_seeds(
            _faster(replace(_SMALL, share=False), replace(_SMALL, policy="lru")), "1,600 requests"
        ),
        ablation_title="planned without groups, over the same LRU cache",
    ),
    Check(
        claim="throughput",
        title="throughput over the same plan without groups",
        how="simulated",
        band=AtLeast(1.01),
        compute=_seeds(_faster(_SMALL, replace(_SMALL, share=False)), "1,600 requests"),
        unit="x",
    ),
    Check(
        claim="reuse",
        title="prompt tokens computed with an LRU cache over the plan's",
        how="simulated",
        band=AtLeast(1.3),
        compute=_seeds(_computed(replace(_SMALL, policy="lru")), "1,600 requests, shuffled"),
        unit="x",
        ablation=_seeds(_computed(_SMALL), "1,600 requests, shuffled"),
        ablation_title="groups in place of the LRU cache",
    ),
    Check(
        claim="planner",
        title="prompt tokens computed over the planner's figure",
        how="simulated",
        band=Between(1.0, 1.0),
        compute=_seeds(_computed(_SMALL), "1,600 requests, shuffled"),
        unit="x",
        ablation=_seeds(_computed(replace(_SMALL, policy="dfs")), "neighbors, no pins"),
        ablation_title="the batch sorted by prefix, LRU cache",
    ),
    Check(
        claim="memory",
        title="throughput over at most 128 requests at once",
        how="simulated",
        band=AtLeast(1.01),
        compute=_seeds(_faster(_SMALL, _CAPPED), "1,600 requests"),
        unit="x",
        ablation=_seeds(_faster(_SMALL, _LOOSE), "memory holds fewer than 256 here"),
        ablation_title="over at most 256, which memory allows anyway",
    ),
    Check(
        claim="memory",
        title="variation of tokens per step over that at most 128 requests have",
        how="simulated",
        band=AtMost(0.95),
        compute=_with_variations(_seeds(_variation(_CAPPED), "")),
        unit="x",
        ablation=_seeds(_variation(_LOOSE), "memory holds fewer than 256 here"),
        ablation_title="over at most 256, which memory allows anyway",
    ),
    Check(
        claim="order",
        title="makespan of ascending over descending order, ratios 2 and 0.05",
        how="simulated",
        band=AtLeast(1.05),
        compute=_seeds(
            _longer(_CLASSES), "1 of 16 groups has ratio 2; 96 groups, chunk budget 512"
        ),
        unit="x",
        ablation=_seeds(_longer(_EQUAL), "ratio 0.2, prefixes of 1,000 and 3,000 tokens"),
        ablation_title="all groups with one ratio",
    ),
    Check(
        claim="order",
        title="makespan of ascending over descending order, equal ratios",
        how="simulated",
        band=Between(0.99, 1.01),
        compute=_seeds(_longer(_EQUAL), "ratio 0.2, prefixes of 1,000 and 3,000 tokens"),
        unit="x",
    ),
    Check(
        claim="order",
        title="makespan of ascending over descending order, as many groups of either ratio",
        how="simulated",
        band=Report("decodes then fill memory to the end in either order"),
        compute=_seeds(_longer(_EVEN), "half of 96 groups have ratio 2; chunk budget 2,048"),
        unit="x",
        slow=True,
    ),
    Check(
        claim="lifetime",
        title="most prefix tokens pinned at once over the largest prefix",
        how="simulated",
        band=AtMost(2.0),
        compute=_seeds(_pinned(_SMALL), "that of the group in turn and of the next"),
        unit="prefixes",
        ablation=_seeds(_pinned(replace(_SMALL, unpin="never")), "until pins are in the way"),
        ablation_title="prefixes that are never let go",
    ),
    Check(
        claim="lifetime",
        title="most prefix tokens an LRU cache holds for requests that wait",
        how="simulated",
        band=Report("what the cache keeps is not decided by a plan"),
        compute=_seeds(_lru_held, "first come, first served; seen at every 16th decision"),
        unit="prefixes",
    ),
    Check(
        claim="memory",
        title="requests that finish when outputs are predicted ten times too short",
        how="simulated",
        band=AtLeast(1.0),
        compute=_seeds(_finished, "960 requests, prefix 512, suffix 64, outputs 600 +- 300"),
        unit="of requests",
    ),
    Check(
        claim="memory",
        title="times a request is put aside when outputs are predicted ten times too short",
        how="simulated",
        band=AtLeast(0.2),
        compute=_seeds(_put_aside(_WRONG), "swapped to the host, or computed again"),
        unit="a request",
        ablation=_seeds(_put_aside(_LONG), "outputs vary by half of their mean"),
        ablation_title="with the right mean",
    ),
    Check(
        claim="memory",
        title="throughput with outputs predicted ten times too short, over the right mean",
        how="simulated",
        band=Report("what a wrong prediction costs depends on the batch"),
        compute=_seeds(_faster(_WRONG, _LONG), "everything finishes"),
        unit="x",
        slow=True,
    ),
    *REAL_CHECKS,
)

SYSTEM = System(
    id="batchllm",
    title="BatchLLM: global prefix sharing and throughput-oriented batching",
    arxiv="2412.03594",
    family="serving schedulers",
    summary=(
        "When the whole batch is known, prefixes can be planned instead of cached: each is "
        "computed once, lives shortly, and memory is filled as predicted"
    ),
    claims=_CLAIMS,
    rooms=(
        "serving/prefix_tree.py",
        "serving/one_level.py",
        "serving/plan_groups.py",
        "serving/group_plan.py",
        "serving/policies/prefix_groups.py",
        "serving/policies/group_chunks.py",
        "serving/policies/kv_forecast.py",
        "serving/group_dealing.py",
        "serving/executors/torch/shared_prefix.py",
        "serving/executors/torch/batch_run.py",
    ),
    checks=_CHECKS,
    not_reproduced={
        "latest": "that version is another base engine, devices and workloads; only the first "
        "version's setting is simulated",
        "reuse": "the industry workload is not public; the checks show the effect on ours",
        "one-level": "the industry workloads are not public; random trees of four levels lose "
        "far more, as is shown",
    },
)
