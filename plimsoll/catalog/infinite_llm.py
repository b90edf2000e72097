"""Infinite-LLM: attention over KV that lies on several instances, and memory lent between them.

Mechanism in ``models/dist_attention.py``, ``serving/kv/ledger.py`` and ``serving/kv/debts.py``,
memory in ``cost/pooled_kv.py``; ``infinite_llm_runs.py`` has the checks that serve requests. The
two versions of the paper differ; claims are those of the first.
Source: arXiv 2401.02669, first version.
"""

import random
import time
from collections.abc import Callable
from types import ModuleType

from plimsoll.catalog import lent_memory
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
from plimsoll.catalog.infinite_llm_runs import run_checks
from plimsoll.cost.pooled_kv import PooledKv, pooled_kv
from plimsoll.serving.kv.debts import DebtGraph
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_SPLITS = 334
"""Random splits a seed: 1,002 with three."""
_GRAPHS = 1000
_LONG_TOKENS = 1_900_000
_SHORT_PIECE, _LONG_PIECE = 1024, 65_536
_MODELS = (("llama-2-7b", 1), ("llama-2-13b", 1), ("llama-2-70b", 8))
_DEVICES = (1, 2, 4, 8, 16, 32)


def _splits() -> ModuleType:
    try:
        from plimsoll.catalog import split_attention
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    return split_attention


def _error(dtype: str, merge: str = "merge_partials") -> Compute:
    """Worst error over random splits. ``dtype`` and ``merge`` by name, torch is not loaded yet."""

    def compute(context: Context) -> Measured:
        splits = _splits()
        values = tuple(
            splits.worst_error(
                range(seed * _SPLITS, (seed + 1) * _SPLITS),
                dtype=getattr(splits.torch, dtype),
                merge=getattr(splits, merge),
            )
            for seed in context.seeds
        )
        return Measured(
            value=max(values),
            values=values,
            detail=f"{_SPLITS * len(values):,} splits into 1 to 16 pieces, {dtype}, grouped heads, "
            "scores to 1e4, against one softmax in float64",
        )

    return compute


def _traffic(ship_keys: bool) -> Compute:
    def compute(_: Context) -> Measured:
        short, long = (
            _splits().bytes_moved(n, ship_keys=ship_keys) for n in (_SHORT_PIECE, _LONG_PIECE)
        )
        detail = f"{short:,} and {long:,} bytes a query and layer, 32 heads of 128, float32"
        return Measured(value=long / short, detail=detail)

    return compute


def _pool(name: str, num_devices: int, *, tp: int = 1, lent_fraction: float = 1.0) -> PooledKv:
    return pooled_kv(
        load_model(name),
        load_device("a100-sxm-80"),
        num_devices=num_devices,
        tp=tp,
        lent_fraction=lent_fraction,
    )


def _pools(lent_fraction: float) -> list[PooledKv]:
    return [
        _pool(name, n, tp=tp, lent_fraction=lent_fraction)
        for name, tp in _MODELS
        for n in _DEVICES
        if n >= tp
    ]


def _longest(lent_fraction: float) -> Compute:
    def compute(_: Context) -> Measured:
        shown = []
        for name, tp in _MODELS:
            sizes = [n for n in _DEVICES if n >= tp]
            tokens = (
                _pool(name, n, tp=tp, lent_fraction=lent_fraction).longest_tokens for n in sizes
            )
            listed = " ".join(f"{t / 1000:,.0f}" for t in tokens)
            shown.append(f"{name} {listed} K on {sizes[0]} to 32")
        longest = _pool("llama-2-7b", 32, lent_fraction=lent_fraction).longest_tokens
        return Measured(value=float(longest), detail="; ".join(shown))

    return compute


def _longer(lent_fraction: float) -> Compute:
    def compute(_: Context) -> Measured:
        pool = _pool("llama-2-7b", 32, lent_fraction=lent_fraction)
        return Measured(
            value=pool.longest_tokens / pool.alone_tokens,
            detail=f"{pool.alone_tokens:,} tokens on one; memory only",
        )

    return compute


def _share(_: Context) -> Measured:
    return Measured(
        value=_pool("llama-2-7b", 32).share_for(_LONG_TOKENS),
        detail="the rest stays with its owners, for requests of their own",
    )


