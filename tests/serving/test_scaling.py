"""Instances that start and stop: what is promised to requests, what it costs, what is refused."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy
from plimsoll.serving.policy import (
    Admit,
    Arrive,
    Join,
    Leave,
    Life,
    MoveDone,
    Refused,
    Retire,
    Scale,
    Tick,
)
from plimsoll.serving.routers import (
    ROUTERS,
    AutoscaledPolicy,
    FreenessPolicy,
    LeastDemandPolicy,
    LeastWorkPolicy,
    RoundRobinPolicy,
)
from plimsoll.serving.routers.autoscaled import Watch, cluster_steps
from plimsoll.serving.routers.freeness import freeness
from plimsoll.spec.errors import PolicyError, SpecError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload
from tests.serving.clusters import assert_same, poisson

CLOCK = LinearClock(step_base_s=0.02, token_s=1e-4)
START_S = 3.0


@dataclass
class Scripted:
    """Another router, and decisions at stated times; ``heard``: what came of them."""

    router: Any
    script: list[tuple[float, Any]]
    tick_s: float = 0.05
    heard: list[tuple[float, Any]] = field(default_factory=list)
    lives: list[tuple[Life, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kinds = {Arrive, Leave, Join, Tick, MoveDone, Refused}
        self.events = frozenset(kinds | self.router.events)

    def on(self, view: Any, event: Any) -> list[Any]:
        self.lives.append(tuple(inst.life for inst in view.instances))
        if isinstance(event, Leave | Join | Refused):
            self.heard.append((view.now_s, event))
        own = []
        if isinstance(event, Tick):
            due = [what for at_s, what in self.script if at_s <= view.now_s]
            made = view.mem.get("made", 0)
            view.mem["made"] = len(due)
            own = due[made:]
        theirs = isinstance(event, Arrive | Leave) or type(event) in self.router.events
        if isinstance(event, Refused) and isinstance(event.decision, Scale | Retire):
            theirs = False
        return [*(self.router.on(view, event) if theirs else ()), *own]

    def times(self, kind: type) -> list[float]:
        return [at_s for at_s, event in self.heard if isinstance(event, kind)]

    def whys(self) -> list[str]:
        return [event.why for _, event in self.heard if isinstance(event, Refused)]


def cluster(
    router: Any,
    *,
    num: int = 2,
    first: int | None = None,
    num_blocks: int | list[int] = 1000,
    policy: Any = None,
    **options: Any,
) -> SimulatedExecutor:
    blocks = num_blocks if isinstance(num_blocks, list) else [num_blocks] * num
    specs = [
        InstanceSpec(
            clock=CLOCK,
            policy=policy or ChunkedPrefillPolicy(),
            num_blocks=blocks[i],
            at_start=first is None or i < first,
            start_s=START_S,
        )
        for i in range(num)
    ]
    options.setdefault("transfer_s", lambda source, target, tokens: 0.011317 + 1.03719e-4 * tokens)
    return SimulatedExecutor(specs, router, check_books=True, **options)


def load(prompts: list[int], outputs: list[int], gap_s: float = 0.0) -> Workload:
    n = len(prompts)
    return Workload(
        name="load",
        arrival_s=np.arange(n) * gap_s,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
    )


def up_s(run: RunRecord) -> float:
    return float(sum(stop - start for _, start, stop in run.meta["up_spans"]))


def assert_served(run: RunRecord, work: Workload) -> None:
    assert (run.requests.status == 0).all()
    assert np.array_equal(run.requests.output_tokens, work.output_tokens)


# Starting


def test_one_that_is_started_joins_after_its_start_and_costs_from_the_decision_on() -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Scale(1))])
    work = load([500] * 40, [50] * 40, gap_s=0.25)
    run = cluster(router, first=1).run(work)
    assert_served(run, work)
    (at_s,) = router.times(Join)
    assert at_s == pytest.approx(1.0 + START_S, abs=0.051)
    began = run.steps.start_s[run.steps.instance == 1]
    assert began.min() >= at_s and len(began)
    spans = {int(i): (start, stop) for i, start, stop in run.meta["up_spans"]}
    assert spans[0] == (0.0, run.meta["end_s"])
    assert spans[1] == (pytest.approx(1.0, abs=0.051), run.meta["end_s"])


def test_more_than_are_stopped_is_refused_and_starts_nothing() -> None:
    router = Scripted(LeastWorkPolicy(), [(0.1, Scale(2))])
    run = cluster(router, first=1).run(load([500], [50]))
    assert router.whys() == ["1 instances are stopped"]
    assert {life for row in router.lives for life in row} == {Life.UP, Life.STOPPED}
    assert len(run.meta["up_spans"]) == 1


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (Scale(0), "1 or more"),
        (Scale(-1), "Retire stops"),
        (Retire(2), "instances 0 to 1"),
        (Retire(-1), "instances 0 to 1"),
    ],
)
def test_decisions_that_make_no_sense(action: Any, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        cluster(Scripted(LeastWorkPolicy(), [(0.1, action)])).run(load([500], [50]))


def test_a_fixed_fleet_says_nothing_of_its_time() -> None:
    run = cluster(LeastWorkPolicy()).run(load([500], [50]))
    assert "up_spans" not in run.meta


# Draining


@pytest.mark.parametrize("kind", sorted(set(ROUTERS) - {"disaggregated"}))
def test_no_router_sends_anything_to_one_that_drains(kind: str) -> None:
    router = Scripted(ROUTERS[kind](), [(1.0, Retire(0))])
    work = load([300] * 40, [60] * 40, gap_s=0.1)
    run = cluster(router, num=3).run(work)
    assert_served(run, work)
    (at_s,) = router.times(Leave)
    late = work.arrival_s > 1.05
    assert (run.requests.prefill_instance[late] != 0).all()
    assert (run.requests.prefill_instance[~late] == 0).any()
    assert run.requests.preemptions.sum() == 0
    mine = run.steps.instance == 0
    assert (run.steps.start_s + run.steps.duration_s)[mine].max() <= at_s + 1e-9
    assert router.heard[0][1] == Leave(0, ())


def test_moves_empty_it_in_seconds_and_without_them_its_last_request_decides() -> None:
    left = {}
    for migrate in (True, False):
        router = Scripted(FreenessPolicy(migrate=migrate), [(2.0, Retire(0))])
        work = load([300] * 8, [1000, 1000, 30, 30, 1000, 1000, 30, 30], gap_s=0.05)
        run = cluster(router).run(work)
        assert_served(run, work)
        (left[migrate],) = router.times(Leave)
        assert run.requests.preemptions.sum() == 0
        assert run.steps.prefill_tokens.sum() == 8 * 300, "nothing is computed again"
    assert left[True] < 4.0
    assert left[False] > 15.0


def test_what_waits_leaves_too() -> None:
    router = Scripted(FreenessPolicy(), [(0.55, Retire(0))])
    work = load([1500, 1500, 1500, 1500, 1500], [300] * 5)
    small = PrefillFirstPolicy(max_batched_tokens=1600)
    run = cluster(router, num_blocks=[150, 1000], policy=small).run(work)
    assert_served(run, work)
    (at_s,) = router.times(Leave)
    assert at_s < 3.0


def test_one_that_can_move_nowhere_ends_where_it_is() -> None:
    """The other instance is too small for the long request."""
    router = Scripted(FreenessPolicy(high_steps=11), [(1.5, Retire(0))])
    work = load([4000, 100], [200, 30])
    run = cluster(router, num_blocks=[1000, 100]).run(work)
    assert_served(run, work)
    assert run.requests.instance[0] == 0
    (at_s,) = router.times(Leave)
    assert at_s == pytest.approx(run.requests.finished_s[0], abs=0.03)
    assert run.requests.preemptions.sum() == 0


def test_without_draining_what_it_held_starts_anew() -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Retire(0, drain=False))])
    work = load([500] * 6, [200] * 6)
    run = cluster(router).run(work)
    assert_served(run, work)
    ((at_s, event),) = router.heard
    assert len(event.requests) == 3 and at_s == pytest.approx(1.0, abs=0.051)
    assert run.steps.prefill_tokens.sum() > 6 * 500
    assert up_s(run) == pytest.approx(at_s + run.meta["end_s"])


def test_the_last_one_stays() -> None:
    script = [(0.2, Retire(0)), (0.3, Retire(1)), (0.4, Retire(0)), (0.5, Retire(1, drain=False))]
    router = Scripted(LeastWorkPolicy(), script)
    work = load([500] * 4, [100] * 4)
    run = cluster(router).run(work)
    assert_served(run, work)
    assert router.whys() == [
        "instance 1 is the last that takes requests",
        "instance 0 is draining",
        "instance 1 is the last that takes requests",
    ]


def test_stopped_it_can_be_started_again() -> None:
    router = Scripted(LeastWorkPolicy(), [(0.2, Retire(0)), (0.3, Retire(0)), (4.0, Scale(1))])
    work = load([200] * 60, [20] * 60, gap_s=0.2)
    run = cluster(router).run(work)
    assert_served(run, work)
    assert len(router.times(Join)) == 1 and len(run.meta["up_spans"]) == 3
    again = run.requests.prefill_instance[work.arrival_s > 4 + START_S + 0.1]
    assert set(again.tolist()) == {0, 1}


# Faults


def test_killed_while_draining_its_requests_go_on_elsewhere_and_it_stays_down() -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Retire(0))])
    work = load([500] * 6, [200] * 6)
    fault = Fault(instance=0, down_at_s=2.0, up_at_s=2.5)
    run = cluster(router, faults=(fault,)).run(work)
    assert_served(run, work)
    ((at_s, event),) = router.heard
    assert at_s == 2.0 and len(event.requests) == 3
    assert router.lives[-1] == (Life.STOPPED, Life.UP)
    assert (run.steps.start_s[run.steps.instance == 0] < 2.0).all()


@pytest.mark.parametrize("back_s", [2.5, math.inf])
def test_killed_while_starting(back_s: float) -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Scale(1))])
    work = load([500] * 40, [50] * 40, gap_s=0.25)
    fault = Fault(instance=1, down_at_s=2.0, up_at_s=back_s)
    run = cluster(router, first=1, faults=(fault,)).run(work)
    assert_served(run, work)
    assert router.heard[0] == (2.0, Leave(1, ()))
    assert router.times(Join) == ([2.5] if back_s < 9 else [])
    assert bool((run.steps.instance == 1).any()) == (back_s < 9)


def test_a_fault_of_one_that_is_stopped_is_nobodys() -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Scale(1))])
    work = load([500] * 40, [50] * 40, gap_s=0.25)
    fault = Fault(instance=1, down_at_s=0.5, up_at_s=1.5)
    run = cluster(router, first=1, faults=(fault,)).run(work)
    assert_served(run, work)
    assert router.times(Join) == [pytest.approx(1.0 + START_S, abs=0.051)], "not by the repair"


def test_a_start_called_off() -> None:
    router = Scripted(LeastWorkPolicy(), [(1.0, Scale(1)), (2.0, Retire(1)), (2.5, Scale(1))])
    work = load([500] * 40, [50] * 40, gap_s=0.25)
    run = cluster(router, first=1).run(work)
    assert_served(run, work)
    assert [type(event) for _, event in router.heard] == [Leave, Join]
    assert router.times(Join) == [pytest.approx(2.5 + START_S, abs=0.051)]
    assert len([span for span in run.meta["up_spans"] if span[0] == 1]) == 2


# At random


class Restless:
    """Scales, retires and lets be at random, around a router."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.tick_s = 0.0493171
        self.events = router.events | {Tick, Refused, Join, Leave}
        self.done = 0

    def on(self, view: Any, event: Any) -> list[Any]:
        if isinstance(event, Refused) and isinstance(event.decision, Scale | Retire):
            return []
        found = list(self.router.on(view, event)) if self._theirs(event) else []
        if isinstance(event, Tick) and view.rng.random() < 0.2:
            lives = [inst.life for inst in view.instances]
            index = int(view.rng.integers(len(lives)))
            drain = bool(view.rng.random() < 0.8)
            act = Scale(1) if view.rng.random() < 0.5 else Retire(index, drain)
            self.done += 1
            found.append(act)
        return found

    def _theirs(self, event: Any) -> bool:
        return isinstance(event, Arrive | Leave) or type(event) in self.router.events


