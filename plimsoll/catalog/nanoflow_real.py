"""NanoFlow on the real engine: steps formed before tokens are known, layers of ranks overlapped.

The two ranks are processes with gloo between them and a link that is slow on purpose; the plan is
searched for their own operators, timed there.
"""

import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.catalog.contract import AtLeast, AtMost, Between, Check, Context, Measured
from plimsoll.catalog.real_engine import real_runs
from plimsoll.cost.overlap_profile import OpProfile
from plimsoll.planning.overlap_search import search_overlap
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.overlap import OverlapPlan

__all__ = ["REAL_CHECKS"]

_REQUESTS = 40
_LEAST_ENDS = 5


def _served(folder: Path, seed: int, *, ahead: bool, eos: tuple[int, ...]) -> tuple[list, int]:
    """(tokens of each request, served one after the other; tokens wasted)."""
    runs = real_runs()
    rng = np.random.default_rng(seed)
    lengths = [(int(n), int(m)) for n, m in rng.integers((1, 8), (60, 60), (_REQUESTS, 2))]
    policy = ChunkedPrefillPolicy(token_budget=512, ahead=ahead)
    with runs.RealRun(folder, [runs.instance(policy)], eos_ids=eos) as run:
        found = [run.serve([one])[0] for one in runs.prompts_of(lengths, seed=seed)]
        return [(tokens, m) for tokens, (_, m) in zip(found, lengths, strict=True)], (
            run.live.engines[0].num_wasted
        )


def _wasted(*, ahead: bool, own_end: bool) -> Callable[[Context], Measured]:
    """Wasted tokens a request that ends itself after its first decode, or a token of the others."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = real_runs().random_llama(Path(place))
            for seed in context.seeds:
                plain, _ = _served(folder, seed, ahead=False, eos=())
                common = Counter(t for tokens, _ in plain for t in set(tokens[1:-1]))
                eos = (common.most_common(1)[0][0],) if own_end else ()
                found, wasted = _served(folder, seed, ahead=ahead, eos=eos)
                ends = sum(1 < len(tokens) < most for tokens, most in found)
                if own_end and ends < _LEAST_ENDS:
                    raise ExecutionError(f"only {ends} requests ended themselves")
                values.append(wasted / ends if own_end else float(wasted))
                shown.append(f"{wasted} of {ends}" if own_end else f"{wasted}")
        whose = "requests that end themselves" if own_end else "requests that end at their limit"
        detail = f"{_REQUESTS} requests one by one, wasted tokens of {whose}: {', '.join(shown)}"
        return Measured(value=float(np.mean(values)), values=tuple(values), detail=detail)

    return compute


def _same_tokens(context: Context) -> Measured:
    """Share of requests with the tokens of steps formed one by one, many in flight."""
    runs, values = real_runs(), []
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        folder = runs.random_llama(Path(place))
        for seed in context.seeds:
            rng = np.random.default_rng(seed)
            lengths = [(int(n), int(m)) for n, m in rng.integers((1, 2), (300, 60), (60, 2))]
            found = []
            for ahead in (False, True):
                policy = ChunkedPrefillPolicy(token_budget=256, ahead=ahead)
                with runs.RealRun(folder, [runs.instance(policy)]) as run:
                    found.append(run.serve(runs.prompts_of(lengths, seed=seed)))
            values.append(float(np.mean([a == b for a, b in zip(*found, strict=True)])))
    return Measured(value=min(values), values=tuple(values), detail="60 greedy requests, fp32")


@functools.cache
def _ranks(blocking: bool) -> Any:
    """``evals.overlapped_ranks.RankTimes``, measured once a process."""
    real_runs()  # says so if torch is missing
    from plimsoll.evals import overlapped_ranks as ranks

    def search(operators: tuple[OpProfile, ...]) -> OverlapPlan:
        return search_overlap(
            operators,
            ranks.DEPENDENCIES,
            ranks.CURVES,
            batch_tokens=ranks.BATCH,
            layers=ranks.LAYERS,
            grain_tokens=64,
            budget_s=20.0,
        )

    return ranks.run_ranks(search, blocking=blocking)


def _overlapped_ranks(*, blocking: bool) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        found = _ranks(blocking)
        return Measured(
            value=found.gain,
            values=found.gains,
            detail=f"{found.pieces} pieces a layer; one by one {found.link_fraction:.0%} of the "
            "time waits for the link",
        )

    return compute


def _rank_error(_: Context) -> Measured:
    return Measured(value=_ranks(blocking=False).error, detail="both ways, two layers, fp32")


REAL_CHECKS = (
    Check(
        claim="gain",
        title="layers of two real ranks over a slow link, overlapped over one by one",
        how="run",
        band=AtLeast(1.15),
        compute=_overlapped_ranks(blocking=False),
        unit="x",
        ablation=_overlapped_ranks(blocking=True),
        ablation_title="the same pieces, each sum waited for where it starts",
        slow=True,
        timed=True,
    ),
    Check(
        claim="gain",
        title="largest difference of two ranks' outputs from one process that runs the whole model",
        how="run",
        band=AtMost(1e-5),
        compute=_rank_error,
        slow=True,
    ),
    Check(
        claim="asynchronous",
        title="tokens wasted a request that ends itself, steps formed ahead",
        how="run",
        band=Between(1.0, 1.0),
        compute=_wasted(ahead=True, own_end=True),
        unit="tokens",
        ablation=_wasted(ahead=False, own_end=True),
        ablation_title="steps formed one by one",
        slow=True,
    ),
    Check(
        claim="asynchronous",
        title="tokens wasted on requests that end at their limit",
        how="run",
        band=Between(0.0, 0.0),
        compute=_wasted(ahead=True, own_end=False),
        unit="tokens",
        slow=True,
    ),
    Check(
        claim="asynchronous",
        title="requests with the tokens of steps formed one by one",
        how="run",
        band=Between(1.0, 1.0),
        compute=_same_tokens,
        unit="of requests",
        slow=True,
    ),
)