def _distance(lending: bool) -> Compute:
    """Largest distance in blocks between growth through the ledger and the closed form."""

    def compute(_: Context) -> Measured:
        worst = 0
        for name, tp in _MODELS:
            for n in (n for n in _DEVICES if n >= tp):
                for lent_fraction in (0.5, 1.0):
                    pool = _pool(name, n, tp=tp, lent_fraction=lent_fraction)
                    held = lent_memory.grown_blocks(pool, lending=lending)
                    worst = max(worst, abs(held - pool.longest_tokens // pool.block_tokens))
        return Measured(value=float(worst), detail="7B, 13B and 70B; half or all blocks lent")

    return compute


def _circles(reduce: bool) -> Compute:
    """Graphs left with a circle, another net balance or more debt."""

    def compute(context: Context) -> Measured:
        values, cancelled, debts_left = [], 0, 0
        for seed in context.seeds:
            rng, wrong = random.Random(seed), 0
            for _ in range(_GRAPHS):
                debts = lent_memory.random_debts(rng)
                locked = {i for i in debts if rng.random() < 0.1}
                graph = DebtGraph(debts)
                before, total = graph.net_balances(), graph.total
                cancelled += len(graph.reduce_cycles(locked=locked)) if reduce else 0
                after = graph.net_balances()
                kept = all(after.get(i, 0) == net for i, net in before.items())
                debts_left += graph.total
                if not (kept and graph.total <= total and lent_memory.is_acyclic(graph, locked)):
                    wrong += 1
            values.append(float(wrong))
        detail = (
            f"{_GRAPHS:,} graphs a seed of 2 to 32 instances, a tenth locked: {cancelled:,} "
            f"circles cancelled, {debts_left:,} blocks still owed"
        )
        return Measured(value=max(values), values=tuple(values), detail=detail)

    return compute


def _seconds(_: Context) -> Measured:
    rng = random.Random(0)
    graphs = [DebtGraph(lent_memory.random_debts(rng)) for _ in range(10_000)]
    started = time.perf_counter()
    for graph in graphs:
        graph.reduce_cycles()
    return Measured(value=time.perf_counter() - started, detail="10,000 graphs, one thread")


_CLAIMS = (
    Claim(
        id="context",
        text="Contexts up to 1,900 K tokens",
        value=1.9e6,
        unit="tokens",
        setup="32 A100 of 80 GB",
        where="abstract, version 1",
    ),
    Claim(
        id="longer",
        text="2 to 19 times longer contexts than existing systems",
        value=19.0,
        unit="x",
        setup="2 to 32 A100",
        where="abstract, version 1",
    ),
    Claim(
        id="throughput",
        text="1.03 to 2.4 times the throughput",
        value=2.4,
        unit="x",
        setup="2 to 32 A100, 18 data sets",
        where="abstract, version 1",
    ),
    Claim(id="exact", text="Attention over distributed pieces is exact"),
    Claim(id="traffic", text="Queries and partial results travel, never keys and values"),
    Claim(id="circles", text="Circular debts are found and cancelled"),
)

_CHECKS = (
    Check(
        claim="exact",
        title="worst error of merged pieces, float32",
        how="run",
        band=AtMost(1e-5),
        compute=_error("float32"),
        unit="absolute",
        ablation=_error("float32", "mean_of_partials"),
        ablation_title="outputs of the pieces averaged, without maxima and sums",
    ),
    Check(
        claim="exact",
        title="worst error of merged pieces, bfloat16",
        how="run",
        band=AtMost(2e-3),
        compute=_error("bfloat16"),
        unit="absolute",
        ablation=_error("bfloat16", "merged_in_bfloat16"),
        ablation_title="the join in bfloat16 as well",
    ),
    Check(
        claim="traffic",
        title="bytes moved for a piece of 64 K tokens over one of 1 K",
        how="run",
        band=Between(1.0, 1.0),
        compute=_traffic(ship_keys=False),
        unit="x",
        ablation=_traffic(ship_keys=True),
        ablation_title="keys and values sent to the query",
    ),
    Check(
        claim="context",
        title="LLaMA-2-7B on 32 instances of one A100, by memory",
        how="derived",
        band=AtLeast(1.9e6),
        compute=_longest(1.0),
        ablation=_longest(0.0),
        ablation_title="no lending",
    ),
    Check(
        claim="context",
        title="share of every other instance's KV that the printed context borrows",
        how="derived",
        band=Report("memory alone allows 32 times one instance; the paper prints 17 times"),
        compute=_share,
        unit="of it",
    ),
    Check(
        claim="longer",
        title="longest context of 32 instances over that of one",
        how="derived",
        band=AtLeast(19.0),
        compute=_longer(1.0),
        ablation=_longer(0.0),
        ablation_title="no lending, 32 instances",
    ),
    Check(
        claim="context",
        title="growth by loans through the ledger against the closed form",
        how="simulated",
        band=AtMost(1.0),
        compute=_distance(lending=True),
        unit="blocks",
        ablation=_distance(lending=False),
        ablation_title="creditors that lend nothing",
    ),
    Check(
        claim="circles",
        title="random debts left with a circle, another balance or more debt",
        how="run",
        band=AtMost(0.0),
        compute=_circles(reduce=True),
        unit="graphs",
        ablation=_circles(reduce=False),
        ablation_title="debts left as they are",
    ),
    Check(
        claim="circles",
        title="time to cancel the circles of 10,000 random graphs",
        how="run",
        band=AtMost(10.0),
        compute=_seconds,
        unit="s",
        slow=True,
        timed=True,
    ),
    *run_checks(_pools),
)

SYSTEM = System(
    id="infinite-llm",
    title="Infinite-LLM: DistAttention and KV memory lent between instances",
    arxiv="2401.02669",
    family="serving schedulers",
    summary=(
        "A request's KV may lie on many instances, attended to where it lies and merged exactly; "
        "a ledger proposes who lends, and circular debts are cancelled"
    ),
    claims=_CLAIMS,
    rooms=(
        "models/dist_attention.py",
        "serving/kv/ledger.py",
        "serving/kv/debts.py",
        "cost/pooled_kv.py",
        "cost/query_exchange.py",
        "serving/routers/pool.py",
        "serving/executors/loans.py",
        "serving/executors/lent_steps.py",
        "serving/executors/torch/lent_context.py",
        "serving/executors/torch/peers.py",
    ),
    checks=_CHECKS,
)
