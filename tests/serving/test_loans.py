"""KV blocks that simulated instances hold for each other; arXiv 2401.02669."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.lent_steps import Lending
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import (
    Admit,
    Arrive,
    Join,
    Leave,
    Lend,
    MoveDone,
    Recall,
    Refused,
    Tick,
)
from plimsoll.spec.errors import PolicyError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload
from tests.serving.clusters import assert_same

STEP_S, TOKEN_S, CONTEXT_S = 0.02, 1e-5, 1e-6
CLOCK = LinearClock(step_base_s=STEP_S, token_s=TOKEN_S, context_s=CONTEXT_S)
EXCHANGE_S = 3e-3


@dataclass
class Script:
    """Requests go to the instance of their row modulo ``spread``; ``act(view)`` at every tick."""

    act: Callable[[Any, "Script"], Sequence[Any]]
    spread: int = 1
    borrows: int = 0
    tick_s: float = 0.05
    events: frozenset[type] = frozenset({Arrive, Join, Leave, MoveDone, Refused, Tick})
    done: list[tuple[float, MoveDone]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> Sequence[Any]:
        if isinstance(event, Arrive):
            return [Admit(event.request, event.request % self.spread, borrows=self.borrows)]
        if isinstance(event, Leave):
            up = next(inst.id for inst in view.instances if inst.up)
            return [Admit(request, up) for request in event.requests]
        if isinstance(event, MoveDone):
            self.done.append((view.now_s, event))
        elif isinstance(event, Refused):
            self.refused.append(event)
        elif isinstance(event, Tick):
            return self.act(view, self)
        return ()


def once(at_s: float, *actions: Any) -> Callable[[Any, Script], Sequence[Any]]:
    """These actions at the first tick from ``at_s`` on."""
    left = list(actions)

    def act(view: Any, script: Script) -> Sequence[Any]:
        if view.now_s < at_s or not left:
            return ()
        now, left[:] = list(left), []
        return now

    return act


def load(prompts: Sequence[int], outputs: Sequence[int]) -> Workload:
    return Workload(
        name="load",
        arrival_s=np.arange(len(prompts)) * 1e-3,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
    )


def run(
    script: Any,
    work: Workload,
    *,
    num_instances: int = 2,
    num_blocks: int = 300,
    lent_fraction: float = 1.0,
    charge: bool = True,
    copy_s: float = 1e-3,
    budget: int = 512,
    **options: Any,
) -> RunRecord:
    spec = InstanceSpec(
        clock=CLOCK,
        policy=ChunkedPrefillPolicy(token_budget=budget),
        num_blocks=num_blocks,
        prefix_caching=False,
        lent_fraction=lent_fraction,
    )
    lending = Lending(
        exchange_s=lambda source, queries: EXCHANGE_S * bool(queries), charge_creditors=charge
    )
    return SimulatedExecutor(
        [spec] * num_instances,
        script,
        transfer_s=lambda a, b, n: copy_s,
        lending=lending,
        check_books=True,
        **options,
    ).run(work)


def test_lent_blocks_are_free_at_the_debtor_and_held_at_the_creditor() -> None:
    seen = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        a, b = (inst.pool for inst in view.instances)
        seen.append((a.free, b.free, b.lent, dict(a.away)))
        return [Lend(0, 40, 0, 1)] if len(seen) == 4 else ()

    record = run(Script(act), load([1000], [200]))
    assert record.requests.status.tolist() == [0]
    before, after = seen[3], seen[5]
    assert after[3] == {0: {1: 40}} and before[3] == {}
    assert (before[1], after[1], after[2]) == (300, 260, 40)
    assert 38 <= after[0] - before[0] <= 40, "it grows by a block in 16 steps"
    assert seen[-1][1:] == (260, 40, {0: {1: 40}})


def test_all_of_it_comes_back_when_the_request_ends() -> None:
    pools = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        pools[:] = [inst.pool for inst in view.instances]
        return [Lend(0, 10, 0, 1)] if view.has(0) and not script.done else ()

    run(Script(act), load([1000, 10], [100, 600]))
    assert [(pool.lent, pool.leaving, dict(pool.away)) for pool in pools] == [(0, 0, {})] * 2
    assert pools[1].free == 300


def test_a_step_waits_for_the_exchange_and_the_creditor_pays_for_its_attention() -> None:
    """Trap d: the creditor's attention takes its own time."""
    script = Script(once(0.5, Lend(0, 60, 0, 1)), spread=2)
    work = load([1000, 1000], [400, 400])
    alone = run(Script(lambda *_: (), spread=2), work)
    lent = run(script, work)
    free = run(Script(once(0.5, Lend(0, 60, 0, 1)), spread=2), work, charge=False)
    lent_s = 60 * 16 * CONTEXT_S
    start = script.done[0][0]

    def steps(record: RunRecord, instance: int) -> Any:
        mine = (record.steps.instance == instance) & (record.steps.start_s > start + 0.1)
        one = mine & (record.steps.num_steps == 1)
        return record.steps.step_s[one], record.steps.stall_s[one], record.steps.decode_context[one]

    step_s, stall_s, context = steps(lent, 0)
    own_s = (context - 960) * CONTEXT_S
    expected_s = STEP_S + own_s + EXCHANGE_S + np.maximum(0, lent_s - own_s)
    assert len(step_s) > 100 and np.allclose(step_s, expected_s, rtol=0, atol=2 * CONTEXT_S)
    assert not stall_s.any()
    _, stall_s, _ = steps(lent, 1)
    began_s = lent.steps.start_s
    last_s = began_s[lent.steps.instance == 1].max()
    asked = (lent.steps.instance == 0) & (began_s > start + 0.1) & (began_s < last_s)
    assert len(stall_s) and stall_s.sum() == pytest.approx(lent_s * asked.sum(), rel=0.05)
    ends = [record.requests.finished_s[1] for record in (alone, free, lent)]
    assert ends[0] == pytest.approx(ends[1]) and ends[2] > ends[1] + 300 * lent_s
    assert steps(free, 0)[0].size and not free.steps.stall_s.any()


