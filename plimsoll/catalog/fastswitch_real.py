"""FastSwitch on the real engine: tokens of sessions whose KV comes and goes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import AtLeast, Check, Context, Measured
from plimsoll.catalog.real_engine import real_runs
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.kv.tiers import HostCopies, SwapOut
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from plimsoll.spec.errors import ExecutionError

__all__ = ["REAL_CHECKS"]

_SESSIONS = 10
_TURNS = 3
_OUTPUT = 24
_BLOCKS = 50
_HOST_BLOCKS = 58
"""A little more than the pool: copies of what runs lose their ends again and again."""
_COPY_BYTES_PER_S = 2e7


class _SkipsGrownBlock(HostCopies):
    """Takes the last block of a copy for whole though it was partly filled and has grown."""

    def swap_out(self, request: int, num_tokens: int, *, priority: float) -> SwapOut:
        valid = self.valid_tokens(request)
        found = super().swap_out(request, num_tokens, priority=priority)
        first = min(max(found.first, -(-valid // self.block_tokens)), found.last)
        return SwapOut(first=first, last=found.last, cut=found.cut)


def _said(
    folder: Path, seed: int, *, reuse: bool, num_blocks: int = _BLOCKS, flawed: bool = False
) -> tuple[list[list[int]], int, int]:
    """(tokens of every turn, blocks sent, times that copies lost their ends)."""
    runs = real_runs()
    swapping = SwapSpec(groups=True, asynchronous=True, reuse=reuse, group_blocks=8, short_s=0.0)
    policy = FairSwapPolicy(update_frequency=0.25, token_budget=256)
    more = {"swapping": swapping, "max_model_len": 800}
    spec = runs.instance(
        policy, num_blocks=num_blocks, host_blocks=max(_HOST_BLOCKS, num_blocks), **more
    )
    rng = np.random.default_rng(seed)
    said: list[list[int]] = []
    prompts: list[list[int]] = [[] for _ in range(_SESSIONS)]
    with runs.RealRun(folder, [spec], copy_bytes_per_s=_COPY_BYTES_PER_S) as run:
        manager = run.live.engines[0].swaps.manager
        if flawed:
            manager._copies.__class__ = _SkipsGrownBlock
        for _ in range(_TURNS):
            asked = []
            for session, prompt in enumerate(prompts):
                prompt += rng.integers(0, runs.VOCABULARY, int(rng.integers(20, 70))).tolist()
                asked.append(runs.Asked(list(prompt), _OUTPUT))
                run.send(asked[-1], session=session)
            run.wait()
            for prompt, one in zip(prompts, asked, strict=True):
                if one.over[0].finish != "length":
                    raise ExecutionError(f"a turn ended with {one.over[0].error}")
                prompt += one.tokens
                said.append(one.tokens)
        return said, manager.num_out_blocks, manager.num_cut


def _same_tokens(*, flawed: bool) -> Callable[[Context], Measured]:
    """Share of turns with the tokens of a pool that never swaps, with reuse and without."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
            folder = real_runs().random_llama(Path(place))
            for seed in context.seeds:
                alone, never, _ = _said(folder, seed, reuse=False, num_blocks=2000)
                on, less, cuts = _said(folder, seed, reuse=True, flawed=flawed)
                off, sent = alone, less
                if not flawed:
                    off, sent, _ = _said(folder, seed, reuse=False)
                if never or not sent or not cuts:
                    raise ExecutionError(
                        f"{never} blocks sent where all fits, {sent} where not, {cuts} copies cut"
                    )
                same = sum(a == b == c for a, b, c in zip(alone, off, on, strict=True))
                values.append(same / len(alone))
                shown.append(f"{sent} and {less} blocks sent, {cuts} copies cut")
        return Measured(
            value=min(values),
            values=tuple(values),
            detail=f"{_SESSIONS} sessions of {_TURNS} turns, a seed each: {'; '.join(shown)}",
        )

    return compute


REAL_CHECKS = (
    Check(
        claim="reuse",
        title="turns with the same tokens with host copies on, off, and without swaps",
        how="run",
        band=AtLeast(1.0),
        compute=_same_tokens(flawed=False),
        unit="of them",
        ablation=_same_tokens(flawed=True),
        ablation_title="partly filled blocks that grew are not sent again",
        slow=True,
    ),
)
