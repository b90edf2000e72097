"""A hundred thousand random decisions: legal ones keep the books, illegal ones are named."""

import numpy as np
import pytest

from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import (
    Abort,
    Admit,
    Arrive,
    Cancel,
    Ended,
    Join,
    Leave,
    Move,
    Park,
    Refused,
    Reject,
    Resume,
    Run,
    Step,
    Tick,
)
from plimsoll.spec.errors import PolicyError
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK

FALLBACK = ChunkedPrefillPolicy(token_budget=256, max_partial_prefills=3)


def fits(request, pool, tokens, free):
    return pool.blocks_for(request, tokens) <= free


class RandomSteps:
    """Any legal step, sometimes a decision about a request that has ended.

    At decision number ``misstep_at`` it returns an illegal one and keeps it in ``illegal``.
    """

    def __init__(self, misstep_at=0):
        self.decisions = 0
        self.overtaken = 0
        self.misstep_at = misstep_at
        self.illegal = None

    def step(self, view, inst, slot):
        rng, pool = view.rng, inst.pool
        if self.misstep_at and self.decisions >= self.misstep_at:
            illegal = self.misstep(view, inst, slot, rng)
            if illegal is not None:
                return illegal
        actions, runs = [], []
        for queue in (inst.waiting, inst.decoding(slot)):
            for request in queue:
                view.mem["newest"] = max(view.mem.get("newest", 0), request.id)
        stale = int(rng.integers(view.mem.get("newest", 0) + 1))
        if not view.has(stale) and rng.random() < 0.05:
            choices = [Park(stale, "swap"), Park(stale, "recompute"), Resume(stale), Abort(stale)]
            actions.append(choices[rng.integers(4)])
            self.overtaken += 1
        free = pool.free - pool.decode_blocks(slot)
        room = inst.max_num_seqs - inst.num_decoding(slot) - len(inst.prefilling(slot))
        for request in inst.parked(slot):
            tokens = request.computed + 1
            if room > 0 and rng.random() < 0.5 and fits(request, pool, tokens, free):
                free -= pool.blocks_for(request, tokens)
                room -= 1
                actions.append(Resume(request.id))
        for request in inst.decoding(slot):
            if rng.random() < 0.02:
                how = "recompute"
                if -(-request.computed // pool.block_tokens) <= pool.host_free / 64:
                    how = str(rng.choice(["recompute", "swap"]))
                actions.append(Park(request.id, how))
            elif rng.random() < 0.001:
                actions.append(Abort(request.id))
        for request in (*inst.prefilling(slot), *inst.waiting):
            waits = request.phase == "waiting"
            if rng.random() < 0.5 or (waits and room <= 0):
                continue
            pending = request.pending - (pool.cached_tokens(request) if waits else 0)
            tokens = int(rng.integers(1, pending + 1))
            if fits(request, pool, tokens, free):
                free -= pool.blocks_for(request, tokens)
                room -= waits
                runs.append(Run(request.id, tokens))
        decode_all = inst.num_decoding(slot) > 0 and free >= 0 and bool(rng.random() < 0.9)
        if free < 0:
            runs = []
        self.decisions += len(actions) + len(runs) + 1
        if not runs and not decode_all:
            return FALLBACK.step(view, inst, slot)
        return Step(actions=tuple(actions), runs=tuple(runs), decode_all=decode_all)

    def misstep(self, view, inst, slot, rng):
        """A step with one illegal decision, if the state allows the kind drawn."""
        waiting, decoding = list(inst.waiting), list(inst.decoding(slot))
        parked, prefilling = list(inst.parked(slot)), list(inst.prefilling(slot))
        runs, actions = [], []
        for request in waiting[:1]:
            fresh = request.computed == 0
            runs += [Run(request.id, request.pending + 1), Run(request.id, 0), Run(request.id, -3)]
            actions += [Resume(request.id)]
            actions += [Park(request.id, "recompute")] if fresh else []
        for request in decoding[:1]:
            runs += [Run(request.id, 1)]
            actions += [Park(request.id, "drop"), Resume(request.id), Admit(request.id, 0)]
        for request in parked[:1]:
            runs += [Run(request.id, 1)]
            actions += [Park(request.id, "recompute")]
        for request in prefilling[:1]:
            runs += [Run(request.id, request.pending + 5)]
        for nobody in (10**9, -1, "x"):
            runs += [Run(nobody, 1)]
            actions += [Abort(nobody), Resume(nobody), Park(nobody, "swap")]
        chosen = rng.integers(len(runs) + len(actions))
        if chosen < len(runs):
            self.illegal = runs[chosen]
            return Step(runs=(self.illegal,))
        self.illegal = actions[chosen - len(runs)]
        return Step(actions=(self.illegal,))


class RandomRouter:
    """Anywhere that is up; now and then a decision about a request that has ended."""

    tick_s = 0.25
    events = frozenset({Arrive, Leave, Join, Cancel, Ended, Refused})

    def __init__(self, misstep_at=0):
        self.decisions = 0
        self.overtaken = 0
        self.misstep_at = misstep_at
        self.illegal = None

    def on(self, view, event):
        rng, home = view.rng, view.mem.setdefault("homeless", [])
        gone = view.mem.setdefault("gone", [])
        up = [inst.id for inst in view.instances if inst.up]
        actions = []
        if isinstance(event, Arrive):
            home.append(event.request)
        elif isinstance(event, Leave):
            home += event.requests
        elif isinstance(event, (Ended, Cancel)):
            gone.append(event.request)
        elif isinstance(event, Tick) and gone and rng.random() < 0.2:
            stale = int(rng.choice(gone))
            if not view.has(stale):
                choices = [Admit(stale, 0), Reject(stale, "late"), Move(stale, 0, 1)]
                actions.append(choices[rng.integers(3)])
                self.overtaken += 1
        if up:
            for request in filter(view.has, home):
                if rng.random() < 0.02 and view.request(request).generated == 0:
                    actions.append(Reject(request, "at random"))
                else:
                    actions.append(Admit(request, int(rng.choice(up))))
            home.clear()
        self.decisions += len(actions)
        if self.misstep_at and self.decisions >= self.misstep_at:
            placed = [r.id for inst in view.instances for r in inst.decoding(0)]
            choices = [Admit(10**7, 0), Admit(-2, 0), Reject(10**7, ""), Move(-1, 0, 1)]
            if placed:
                choices += [Admit(placed[0], 0), Reject(placed[0], ""), Move(placed[0], 0, 1)]
                choices += [Park(placed[0], "swap"), Abort(placed[0])]
            if isinstance(event, Arrive):
                choices += [Admit(event.request, 99), Admit(event.request, -1)]
                actions = []
            self.illegal = choices[rng.integers(len(choices))]
            return [self.illegal, *actions]
        return actions


def run(seed, *, requests, misstep_at=0, router_misstep_at=0, **more):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, 400, requests)
    roots = rng.integers(0, 3, requests)
    blocks = -(-prompts // 32)
    workload = Workload(
        name="random",
        arrival_s=np.cumsum(rng.exponential(0.02, requests)),
        prompt_tokens=prompts,
        output_tokens=rng.integers(1, 60, requests),
        cancel_after_s=np.where(rng.random(requests) < 0.1, rng.uniform(0, 4, requests), np.inf),
        prefix_keys=np.concatenate(
            [r * 1000 + np.arange(b) for r, b in zip(roots, blocks, strict=True)]
        ),
        prefix_start=np.cumsum([0, *blocks]),
        prefix_block_tokens=32,
    )
    policies = [RandomSteps(misstep_at), RandomSteps()]
    router = RandomRouter(router_misstep_at)
    specs = [
        InstanceSpec(
            policy=p, clock=CLOCK, num_blocks=60, max_num_seqs=12, host_blocks=4000, **more
        )
        for p in policies
    ]
    executor = SimulatedExecutor(
        specs,
        router,
        seed=seed,
        faults=(Fault(instance=1, down_at_s=1.0, up_at_s=2.0),),
        check_books=True,
    )
    try:
        return executor.run(workload), workload, policies, router
    except PolicyError as error:
        return error, workload, policies, router


def test_legal_decisions_keep_every_book_and_overtaken_ones_are_refused():
    decisions = refused = 0
    seed = 0
    while decisions < 100_000:
        record, workload, policies, router = run(seed, requests=400)
        assert not isinstance(record, PolicyError), record
        decisions += sum(p.decisions for p in policies) + router.decisions
        overtaken = sum(p.overtaken for p in policies) + router.overtaken
        assert record.meta["refused"] >= router.overtaken
        refused += record.meta["refused"]
        assert record.meta["refused"] <= overtaken + 50
        status = record.requests.status
        assert (status < 4).all(), "no request is forgotten"
        finished = record.requests.ok
        assert finished.sum() > 250
        assert np.array_equal(
            record.requests.output_tokens[finished], workload.output_tokens[finished]
        )
        seed += 1
    assert refused > 100


@pytest.mark.parametrize("groups", [False, True])
def test_copies_beside_the_steps_keep_every_book(groups):
    swapping = SwapSpec(
        groups=groups,
        asynchronous=True,
        reuse=True,
        group_blocks=6,
        bytes_per_s=100.0,
        short_s=0.0,
        small_batch=1,
    )
    decisions = back = 0
    for seed in range(2):
        record, workload, policies, router = run(
            seed, requests=200, prefix_caching=False, swapping=swapping
        )
        assert not isinstance(record, PolicyError), record
        decisions += sum(p.decisions for p in policies) + router.decisions
        back += record.meta["swap_in_blocks"]
        finished = record.requests.ok
        assert (record.requests.status < 4).all() and finished.sum() > 120
        assert np.array_equal(
            record.requests.output_tokens[finished], workload.output_tokens[finished]
        )
    assert decisions > 2_500 and back > 100


@pytest.mark.parametrize("first", [0, 100, 200])
def test_illegal_decisions_of_a_step_are_named(first):
    kinds = set()
    for seed in range(first, first + 100):
        error, _, policies, _ = run(seed, requests=60, misstep_at=1 + 5 * (seed % 40))
        assert isinstance(error, PolicyError), policies[0].illegal
        assert str(policies[0].illegal) in str(error)
        kinds.add(type(policies[0].illegal).__name__)
    assert kinds >= {"Run", "Park", "Resume", "Abort"}


def test_illegal_decisions_of_a_router_are_named():
    kinds = set()
    for seed in range(100):
        error, _, _, router = run(seed, requests=60, router_misstep_at=1 + seed % 40)
        assert isinstance(error, PolicyError), router.illegal
        assert str(router.illegal) in str(error)
        kinds.add(type(router.illegal).__name__)
    assert kinds == {"Admit", "Reject", "Move", "Park", "Abort"}
