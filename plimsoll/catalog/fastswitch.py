"""FastSwitch: requests that change places cheaply, because their KV lies in runs.

Mechanism in ``serving/kv/groups.py``, ``serving/kv/tiers.py``, ``serving/kv/swap_manager.py`` and
``serving/policies/fairswap.py``, times of copies in ``cost/transfer.py``; the simulated setting is
``fastswitch_setting.py``.
Source: arXiv 2411.18424.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.catalog.block_churn import Churned, SingleBlocks, churn
from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    System,
)
from plimsoll.catalog.fastswitch_real import REAL_CHECKS
from plimsoll.catalog.fastswitch_simulated import SIMULATED_CHECKS
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.transfer import pcie_copy_s
from plimsoll.serving.kv.groups import GroupAllocator
from plimsoll.serving.kv.tiers import HostCopies
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.model_files import load_model

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_BLOCKS = 4000
_OPERATIONS = 100_000
_BLOCK_TOKENS = 16
_RUN_BLOCKS = 20
"""Blocks of a copy: the paper's mean is about that, read off."""
_LAUNCH_S = 10e-6
_LINK_BYTES_PER_S = 32e9
_SWAPPED_TOKENS = 16_384
_SESSIONS = 200
_TURNS = 5.5


def _churned(seed: int, fill: float, **options: int) -> tuple[Churned, Churned]:
    pool = GroupAllocator(total=_BLOCKS, **options)
    ours = churn(pool, seed=seed, operations=_OPERATIONS, fill=fill, check_every=1000)
    theirs = churn(
        SingleBlocks(_BLOCKS), seed=seed, operations=_OPERATIONS, fill=fill, check_every=1000
    )
    return ours, theirs


def _run_ratio(**options: int) -> Compute:
    """Mean run of groups over that of single blocks at 90 % fill."""

    def compute(context: Context) -> Measured:
        pairs = [_churned(seed, 0.9, **options) for seed in context.seeds]
        values = tuple(ours.mean_run_blocks / theirs.mean_run_blocks for ours, theirs in pairs)
        ours, theirs = pairs[0]
        return Measured(
            value=min(values),
            values=values,
            detail=f"{_OPERATIONS:,} operations on {_BLOCKS:,} blocks, no overlap and no leak; "
            f"runs of {ours.mean_run_blocks:.1f} against {theirs.mean_run_blocks:.2f} blocks, "
            f"{ours.steals:,} tails taken",
        )

    return compute


def _filled_ratio(steals: bool) -> Compute:
    """Fill at the first refused request, over that of single blocks."""

    def compute(context: Context) -> Measured:
        pairs = [_churned(seed, 2.0, steals=steals) for seed in context.seeds]
        values = tuple(ours.peak_fraction / theirs.peak_fraction for ours, theirs in pairs)
        ours, theirs = pairs[0]
        return Measured(
            value=min(values),
            values=values,
            detail=f"{ours.peak_fraction:.1%} against {theirs.peak_fraction:.1%} of the pool",
        )

    return compute