def test_an_idle_creditor_pays_with_its_idle_time() -> None:
    script = Script(once(0.5, Lend(0, 60, 0, 1)))
    work = load([1000, 100], [100, 5])
    work = work.with_changes(arrival_s=np.array([0.0, 30.0]))
    record = run(script, work)
    assert len(script.done) == 1 and not record.steps.stall_s.any()


def test_the_block_being_written_is_not_lent() -> None:
    """Trap e, and that no more is lent than there is."""
    wanted = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        inst = view.instances[0]
        request = next(iter(inst.decoding(0)), None)
        if request is None or script.done or script.refused:
            return ()
        wanted.append((inst.lendable(request), request.computed))
        return [Lend(0, inst.lendable(request) + 1, 0, 1)]

    script = Script(act)
    run(script, load([1000], [50]))
    full, computed = wanted[0]
    assert full <= computed // 16 and "full blocks" in script.refused[0].why
    assert script.done == []


def test_a_creditor_grants_at_once_or_refuses() -> None:
    """From its own free blocks, up to its cap; nothing is handed on to the third instance."""
    script = Script(once(0.5, Lend(0, 31, 0, 1), Lend(0, 30, 0, 1), Lend(0, 1, 0, 1)))
    seen = []

    def act(view: Any, _: Script, inner: Any = script.act) -> Sequence[Any]:
        seen[:] = [(inst.pool.lent, inst.pool.most_lent) for inst in view.instances]
        return inner(view, script)

    script.act = act
    run(script, load([1000], [100]), num_instances=3, num_blocks=100, lent_fraction=0.3)
    assert [(r.decision.blocks, "at most 30" in r.why) for r in script.refused] == [
        (31, True),
        (1, True),
    ]
    assert seen == [(0, 30), (30, 30), (0, 30)]
    full = Script(once(0.5, Lend(0, 50, 0, 1)), spread=2)
    run(full, load([1000, 1000], [100, 100]), num_blocks=80)
    assert full.done == [] and "blocks to spare" in full.refused[0].why


