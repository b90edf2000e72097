"""Group plans of plan files: found in a workload's keys, dealt to replicas, run as planned."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.serving.executors.simulated import Fault
from plimsoll.serving.group_dealing import deal_groups, owners, work_of
from plimsoll.serving.group_plan import GroupPlan, order_groups
from plimsoll.serving.simulate.batch_groups import workload_groups
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import (
    ChunkedPrefill,
    Parallel,
    Pool,
    PrefixGroups,
    RoundRobinRouter,
    ServingPlan,
)
from plimsoll.spec.workload import Workload

UNIT = 16


def batch(groups: int = 12, members: int = 8, prefix: int = 640, seed: int = 0) -> Workload:
    """Shuffled prompts in groups; the last group's prefix is twice as long."""
    rng = np.random.default_rng(seed)
    rows = [
        (g, prefix * (2 if g == groups - 1 else 1)) for g in range(groups) for _ in range(members)
    ]
    keys, starts, prompts = [], [0], []
    for at in rng.permutation(len(rows)):
        group, shared = rows[at]
        suffix = int(rng.integers(20, 100))
        prompts.append(shared + suffix)
        own = (shared + suffix) // UNIT - shared // UNIT
        keys += [np.arange(shared // UNIT) + group * 10_000, np.arange(own) + 10**7 + at * 100]
        starts.append(starts[-1] + shared // UNIT + own)
    n = len(prompts)
    return Workload(
        name="batch",
        arrival_s=np.zeros(n),
        prompt_tokens=np.array(prompts),
        output_tokens=rng.integers(10, 60, n),
        prefix_keys=np.concatenate(keys),
        prefix_start=np.array(starts),
        prefix_block_tokens=UNIT,
    )


def plan_of(policy, *, replicas: int = 1, **more) -> ServingPlan:
    pool = Pool(device="A100-SXM-80", replicas=replicas, policy=policy, max_num_seqs=512)
    return ServingPlan(model="llama-2-7b", fleet=f"{replicas}xA100-SXM-80", pools=(pool,), **more)


def simulated(plan: ServingPlan, workload: Workload, **more):
    return simulate_plan(plan, load_model(plan.model), parse_fleet(plan.fleet), workload, **more)


def test_groups_are_found_in_the_keys() -> None:
    found = workload_groups(batch())
    assert sorted(len(group.members) for group in found) == [8] * 12
    assert sorted(group.prefix_tokens for group in found) == [640] * 11 + [1280]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_plan_file_computes_exactly_what_is_planned(replicas: int) -> None:
    workload = batch()
    record = simulated(plan_of(PrefixGroups(), replicas=replicas), workload)
    shared = 7 * (11 * 640 + 1280)
    assert record.requests.ok.all()
    assert record.steps.prefill_tokens.sum() == workload.prompt_tokens.sum() - shared
    assert len(np.unique(record.requests.instance)) == replicas
    for group in workload_groups(workload):
        at = record.requests.instance[list(group.members)]
        assert len(set(at.tolist())) == 1, "a prefix is computed on one replica"


def test_it_beats_a_cache_that_forgets() -> None:
    """Enough groups that an LRU cache has lost a prefix before its next member comes."""
    workload = batch(groups=60, members=6, prefix=1600)
    ours = simulated(plan_of(PrefixGroups()), workload)
    theirs = simulated(plan_of(ChunkedPrefill()), workload)
    assert ours.steps.prefill_tokens.sum() < theirs.steps.prefill_tokens.sum()
    assert ours.end_s < theirs.end_s


def test_work_is_dealt_evenly_and_every_request_once() -> None:
    workload = batch(groups=40)
    plan = order_groups(
        workload_groups(workload), workload.prompt_tokens.tolist(), [30.0] * len(workload)
    )
    parts = deal_groups(plan, 3, decode_weight=4.0)
    load = [sum(work_of(group, decode_weight=4.0) for group in part.groups) for part in parts]
    assert max(load) / min(load) < 1.1
    assert sorted(owners(parts)) == list(range(len(workload)))
    assert sum(part.prefill_tokens for part in parts) == plan.prefill_tokens
    assert sum(part.prompt_tokens for part in parts) == plan.prompt_tokens
    assert all(isinstance(part, GroupPlan) and part.groups for part in parts)
    order = {id(group): i for i, group in enumerate(plan.groups)}
    for part in parts:
        assert [order[id(g)] for g in part.groups] == sorted(order[id(g)] for g in part.groups)


def test_a_lost_replica_loses_no_request() -> None:
    workload = batch(groups=30)
    fault = Fault(instance=1, down_at_s=0.3, up_at_s=1.0)
    record = simulated(plan_of(PrefixGroups(), replicas=3), workload, faults=[fault])
    assert record.requests.ok.all()


def test_what_it_cannot_plan_is_said() -> None:
    workload = batch()
    late = workload.with_changes(arrival_s=np.arange(len(workload)) * 1.0)
    with pytest.raises(SpecError, match="come over time"):
        simulated(plan_of(PrefixGroups()), late)
    with pytest.raises(SpecError, match="router round-robin has no effect"):
        simulated(plan_of(PrefixGroups(), router=RoundRobinRouter()), workload)
    mixed = plan_of(PrefixGroups(), replicas=2)
    other = replace(mixed.pools[0], replicas=1, policy=ChunkedPrefill())
    both = replace(mixed, pools=(replace(mixed.pools[0], replicas=1), other))
    with pytest.raises(SpecError, match="the same in every pool"):
        simulated(both, workload)
    staged = replace(mixed.pools[0], replicas=1, parallel=Parallel(pp=2))
    assert simulated(replace(mixed, pools=(staged,)), workload).requests.ok.all()
