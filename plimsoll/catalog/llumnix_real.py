"""Llumnix on the real engine: a request moves between two processes while it decodes."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import AtMost, Between, Check, Context, Measured
from plimsoll.catalog.real_engine import real_runs
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import Action, Admit, Arrive, Event, Join, Leave, Move, Tick, View
from plimsoll.spec.errors import ExecutionError

__all__ = ["REAL_CHECKS", "MoveAfter"]

_LONG, _SHORT = 1500, 150
_OUTPUT = 300
_MOVE_AFTER = 60
_LINK_BYTES_PER_S = 1e7
_BLOCKING = 1 << 30


@dataclass(slots=True)
class MoveAfter:
    """Everything to instance 0; each request moves to 1 once it has ``tokens`` tokens."""

    tokens: int
    tick_s: float = 0.002
    events: frozenset[type] = frozenset({Arrive, Join, Leave, Tick})

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """See ``ClusterPolicy``."""
        if isinstance(event, Arrive):
            return [Admit(event.request, 0)]
        if not isinstance(event, Tick):
            return ()
        asked = view.mem.setdefault("asked", set())
        assert isinstance(asked, set)
        due = [
            r.id
            for r in view.instances[0].decoding(0)
            if r.generated >= self.tokens and r.id not in asked
        ]
        asked.update(due)
        return [Move(request, 0, 1, "live") for request in due]


def _moved(folder: Path, prompt: int, seed: int, *, blocking: bool) -> tuple[float, float, bool]:
    """(longest gap, median gap, whether tokens are those without a move) of one request."""
    runs = real_runs()
    specs = [runs.instance(ChunkedPrefillPolicy(token_budget=2048)) for _ in range(2)]
    (stays,) = runs.prompts_of([(prompt, _OUTPUT)], seed=seed)
    (moves,) = runs.prompts_of([(prompt, _OUTPUT)], seed=seed)
    with runs.RealRun(folder, specs[:1]) as run:
        run.serve([stays])
    router = MoveAfter(_MOVE_AFTER)
    with runs.RealRun(folder, specs, router, link_bytes_per_s=_LINK_BYTES_PER_S) as run:
        if blocking:
            run.live._transfers.live.last_blocks = _BLOCKING
        run.serve([moves])
        where = run.record.requests.instance.tolist()
    if where != [1]:
        raise ExecutionError(f"the request ended on instance {where[0]}, it did not move")
    gaps = moves.gaps_s[5:]
    return float(max(gaps)), float(np.median(gaps)), moves.tokens == stays.tokens


def _downtime(context: Context, ratio: Callable[[Path, int], tuple[float, str]]) -> Measured:
    values, shown = [], []
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        folder = real_runs().random_llama(Path(place), hidden=256, layers=4)
        for seed in context.seeds:
            value, detail = ratio(folder, seed)
            values.append(value)
            shown.append(detail)
    detail = f"two processes of one thread, link of 10 MB/s: {'; '.join(shown)}"
    return Measured(value=float(np.median(values)), values=tuple(values), detail=detail)


def _by_length(*, blocking: bool) -> Callable[[Context], Measured]:
    """The pause at 1,500 prompt tokens over that at 150."""

    def ratio(folder: Path, seed: int) -> tuple[float, str]:
        long_s, _, _ = _moved(folder, _LONG, seed, blocking=blocking)
        short_s, _, _ = _moved(folder, _SHORT, seed, blocking=blocking)
        return long_s / short_s, f"{long_s * 1e3:.0f}/{short_s * 1e3:.0f} ms"

    return lambda context: _downtime(context, ratio)


def _by_copy(context: Context) -> Measured:
    """The pause of a live move over that of one blocking copy."""

    def ratio(folder: Path, seed: int) -> tuple[float, str]:
        live_s, _, _ = _moved(folder, _LONG, seed, blocking=False)
        blocked_s, step_s, _ = _moved(folder, _LONG, seed, blocking=True)
        if blocked_s < 10 * step_s:
            raise ExecutionError(
                f"the blocking copy took {blocked_s / step_s:.0f} steps, fewer than ten"
            )
        shown = f"{live_s * 1e3:.0f}/{blocked_s * 1e3:.0f} ms, steps of {step_s * 1e3:.0f} ms"
        return live_s / blocked_s, shown

    return _downtime(context, ratio)


def _same_tokens(context: Context) -> Measured:
    """Share of requests with the tokens of one process, many of them moving at once."""
    runs, values, moved = real_runs(), [], []
    for seed in context.seeds:
        rng = np.random.default_rng(seed)
        lengths = [(int(n), int(m)) for n, m in rng.integers((1, 20), (300, 60), (40, 2))]
        lengths.append((_LONG, 60))
        policy = ChunkedPrefillPolicy(token_budget=512)
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = runs.random_llama(Path(place))
            with runs.RealRun(folder, [runs.instance(policy)]) as run:
                alone = run.serve(runs.prompts_of(lengths, seed=seed))
            specs = [runs.instance(policy) for _ in range(2)]
            with runs.RealRun(folder, specs, MoveAfter(10)) as run:
                apart = run.serve(runs.prompts_of(lengths, seed=seed))
                moved.append(int((run.record.requests.instance == 1).sum()))
        values.append(float(np.mean([a == b for a, b in zip(alone, apart, strict=True)])))
    detail = f"41 greedy requests, fp32, {moved} of them moved while decoding"
    if min(moved) < 20:
        raise ExecutionError(f"only {min(moved)} of 41 requests moved")
    return Measured(value=min(values), values=tuple(values), detail=detail)


REAL_CHECKS = (
    Check(
        claim="downtime",
        title="requests with the tokens of one process, moved while they decode",
        how="run",
        band=Between(1.0, 1.0),
        compute=_same_tokens,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="downtime",
        title="pause of a real move at 1,500 tokens over that at 150",
        how="run",
        band=AtMost(1.5),
        compute=_by_length(blocking=False),
        unit="x",
        ablation=_by_length(blocking=True),
        ablation_title="one copy for which the request stops",
        slow=True,
        timed=True,
    ),
    Check(
        claim="downtime",
        title="pause of a real move at 1,500 tokens over that of a blocking copy",
        how="run",
        band=AtMost(0.25),
        compute=_by_copy,
        unit="x",
        slow=True,
        timed=True,
    ),
)