def test_loans_are_not_chained() -> None:
    """Trap f: what a creditor holds for another is not its own to lend; it goes home or on."""
    asked = [Lend(0, 40, 0, 1)]
    later: list[Any] = []
    away = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        away.append({r: dict(h) for r, h in view.instances[0].pool.away.items()})
        if view.now_s > 0.5 and asked:
            return [asked.pop()]
        if view.now_s > 1.0 and not later:
            later.append(view.instances[1].lendable(view.request(0)))
            return [Lend(0, 15, 1, 2)]
        return ()

    script = Script(act)
    run(script, load([1000], [100]), num_instances=3)
    assert later == [0]
    assert away[-1] == {0: {1: 25, 2: 15}}, "the debt stays the first instance's own"
    assert [(d.source, d.target) for _, d in script.done] == [(0, 1), (1, 2)]


def test_blocks_come_home() -> None:
    plan = [(0.5, Lend(0, 40, 0, 1)), (1.0, Lend(0, 15, 1, 0)), (1.5, Lend(0, 25, 1, 0))]
    away = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        away.append((dict(view.instances[0].pool.away.get(0, {})), view.instances[1].pool.lent))
        if plan and view.now_s > plan[0][0]:
            return [plan.pop(0)[1]]
        return ()

    record = run(Script(act), load([1000], [200]))
    states = [state for i, state in enumerate(away) if not i or state != away[i - 1]]
    assert [s[0] for s in states if s[1] == sum(s[0].values())] == [{}, {1: 40}, {1: 25}, {}]
    assert record.requests.status.tolist() == [0] and not record.requests.preemptions.any()


@pytest.mark.parametrize("moved", [False, True])
def test_a_recall_has_a_deadline(moved: bool) -> None:
    """What has not gone by then is dropped, and its request computed again."""
    plan: list[tuple[float, list[Any]]] = [(0.5, [Lend(0, 40, 0, 1)]), (1.0, [Recall(1, 30, 0.5)])]
    if moved:
        plan[1][1].append(Lend(0, 30, 1, 2))
    lent = []

    def act(view: Any, script: Script) -> Sequence[Any]:
        lent.append((view.now_s, view.instances[1].pool.lent))
        if plan and view.now_s > plan[0][0]:
            return plan.pop(0)[1]
        return [Lend(0, 1, 0, 1)] if 1.2 < view.now_s < 1.3 else ()

    script = Script(act)
    record = run(script, load([1000], [200]), num_instances=3)
    assert record.requests.preemptions.tolist() == [0 if moved else 1]
    assert record.requests.output_tokens.tolist() == [200]
    assert all(n <= (10 if moved else 0) for at_s, n in lent if at_s > 1.7)
    assert any("recalls" in r.why for r in script.refused), "it grants nothing meanwhile"


def test_a_lost_creditor_costs_its_debtors_their_kv_not_their_tokens() -> None:
    script = Script(once(0.5, Lend(0, 40, 0, 1)))
    record = run(
        script,
        load([1000, 500], [200, 200]),
        faults=[Fault(instance=1, down_at_s=1.5, up_at_s=2.0)],
    )
    assert script.done and record.requests.status.tolist() == [0, 0]
    assert record.requests.preemptions.tolist() == [1, 0]
    assert record.requests.output_tokens.tolist() == [200, 200]


def test_a_lost_debtor_leaves_nothing_behind() -> None:
    script = Script(once(0.5, Lend(0, 40, 0, 1), Lend(0, 3, 0, 1)))
    pools = []

    def act(view: Any, _: Script, inner: Any = script.act) -> Sequence[Any]:
        pools[:] = [inst.pool for inst in view.instances]
        return inner(view, script)

    script.act = act
    record = run(
        script,
        load([1000], [200]),
        faults=[Fault(instance=0, down_at_s=1.5, up_at_s=2.0)],
    )
    assert len(script.done) == 2 and record.requests.status.tolist() == [0]
    assert record.requests.instance.tolist() == [1]
    assert [pool.lent for pool in pools] == [0, 0]