AT_RANDOM = {
    "freeness": lambda: FreenessPolicy(low_steps=200, high_steps=300, tick_s=0.0493171),
    "least-demand": LeastDemandPolicy,
    "round-robin": RoundRobinPolicy,
}


@example("freeness", 201, 222, False, 2, 2.486283723497784, 2, 5)  # tokens of a run of steps
@example("freeness", 5369, 408, False, 3, 2.6325184461241644, 2, 1)  # a move's blocks set free
@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(sorted(AT_RANDOM)),
    seed=st.integers(0, 10_000),
    num_blocks=st.integers(120, 500),
    ahead=st.booleans(),
    first=st.integers(1, 4),
    down_s=st.floats(0.1, 6),
    victim=st.integers(0, 3),
    num_cancelled=st.integers(0, 8),
)
def test_nothing_is_lost_or_doubled_and_stepping_agrees(
    name: str,
    seed: int,
    num_blocks: int,
    ahead: bool,
    first: int,
    down_s: float,
    victim: int,
    num_cancelled: int,
) -> None:
    work = poisson(30, rate=6, seed=seed, prompt=1500, output=200)
    patience = np.full(30, np.inf)
    patience[:num_cancelled] = np.linspace(0.3, 5.1, 8)[:num_cancelled]
    work = work.with_changes(cancel_after_s=patience)
    routers = [Restless(AT_RANDOM[name]()) for _ in range(2)]
    runs = [
        cluster(
            router,
            num=4,
            first=first,
            num_blocks=num_blocks,
            policy=ChunkedPrefillPolicy(ahead=ahead),
            faults=(Fault(instance=victim, down_at_s=down_s, up_at_s=down_s + 1.7),),
            fast_forward=fast,
            seed=seed,
        ).run(work)
        for router, fast in zip(routers, (True, False), strict=True)
    ]
    assert_same(*runs)
    status = runs[0].requests.status
    assert set(status.tolist()) <= {0, 1}, "finished or cancelled, each once"
    assert (status[num_cancelled:] == 0).all()
    done = status == 0
    assert np.array_equal(runs[0].requests.output_tokens[done], work.output_tokens[done])
    assert np.allclose(runs[0].meta["up_spans"], runs[1].meta["up_spans"], atol=1e-9)
    spans = runs[0].meta["up_spans"]
    for i, begin, stop in spans:
        assert 0 <= begin < stop <= runs[0].meta["end_s"] + 1e-9
        assert not any(j == i and begin < other < stop for j, other, _ in spans)
    steps = runs[0].steps
    for i, start_s in zip(steps.instance, steps.start_s, strict=True):
        assert any(j == i and b - 1e-9 <= start_s <= s + 1e-9 for j, b, s in spans), (
            "only what is paid for works"
        )


