"""All that composes at once: chunked prefill, shared prefixes, swaps and live moves, with faults.

Prefixes that requests share and swap groups exclude each other (copies are of blocks of one owner;
``serving.conflicts`` refuses the pair), so the union is run with the one and with the other.
A mixed load (short and long prompts, half of them behind a few prefixes, two priorities, clients
that leave) on replicas too small for it, some of which are lost and come back. Whatever happens,
every request ends once with all its tokens, and no block is held afterwards.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import FreenessPolicy
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK
from tests.serving.test_conservation import check_record

BLOCK = 16
NUM = 120
FINISHED, CANCELLED = 0, 1


def mixed(seed: int, rate: float) -> Workload:
    """Half of the requests begin with one of four prefixes of 10 to 40 blocks."""
    rng = np.random.default_rng(seed)
    prefixes = [list(range(1000 * i, 1000 * i + int(rng.integers(10, 40)))) for i in range(4)]
    prompts = np.where(rng.random(NUM) < 0.2, rng.integers(500, 1500, NUM), rng.integers(1, 200))
    keys: list[list[int]] = []
    for row in range(NUM):
        shared = prefixes[int(rng.integers(4))] if rng.random() < 0.5 else []
        prompts[row] += BLOCK * len(shared)
        own = [10_000 * (row + 1) + i for i in range(int(prompts[row]) // BLOCK - len(shared))]
        keys.append([*shared, *own])
    return Workload(
        name="mixed",
        arrival_s=np.cumsum(rng.gamma(0.5, 2 / rate, NUM)),
        prompt_tokens=prompts.astype(np.int64),
        output_tokens=rng.integers(1, 250, NUM),
        max_tokens=np.full(NUM, 250),
        priority=(rng.random(NUM) < 0.1).astype(np.int64),
        cancel_after_s=np.where(rng.random(NUM) < 0.1, rng.uniform(0.1, 4, NUM), np.inf),
        prefix_keys=np.array([key for row in keys for key in row], dtype=np.int64),
        prefix_start=np.cumsum([0, *map(len, keys)]).astype(np.int64),
        prefix_block_tokens=BLOCK,
    )


def faults_of(seed: int, replicas: int) -> list[Fault]:
    """Two losses; the last replica stays."""
    rng = np.random.default_rng(seed + 1)
    found = []
    for instance in rng.permutation(replicas - 1)[:2].tolist():
        down = float(rng.uniform(0.1, 8))
        found.append(
            Fault(instance=instance, down_at_s=down, up_at_s=down + float(rng.uniform(0.2, 4)))
        )
    return found


GROUPS = SwapSpec(
    groups=True, asynchronous=True, reuse=True, block_bytes=2 << 20, pieces_per_block=64
)


def union(
    seed: int,
    *,
    replicas: int = 4,
    num_blocks: int = 150,
    swapping: SwapSpec | None = None,
    **options: Any,
) -> Any:
    spec = InstanceSpec(
        clock=CLOCK,
        policy=ChunkedPrefillPolicy(token_budget=512, preempt="swap"),
        num_blocks=num_blocks,
        host_blocks=num_blocks if swapping else num_blocks // 2,
        block_tokens=BLOCK,
        max_num_seqs=32,
        prefix_caching=swapping is None,
        swapping=swapping,
    )
    return SimulatedExecutor(
        [spec] * replicas,
        FreenessPolicy(low_steps=10, high_steps=20, headroom_tokens=256),
        transfer_s=lambda source, target, tokens: 0.0037 + 2.3e-5 * tokens,
        faults=faults_of(seed, replicas),
        seed=seed,
        check_books=True,
        log_decisions=True,
        **options,
    )


def kinds(run: Any) -> set[str]:
    """What was decided: names of actions, of parks with how."""
    found = set()
    for *_, what in run.decisions:
        actions = what.actions if hasattr(what, "actions") else (what,)
        found |= {type(a).__name__ + getattr(a, "how", "") for a in actions}
    return found


@pytest.mark.parametrize("swapping", [None, GROUPS], ids=["shared prefixes", "swap groups"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 100_000), rate=st.floats(2, 30), refusals=st.sampled_from([0.0, 0.2]))
def test_nothing_is_lost_whatever_happens(
    swapping: SwapSpec | None, seed: int, rate: float, refusals: float
) -> None:
    workload = mixed(seed, rate)
    run = union(seed, refusal_rate=refusals, swapping=swapping)
    record = run.run(workload)
    r = record.requests
    patient = np.isinf(workload.cancel_after_s)
    assert (r.status[patient] == FINISHED).all()
    assert set(np.unique(r.status)) <= {FINISHED, CANCELLED}
    assert (r.output_tokens <= workload.output_tokens).all()
    check_record(record, workload)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000), rate=st.floats(4, 25))
def test_fast_forward_equals_stepping(seed: int, rate: float) -> None:
    quick, slow = union(seed), union(seed, fast_forward=False)
    ours, plain = (run.run(mixed(seed, rate)).requests for run in (quick, slow))
    assert np.array_equal(ours.status, plain.status)
    assert np.array_equal(ours.instance, plain.instance)
    assert np.array_equal(ours.preemptions, plain.preemptions)
    finished = ours.status == FINISHED
    assert np.allclose(ours.finished_s[finished], plain.finished_s[finished], atol=1e-6)


def test_all_parts_are_at_work() -> None:
    """Else the tests above say nothing."""
    seen: set[str] = set()
    cached = 0
    for seed in range(6):
        run = union(seed)
        cached += int(run.run(mixed(seed, 20)).requests.cached_tokens.sum())
        seen |= kinds(run)
    assert {"Move", "Parkswap", "Resume", "Admit"} <= seen
    assert cached > 0
    moved = union(0, swapping=GROUPS)
    record = moved.run(mixed(0, 20))
    assert "Move" in kinds(moved) and record.meta["swap_in_blocks"] > 0