def test_a_context_longer_than_an_instance_runs_with_what_others_lend() -> None:
    def act(view: Any, script: Script) -> Sequence[Any]:
        inst = view.instances[0]
        found = []
        for request in (*inst.decoding(0), *inst.prefilling(0)):
            for i in (1, 2):
                blocks = min(inst.lendable(request), view.instances[i].pool.free)
                if inst.pool.free < 64 and blocks and not found:
                    found.append(Lend(request.id, blocks, 0, i))
        return found

    script = Script(act, borrows=300, tick_s=0.01)
    work = load([16 * 290 - 1], [1])
    record = run(script, work, num_instances=3, num_blocks=100)
    assert record.requests.status.tolist() == [0] and script.done
    refusing = Script(act)
    assert run(refusing, work, num_instances=3, num_blocks=100).meta["rejected"]


@pytest.mark.parametrize(
    "lend",
    [
        Lend(0, 0, 0, 1),
        Lend(0, 5, 0, 0),
        Lend(0, 5, 0, 7),
        Lend(9, 5, 0, 1),
        Recall(7, 5, 1.0),
        Recall(1, 0, 1.0),
        Recall(1, 5, -1.0),
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_the_decision(lend: Any) -> None:
    with pytest.raises(PolicyError, match=type(lend).__name__):
        run(Script(once(0.2, lend)), load([1000], [100]))


def test_a_run_without_links_lends_nothing() -> None:
    spec = InstanceSpec(clock=CLOCK, policy=ChunkedPrefillPolicy(), num_blocks=300)
    script = Script(once(0.2, Lend(0, 5, 0, 1)))
    record = SimulatedExecutor([spec] * 2, script).run(load([1000], [100]))
    assert record.requests.status.tolist() == [0] and script.done == []
    assert "attends to no KV" in script.refused[0].why


@dataclass
class AtRandom:
    """Lends, brings home, passes on and recalls at random, legal or not."""

    seed: int = 0
    tick_s: float = 0.03
    events: frozenset[type] = frozenset({Arrive, Join, Leave, MoveDone, Refused, Tick})
    heard: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> Sequence[Any]:
        up = [inst.id for inst in view.instances if inst.up]
        if isinstance(event, Arrive):
            return [Admit(event.request, up[event.request % len(up)])]
        if isinstance(event, Leave):
            return [Admit(request, up[request % len(up)]) for request in event.requests]
        if isinstance(event, MoveDone | Refused):
            self.heard.append(event)
        if not isinstance(event, Tick):
            return ()
        rng, found = view.rng, []
        for inst in view.instances:
            for request in (*inst.decoding(0), *inst.prefilling(0)):
                if rng.random() < 0.2:
                    source = int(rng.integers(0, 4)) if rng.random() < 0.5 else inst.id
                    target = int(rng.integers(0, 4))
                    if source != target:
                        blocks = int(rng.integers(1, 40))
                        found.append(Lend(request.id, blocks, source, target))
            if rng.random() < 0.02:
                found.append(Recall(inst.id, int(rng.integers(1, 50)), float(rng.random())))
        return found


@pytest.mark.parametrize("seed", range(3))
def test_books_balance_whatever_is_lent_and_both_ways_of_stepping_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    work = Workload(
        name="random",
        arrival_s=np.cumsum(rng.exponential(0.1, n)),
        prompt_tokens=rng.integers(10, 1500, n),
        output_tokens=rng.integers(1, 150, n),
        max_tokens=np.full(n, 150),
        cancel_after_s=np.where(rng.random(n) < 0.1, rng.random(n), np.inf),
    )
    faults = [Fault(instance=1, down_at_s=2.0, up_at_s=3.0)]
    records, routers = [], []
    for fast in (True, False):
        routers.append(AtRandom())
        records.append(
            run(
                routers[-1], work, num_instances=4, num_blocks=150, faults=faults,
                seed=seed, fast_forward=fast, refusal_rate=0.02, copy_s=0.05,
            )
        )  # fmt: skip
    kinds = {type(event) for event in routers[0].heard}
    assert kinds == {MoveDone, Refused} and set(records[0].requests.status) <= {0, 1, 3}
    assert_same(*records)
