"""Freeness, and what urgent requests may expect."""

import math
from dataclasses import replace

import numpy as np
import pytest

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.policy import Move
from plimsoll.serving.routers import FreenessPolicy, LeastDemandPolicy
from plimsoll.serving.routers.freeness import freeness
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK, poisson


class Peek(FreenessPolicy):
    """Remembers what it saw of instance 0."""

    def on(self, view, event):
        inst = view.instances[0]
        self.seen.append(
            (
                inst.num_running,
                len(inst.waiting),
                inst.pool.free,
                freeness(inst, num_waiting=1),
                freeness(inst),
            )
        )
        return super().on(view, event)

    seen: list


def run(router, work, *, num_instances=1, num_blocks=200):
    spec = InstanceSpec(
        clock=CLOCK, policy=PrefillFirstPolicy(), num_blocks=num_blocks, prefix_caching=False
    )
    return SimulatedExecutor(
        [spec] * num_instances, router, transfer_s=lambda a, b, n: 1e-2, check_books=True
    ).run(work)


def load(prompts, outputs, **columns):
    n = len(prompts)
    return Workload(
        name="load",
        arrival_s=np.arange(n) * 1e-3,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
        **columns,
    )


class _Peek(Peek):
    __slots__ = ("seen",)

    def __init__(self):
        super().__init__()
        self.seen = []


def test_freeness_is_the_room_left_over_what_runs():
    router = _Peek()
    run(router, load([1000, 1600, 1600], [300, 10, 10]), num_blocks=150)
    assert math.isinf(router.seen[0][3])
    # one runs with 63 blocks and two of 100 blocks and a token wait, of which one fits not
    rows = [row for row in router.seen if row[:2] == (1, 2)]
    assert rows
    for running, waiting, free, first, everything in rows:
        assert first == pytest.approx((free - 101) * 16 / (running + 1))
        assert everything == pytest.approx((free - 202) * 16 / (running + waiting))
        assert first < 0, "what waits for room is short of it: a reason to move something"


@pytest.mark.parametrize("router", [FreenessPolicy(), LeastDemandPolicy()])
def test_both_dispatchers_serve_everything(router):
    work = poisson(300, rate=30, seed=1)
    record = run(router, work, num_instances=4)
    assert (record.requests.status == 0).all()
    assert len(np.unique(record.requests.instance)) == 4


def test_moves_make_room_for_what_waits():
    """Two instances, one with a long request at its head of line: what runs there moves away."""
    prompts = [1500, 1500, 100, 100, 2600]
    outputs = [400, 400, 20, 20, 20]
    still, moved = (
        run(FreenessPolicy(migrate=migrate), load(prompts, outputs), num_instances=2)
        for migrate in (False, True)
    )
    assert (still.requests.ttft_s[-1]) > 5 * moved.requests.ttft_s[-1]
    assert moved.requests.preemptions.sum() == 0


def test_urgent_requests_go_first_and_are_put_aside_last():
    urgent = np.array([0] * 20 + [1] * 4)
    work = load([600] * 24, [400] * 24, priority=urgent)
    plain = work.with_changes(priority=np.zeros(24, dtype=np.int64))
    first, alike = (run(LeastDemandPolicy(), w, num_blocks=250).requests for w in (work, plain))
    high = urgent > 0
    assert first.ttft_s[high].mean() < 0.5 * alike.ttft_s[high].mean()
    assert first.preemptions[high].sum() < alike.preemptions[high].sum()


def test_where_nothing_can_move_it_only_dispatches():
    """Pipelines, and blocks of different sizes."""
    clocks = (replace(CLOCK, num_stages=2), replace(CLOCK, num_stages=2)), (CLOCK, CLOCK)
    for (first, second), blocks in zip(clocks, ((16, 16), (16, 32)), strict=True):
        specs = [
            InstanceSpec(
                clock=clock,
                policy=PrefillFirstPolicy(),
                num_blocks=1600 // size,
                block_tokens=size,
                prefix_caching=False,
            )
            for clock, size in zip((first, second), blocks, strict=True)
        ]
        executor = SimulatedExecutor(
            specs,
            FreenessPolicy(low_steps=600, high_steps=700),
            transfer_s=lambda a, b, n: 1e-2,
            log_decisions=True,
            check_books=True,
        )
        work = load([200] * 4, [400, 20, 400, 20])  # one is idle soon, the other is not
        assert (executor.run(work).requests.status == 0).all()
        assert not any(isinstance(row[3], Move) for row in executor.decisions)