def _swap_gain(launch_s: float) -> Compute:
    """Seconds to swap a request out in single pieces over those in runs."""

    def compute(_: Context) -> Measured:
        model = load_model("llama-3-8b")
        num_layers = sum(group.count for group in model.layers)
        token_bytes = kv_bytes_per_token(model, DType.FP16)
        piece_bytes = token_bytes * _BLOCK_TOKENS / (2 * num_layers)
        pieces = _SWAPPED_TOKENS // _BLOCK_TOKENS * 2 * num_layers
        times_s = [
            pcie_copy_s(
                token_bytes * _SWAPPED_TOKENS,
                num_pieces=num_pieces,
                launch_s=launch_s,
                bytes_per_s=_LINK_BYTES_PER_S,
            )
            for num_pieces in (pieces, -(-pieces // _RUN_BLOCKS))
        ]
        return Measured(
            value=times_s[0] / times_s[1],
            detail=f"{_SWAPPED_TOKENS:,} tokens of LLaMA-3-8B, pieces of {piece_bytes / 1024:.0f} "
            f"KiB: {times_s[0] * 1e3:.0f} against {times_s[1] * 1e3:.0f} ms at 32 GB/s, launch "
            f"{launch_s * 1e6:.0f} us",
        )

    return compute


def _copies(run_blocks: int) -> Compute:
    def compute(context: Context) -> Measured:
        try:
            from plimsoll.catalog.copied_runs import copy_gain
        except ImportError as error:
            raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
        values = tuple(copy_gain(run_blocks, seed=seed) for seed in context.seeds)
        return Measured(
            value=float(np.median(values)),
            values=values,
            detail="64 MiB as pieces of 32 KiB, one call of torch a copy, bytes verified",
        )

    return compute


def _sent_share(reuse: bool) -> Compute:
    """Blocks that swap-outs send, over those of whole requests."""

    def compute(context: Context) -> Measured:
        found = [_swapped_blocks(seed, reuse) for seed in context.seeds]
        values = tuple(sent / whole for sent, whole, _ in found)
        sent, whole, cuts = found[0]
        return Measured(
            value=max(values),
            values=values,
            detail=f"{_SESSIONS} random sessions of {_TURNS} turns on average, 1 to 3 swaps each: "
            f"{sent:,} of {whole:,} blocks sent, copies cut {cuts:,} times",
        )

    return compute


def _swapped_blocks(seed: int, reuse: bool) -> tuple[int, int, int]:
    """(blocks sent, blocks of whole requests, copies cut) of sessions that take turns at random.

    A turn adds a prompt and an answer; it is swapped out once to three times as it grows. Host
    memory is short, and the sessions that left longest ago have the lowest priority.
    """
    rng = np.random.default_rng(seed)
    copies = HostCopies(total=_SESSIONS * 25, block_tokens=_BLOCK_TOKENS, block_bytes=1)
    tokens = dict.fromkeys(range(_SESSIONS), 0)
    turns = {i: int(n) for i, n in enumerate(rng.geometric(1 / _TURNS, _SESSIONS))}
    sent = whole = cuts = swaps = 0
    while turns:
        session = int(rng.choice(sorted(turns)))
        for _ in range(int(rng.integers(1, 4))):
            tokens[session] += int(rng.integers(40, 200))
            swap = copies.swap_out(session, tokens[session], priority=swaps)
            swaps += 1
            sent, cuts = sent + swap.num_blocks, cuts + len(swap.cut)
            whole += -(-tokens[session] // _BLOCK_TOKENS)
            copies.swap_in(session)
            if not reuse:
                copies.drop(session)
        turns[session] -= 1
        if not turns[session]:
            del turns[session]
            copies.drop(session)
    return sent, whole, cuts


_CLAIMS = (
    Claim(
        id="tail",
        text="1.4 to 11.2 times better tail TTFT and time between tokens than vLLM",
        value=11.2,
        unit="x",
        setup="LLaMA-8B on A10, Qwen-32B on A100; 1,000 multi-turn ShareGPT conversations",
        where="abstract",
    ),
    Claim(
        id="runs",
        text="Groups of neighbouring blocks make copies coarser at the same use of memory",
    ),
    Claim(id="reuse", text="Host copies of earlier turns are kept, and only what is new is sent"),
    Claim(id="fair", text="Cheap switches leave the fairness of the priorities as it is"),
    Claim(id="launch", text="Swaps in single blocks are bound by launches, not by the link"),
)

_CHECKS = (
    Check(
        claim="runs",
        title="mean run at 90 % fill over that of plain paging",
        how="run",
        band=AtLeast(8.0),
        compute=_run_ratio(),
        unit="x",
        ablation=_run_ratio(group_blocks=1),
        ablation_title="groups that hold no room to append",
    ),
    Check(
        claim="runs",
        title="fill at the first refused request over that of plain paging",
        how="run",
        band=Between(0.99, 1.01),
        compute=_filled_ratio(steals=True),
        unit="x",
        ablation=_filled_ratio(steals=False),
        ablation_title="unused tails stay with their owners",
    ),
    Check(
        claim="launch",
        title="time to swap out in single pieces over runs of 20",
        how="derived",
        band=AtLeast(3.0),
        compute=_swap_gain(_LAUNCH_S),
        unit="x",
        ablation=_swap_gain(0.0),
        ablation_title="launches that cost nothing",
    ),
    Check(
        claim="launch",
        title="real copies in single pieces over runs of 20",
        how="run",
        band=AtLeast(1.5),
        compute=_copies(_RUN_BLOCKS),
        unit="x",
        ablation=_copies(1),
        ablation_title="runs of one block",
        timed=True,
    ),
    Check(
        claim="reuse",
        title="blocks that swap-outs send, over those of whole requests",
        how="simulated",
        band=AtMost(0.6),
        compute=_sent_share(reuse=True),
        unit="of them",
        ablation=_sent_share(reuse=False),
        ablation_title="copies dropped when requests return",
    ),
    *SIMULATED_CHECKS,
    *REAL_CHECKS,
)

SYSTEM = System(
    id="fastswitch",
    title="FastSwitch: cheap context switches for fair preemption",
    arxiv="2411.18424",
    family="serving schedulers",
    summary=(
        "KV blocks handed out in runs, so that a preempted request is copied in few large pieces; "
        "copies run beside the steps, and what the host has of a request is not sent again"
    ),
    claims=_CLAIMS,
    rooms=(
        "serving/kv/groups.py",
        "serving/kv/tiers.py",
        "serving/kv/swap_manager.py",
        "serving/policies/fairswap.py",
        "cost/transfer.py",
    ),
    checks=_CHECKS,
    waiting=(
        "Copies of the real device in single pieces and in runs, at least 3x: not run on a GPU yet",
    ),
)
