"""No policy can see how long an output will be."""

import numpy as np
import pytest

from plimsoll.serving import policy as vocabulary
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import POLICIES as KINDS
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import InstView, PoolView, ReqView, View
from plimsoll.serving.routers import ROUTERS, LeastWorkPolicy
from tests.serving.clusters import CLOCK, POLICIES, poisson


def run(policy, router, workload, *, fast_forward):
    roles = ["prefill", "decode", "decode"] if router == "disaggregated" else ["both"] * 3
    specs = [
        InstanceSpec(role=role, policy=policy, clock=CLOCK, num_blocks=150, host_blocks=150)
        for role in roles
    ]
    executor = SimulatedExecutor(
        specs,
        ROUTERS[router](),
        transfer_s=lambda source, target, tokens: 1e-4 * tokens,
        log_decisions=True,
        fast_forward=fast_forward,
    )
    return executor.run(workload), executor.decisions


@pytest.mark.parametrize("fast_forward", [True, False])
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("name", POLICIES)
def test_decisions_agree_until_an_output_shows_its_length(name, router, fast_forward):
    workload = poisson(40, rate=8, seed=5)
    rng = np.random.default_rng(6)
    changed = rng.random(40) < 0.5
    other = np.where(changed, rng.integers(1, 121, 40), workload.output_tokens)
    results = [
        run(POLICIES[name], router, w, fast_forward=fast_forward)
        for w in (workload, workload.with_changes(output_tokens=other))
    ]
    differs = other != workload.output_tokens
    seen_s = min(float(record.requests.finished_s[differs].min()) for record, _ in results)
    before = [[d for d in decisions if d[0] < seen_s - 1e-9] for _, decisions in results]
    assert len(before[0]) > 20
    assert before[0] == before[1]
    assert results[0][1] != results[1][1], "afterwards they may differ, and do"


PROTOCOLS = (View, InstView, PoolView, ReqView, vocabulary.Queue, vocabulary.StepClock)
PUBLIC = {name for kind in PROTOCOLS for name in (*vars(kind), *kind.__annotations__)}
ATOMS = (int, float, str, bytes, bool, complex, type(None), np.generic, type)


class Walker:
    """Goes wherever public attributes, elements and the vocabulary's methods lead."""

    def __init__(self, view):
        self.view = view
        self.numbers = set()
        self.seen = set()

    def walk(self, thing):
        if isinstance(thing, ATOMS):
            if isinstance(thing, (int, float, np.integer, np.floating)):
                self.numbers.add(float(thing))
            return
        if id(thing) in self.seen or callable(thing) or isinstance(thing, np.random.Generator):
            return
        self.seen.add(id(thing))
        if isinstance(thing, dict):
            for pair in thing.items():
                self.walk(pair)
            return
        if hasattr(type(thing), "__iter__"):
            for element in thing:
                self.walk(element)
        for name in dir(thing):
            if name.startswith("_"):
                continue
            value = getattr(thing, name)
            if not callable(value):
                self.walk(value)
            elif name in PUBLIC:
                for arguments in self.arguments(name):
                    self.walk(value(*arguments))

    def arguments(self, name):
        requests = [r for inst in self.view.instances for r in inst.waiting]
        requests += [r for inst in self.view.instances for r in inst.decoding(0)]
        return {
            "cached_tokens": [(r,) for r in requests],
            "blocks_for": [(r, 1) for r in requests],
            "blocks_freed": [(r,) for r in requests if r.computed],
            "lendable": [(r,) for r in requests],
            "request": [(r.id,) for r in requests],
            "has": [(0,)],
            "step_s": [((), 1, 100)],
            "decode_line": [(1, 100)],
            "swap_s": [(1,)],
        }.get(name, [(0,)] if name not in ("pop", "clear", "appendleft") else [])


class Snoop(ChunkedPrefillPolicy):
    """Chunked prefill that also looks everywhere it can."""

    def step(self, view, inst, slot):
        walker = Walker(view)
        walker.walk(view)
        walker.walk(inst)
        FOUND.append(walker.numbers)
        return super().step(view, inst, slot)


FOUND = []


def test_nothing_reachable_from_a_view_holds_a_true_length():
    """Lengths far apart from any count that occurs: one that is found was looked up."""
    FOUND.clear()
    n = 12
    outputs = 10**7 + 7919 * np.arange(n)
    workload = poisson(n, rate=30, seed=2).with_changes(
        output_tokens=outputs, max_tokens=np.zeros(0, dtype=np.int64)
    )
    spec = InstanceSpec(policy=Snoop(), clock=CLOCK, num_blocks=700, max_num_seqs=8)
    record = SimulatedExecutor([spec, spec], LeastWorkPolicy(), fast_forward=False).run(
        workload, until_s=2.0
    )
    assert (record.requests.output_tokens > 0).any()
    assert len(FOUND) > 20
    numbers = set().union(*FOUND)
    prompts = workload.prompt_tokens
    assert set(prompts.astype(float)) <= numbers, "the walk does see requests"
    hidden = {*outputs, *(prompts + outputs), *(prompts + outputs - 1), *(outputs - 1)}
    assert not numbers & {float(x) for x in hidden}
    assert set(KINDS) == {"chunked-prefill", "orca", "prefill-first", "splitfuse"}
