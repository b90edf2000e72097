"""Requests that move while they run: nothing lost, nothing leaked, a pause that does not grow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.migrate import Copy, LiveMigration
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy
from plimsoll.serving.policy import (
    Admit,
    Arrive,
    Join,
    Leave,
    Move,
    MoveDone,
    Phase,
    Refused,
    Tick,
)
from plimsoll.spec.errors import PolicyError, SpecError
from plimsoll.spec.workload import Workload
from tests.serving.clusters import poisson

CLOCK = LinearClock(step_base_s=0.02, token_s=1e-4)


@dataclass
class Mover:
    """Everything to instance 0; at ``at_s`` the first running requests move to 1."""

    at_s: Sequence[float] = (1.0,)
    tick_s: float = 0.05
    events: frozenset[type] = frozenset({Arrive, Leave, Join, Tick, MoveDone, Refused})
    heard: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> list[Any]:
        if isinstance(event, Arrive):
            return [Admit(event.request, 0 if view.instances[0].up else 1)]
        if isinstance(event, Leave):
            return [Admit(r, 1 - event.instance) for r in event.requests]
        if isinstance(event, Tick):
            due = sum(at <= view.now_s for at in self.at_s) - view.mem.get("made", 0)
            asked = view.mem.setdefault("asked", set())
            running = [r for r in view.instances[0].decoding(0) if r.id not in asked]
            moves = [Move(r.id, 0, 1, "live") for r in running[:due]]
            asked.update(move.request for move in moves)
            view.mem["made"] = view.mem.get("made", 0) + len(moves)
            return moves
        if isinstance(event, MoveDone | Refused):
            self.heard.append((view.now_s, event))
        return []


def load(prompts: Sequence[int], outputs: Sequence[int]) -> Workload:
    n = len(prompts)
    return Workload(
        name="load",
        arrival_s=np.zeros(n),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
    )


def cluster(
    router: Any,
    *,
    num_blocks: Sequence[int] = (1000, 1000),
    clocks: Sequence[LinearClock] = (CLOCK, CLOCK),
    policy: Any = None,
    **options: Any,
) -> SimulatedExecutor:
    specs = [
        InstanceSpec(clock=clock, policy=policy or ChunkedPrefillPolicy(), num_blocks=blocks)
        for clock, blocks in zip(clocks, num_blocks, strict=True)
    ]
    options.setdefault("transfer_s", lambda source, target, tokens: 0.01 + 1e-4 * tokens)
    return SimulatedExecutor(specs, router, check_books=True, **options)


@given(
    held=st.integers(1, 20_000),
    grown=st.lists(st.integers(0, 400), min_size=3, max_size=3),
    last_blocks=st.integers(0, 40),
    max_stages=st.integers(1, 5),
)
def test_stages_cover_every_token_once_and_never_a_block_being_written(
    held: int, grown: list[int], last_blocks: int, max_stages: int
) -> None:
    stages = LiveMigration(block_tokens=16, last_blocks=last_blocks, max_stages=max_stages)
    copies: list[Copy] = []
    while (copy := stages.next_copy(held)) is not None:
        copies.append(copy)
        if copy.last:
            break
        assert copy.stop % 16 == 0 and copy.stop <= held
        stages.made(copy)
        held += grown[len(copies) % 3]
    assert len(copies) <= max_stages
    assert [c.first for c in copies] == [0, *(c.stop for c in copies)][: len(copies)]
    if copies and copies[-1].last:
        assert copies[-1].stop == held
        assert -(-held // 16) - copies[-1].first // 16 <= last_blocks


def pause_s(prompt: int) -> tuple[float, int]:
    """Longest gap of a request that moves, and the copies it took."""
    router = Mover()
    run = cluster(router).run(load([prompt], [200]))
    assert [type(event) for _, event in router.heard] == [MoveDone]
    assert run.requests.instance.tolist() == [1]
    assert run.requests.output_tokens.tolist() == [200]
    assert run.steps.prefill_tokens.sum() == prompt
    return float(run.requests.max_gap_s[0]), 0


def test_the_pause_does_not_grow_with_the_length() -> None:
    short, long = pause_s(150)[0], pause_s(12_000)[0]
    step_s = 0.02
    # a copy of at most 16 blocks of 16 tokens, and the step it waits for at either side
    assert short <= 0.01 + 1e-4 * 256 + 3 * step_s
    assert long <= 0.01 + 1e-4 * 256 + 3 * step_s
    assert 10 * long < 0.01 + 1e-4 * 12_000, "a blocking copy would"


def test_what_waits_moves_at_once() -> None:
    class Waiting(Mover):
        def on(self, view: Any, event: Any) -> list[Any]:
            if isinstance(event, Tick) and view.instances[0].waiting:
                return [Move(r.id, 0, 1, "live") for r in view.instances[0].waiting]
            return super().on(view, event) if not isinstance(event, Tick) else []

    run = cluster(Waiting(), policy=PrefillFirstPolicy(), num_blocks=(100, 1000)).run(
        load([1000, 1000, 1000], [400, 20, 20])
    )
    assert run.requests.instance.tolist() == [0, 1, 1]
    assert run.steps.prefill_tokens.sum() == 3000


def test_a_full_target_refuses_and_the_request_stays() -> None:
    router = Mover()
    run = cluster(router, num_blocks=(1000, 20)).run(load([2000], [100]))
    assert "free blocks" in router.heard[0][1].why
    assert run.requests.instance.tolist() == [0]
    assert run.requests.max_gap_s[0] < 0.03


def test_a_request_that_ends_meanwhile_is_not_moved() -> None:
    router = Mover(at_s=(0.2,))
    run = cluster(router, transfer_s=lambda source, target, tokens: 10.0).run(load([2000], [30]))
    assert isinstance(router.heard[0][1], Refused)
    assert run.requests.instance.tolist() == [0]
    assert run.requests.output_tokens.tolist() == [30]


def test_one_that_writes_faster_than_it_is_copied_stays() -> None:
    router = Mover()
    run = cluster(router, transfer_s=lambda source, target, tokens: 8.0).run(load([1000], [2000]))
    assert "writes faster" in router.heard[0][1].why
    assert run.requests.instance.tolist() == [0]
    assert run.requests.max_gap_s[0] < 0.03


def test_a_move_given_up_frees_what_waits_at_its_target() -> None:
    """The blocks kept there were all that the waiting request lacked."""

    class Both(Mover):
        def on(self, view: Any, event: Any) -> list[Any]:
            if isinstance(event, Arrive) and event.request == 1:
                return [Admit(1, 1)]
            return super().on(view, event)

    work = load([1000, 1000], [400, 20]).with_changes(
        arrival_s=np.array([0.0, 1.5]), cancel_after_s=np.array([2.0, np.inf])
    )
    run = cluster(
        Both(), num_blocks=(1000, 100), transfer_s=lambda source, target, tokens: 100.0
    ).run(work)
    assert run.requests.status.tolist() == [1, 0]
    assert run.requests.scheduled_s[1] == pytest.approx(2.0)


def test_cancelled_at_any_time() -> None:
    for cancel_s in np.arange(0.9, 2.5, 0.05):
        work = load([5000, 300], [300, 300]).with_changes(
            cancel_after_s=np.array([cancel_s, np.inf])
        )
        router = Mover(at_s=(0.9, 1.0))
        run = cluster(router).run(work)
        assert run.requests.output_tokens[1] == 300
        assert len(router.heard) == 2, "how each move ended is told, also of one cancelled"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    victim=st.integers(0, 1),
    down_s=st.floats(0.3, 6),
    num_blocks=st.integers(120, 500),
    ahead=st.booleans(),
    fast=st.booleans(),
)
def test_killed_at_any_point_nothing_is_lost_or_leaked(
    seed: int, victim: int, down_s: float, num_blocks: int, ahead: bool, fast: bool
) -> None:
    router = Mover(at_s=np.arange(0.3, 6, 0.3).tolist())
    work = poisson(25, rate=8, seed=seed, prompt=1500, output=200)
    run = cluster(
        router,
        num_blocks=(num_blocks, num_blocks),
        policy=ChunkedPrefillPolicy(ahead=ahead),
        faults=(Fault(instance=victim, down_at_s=down_s, up_at_s=down_s + 1),),
        fast_forward=fast,
    ).run(work)
    assert (run.requests.status == 0).all()
    assert (run.requests.output_tokens == work.output_tokens).all()


def test_destination_killed_the_request_ends_at_its_source() -> None:
    """Two hundred times between the first copy and the end of the move."""
    for kill_s in np.linspace(0.95, 2.3, 200):
        router = Mover()
        run = cluster(router, faults=(Fault(instance=1, down_at_s=kill_s, up_at_s=1e9),)).run(
            load([10_000], [100])
        )
        assert run.requests.output_tokens.tolist() == [100]
        done = [event for _, event in router.heard if isinstance(event, MoveDone)]
        if not done:
            assert run.requests.instance.tolist() == [0]
            assert run.requests.preemptions.tolist() == [0]
            assert run.steps.prefill_tokens.sum() == 10_000, "nothing is computed again"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(2, 20))
def test_fast_forward_equals_stepping(seed: int, rate: float) -> None:
    from tests.serving.clusters import assert_same

    # odd times, and a target whose steps take no multiple of the source's: a step that began with
    # one copy must not end with a tick or the next copy, where rounding would say which is first
    work = poisson(30, rate=rate, seed=seed)
    runs = [
        cluster(
            Mover(at_s=np.arange(0.2, 5, 0.2).tolist(), tick_s=0.0493171),
            clocks=(CLOCK, LinearClock(step_base_s=0.0213719, token_s=1.13e-4)),
            transfer_s=lambda source, target, tokens: 0.011317 + 1.03719e-4 * tokens,
            fast_forward=fast,
        ).run(work)
        for fast in (True, False)
    ]
    assert_same(*runs)


@pytest.mark.parametrize(
    ("move", "why"),
    [(Move(0, 0, 0, "live"), "no such target"), (Move(0, 0, 7, "live"), "no such target")],
)
def test_moves_to_nowhere_are_errors(move: Move, why: str) -> None:
    class Wrong(Mover):
        def on(self, view: Any, event: Any) -> list[Any]:
            return [move] if isinstance(event, Tick) else super().on(view, event)

    with pytest.raises(PolicyError, match=why):
        cluster(Wrong()).run(load([100], [100]))


def test_instances_that_cannot_exchange_are_refused_with_the_reason() -> None:
    for change, why in (
        ({"block_tokens": 32}, "different sizes"),
        ({"role": "prefill"}, "prompts"),
    ):
        specs = [
            InstanceSpec(clock=CLOCK, policy=ChunkedPrefillPolicy(), num_blocks=500),
            InstanceSpec(clock=CLOCK, policy=ChunkedPrefillPolicy(), num_blocks=500, **change),
        ]
        executor = SimulatedExecutor(specs, Mover(), transfer_s=lambda a, b, n: 0.1)
        with pytest.raises(PolicyError, match=why):
            executor.run(load([100], [100]))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"low_steps": 60, "high_steps": 60}, "must be below"),
        ({"headroom_tokens": -1}, "negative"),
        ({"tick_s": 0}, "above 0"),
    ],
)
def test_marks_that_make_no_sense(options: dict[str, float], why: str) -> None:
    from plimsoll.serving.routers import FreenessPolicy

    with pytest.raises(SpecError, match=why):
        FreenessPolicy(**options)


def test_phases_a_policy_sees() -> None:
    """Until it stops a request that moves is an ordinary one of its source."""
    seen = set()

    class Watching(Mover):
        def on(self, view: Any, event: Any) -> list[Any]:
            if view.has(0):
                seen.add(view.request(0).phase)
            return super().on(view, event)

    cluster(Watching(), transfer_s=lambda source, target, tokens: 0.1).run(load([5000], [200]))
    assert {Phase.DECODE, Phase.MOVING} <= seen