# Deciding


def test_a_mark_must_be_passed_for_a_while_and_then_it_rests() -> None:
    watch = Watch()
    script = [
        (0, 1),
        (5, 1),
        (6, 0),
        (7, 1),
        (16, 1),
        (17, 1),
        (20, 1),
        (27, 1),
        (30, -1),
        (40, -1),
    ]
    acts = [watch.look(beyond, float(at), 10.0, 10.0) for at, beyond in script]
    assert acts == [0, 0, 0, 0, 0, 1, 0, 1, 0, -1]


def test_rest_is_kept_between_different_decisions() -> None:
    watch = Watch()
    assert watch.look(1, 0.0, 0.0, 30.0) == 1
    assert [watch.look(-1, float(t), 5.0, 30.0) for t in (10, 29, 30, 31)] == [0, 0, -1, 0]


class Peek(AutoscaledPolicy):
    """Remembers what it saw."""

    def on(self, view: Any, event: Any) -> Any:
        insts = view.instances
        self.seen.append((cluster_steps(insts), [(i.life, freeness(i)) for i in insts]))
        return AutoscaledPolicy.on(self, view, event)

    seen: list[Any]


class _Peek(Peek):
    __slots__ = ("seen",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen = []


def test_the_measure_is_that_of_those_that_take_requests() -> None:
    router = _Peek(FreenessPolicy(migrate=False), min_instances=1, hold_s=0.5, cooldown_s=0.5)
    cluster(router, num=3).run(load([300, 300], [200, 300]))
    assert math.isinf(router.seen[0][0]), "nothing runs"
    drained = [row for row in router.seen if Life.DRAINING in (life for life, _ in row[1])]
    assert drained
    for steps, rows in drained:
        assert all(f == -math.inf for life, f in rows if life is Life.DRAINING)
        assert steps > 0


def bursts(seed: int = 0, n: int = 240) -> Workload:
    """Quiet, a rush, quiet."""
    rng = np.random.default_rng(seed)
    gaps = np.where((np.arange(n) // 80) % 2 == 1, 0.05, 1.0) * rng.exponential(1, n)
    return Workload(
        name="bursts",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=rng.integers(200, 1500, n),
        output_tokens=rng.integers(50, 300, n),
        max_tokens=np.full(n, 300),
    )


@pytest.mark.parametrize("inner", [FreenessPolicy, LeastDemandPolicy, RoundRobinPolicy])
def test_the_number_follows_the_load(inner: Any) -> None:
    router = AutoscaledPolicy(
        inner(), min_instances=1, low_steps=300, high_steps=1200, hold_s=2, cooldown_s=3
    )
    work = bursts()
    executor = cluster(router, num=6, first=2, num_blocks=400, log_decisions=True)
    run = executor.run(work)
    assert_served(run, work)
    acts = [(row[0], row[3]) for row in executor.decisions if isinstance(row[3], Scale | Retire)]
    rush = work.arrival_s[[80, 160]]
    assert any(isinstance(a, Scale) and rush[0] < at < rush[1] + 2 for at, a in acts)
    assert any(isinstance(a, Retire) and at > rush[1] for at, a in acts)
    assert all(
        later - before >= 3 - 1e-9 for (before, _), (later, _) in itertools.pairwise(acts)
    ), "it rests between decisions"
    assert up_s(run) < 0.7 * 6 * run.meta["end_s"]


def test_never_below_the_least_nor_above_all() -> None:
    idle = AutoscaledPolicy(FreenessPolicy(), min_instances=2, hold_s=1, cooldown_s=1)
    run = cluster(idle, num=4).run(load([50] * 30, [5] * 30, gap_s=1.0))
    least = min(_up_at(run, at_s) for at_s in np.arange(0.5, run.meta["end_s"], 0.5))
    assert least == 2
    busy = AutoscaledPolicy(
        FreenessPolicy(), low_steps=1e6, high_steps=1e7, hold_s=0.2, cooldown_s=0.2
    )
    run = cluster(busy, num=4, first=1).run(load([500] * 60, [200] * 60, gap_s=0.2))
    most = max(_up_at(run, at_s) for at_s in np.arange(0.5, run.meta["end_s"], 0.5))
    assert most == 4


def _up_at(run: RunRecord, at_s: float) -> int:
    return sum(start <= at_s < stop for _, start, stop in run.meta["up_spans"])


@pytest.mark.parametrize("fall_s", [1.0, 4.0])
def test_one_that_is_lost_is_replaced(fall_s: float) -> None:
    """Up or starting, below the least number another starts at once."""
    router = AutoscaledPolicy(LeastWorkPolicy(), min_instances=1, hold_s=1e6)
    work = load([500] * 40, [50] * 40, gap_s=0.5)
    faults = [Fault(instance=0, down_at_s=1.0, up_at_s=math.inf)]
    if fall_s > 1:
        faults.append(Fault(instance=1, down_at_s=2.0, up_at_s=math.inf))
    run = cluster(router, num=3, first=1, faults=faults).run(work)
    assert_served(run, work)
    assert run.requests.instance[-1] == len(faults)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"low_steps": 60, "high_steps": 60}, "must be below"),
        ({"min_instances": 0}, "nobody to serve"),
        ({"hold_s": -1}, "0 or more seconds"),
        ({"cooldown_s": -1}, "0 or more seconds"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, float], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        AutoscaledPolicy(FreenessPolicy(), **options)


def test_a_router_that_does_not_listen_is_asked_again() -> None:
    """An admission refused since its instance drains goes where the router says next."""

    class Stubborn(LeastWorkPolicy):
        def on(self, view: Any, event: Any) -> Any:
            if isinstance(event, Arrive) and event.request == 1 and not view.mem.get("tried"):
                view.mem["tried"] = True
                return [Retire(0), Admit(1, 0)]
            return LeastWorkPolicy.on(self, view, event)

    work = load([100, 100], [50, 50], gap_s=0.1)
    run = cluster(AutoscaledPolicy(Stubborn(), hold_s=1e6)).run(work)
    assert_served(run, work)
    assert run.requests.instance.tolist() == [0, 1]
