"""Group plans and the policy that runs them: what is computed, what is held, what goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.executors.simulated import Fault
from plimsoll.serving.group_dealing import deal_groups
from plimsoll.serving.group_plan import PrefixGroup, order_groups
from plimsoll.serving.policies import ChunkedPrefillPolicy, GroupPolicy
from plimsoll.serving.policies.kv_forecast import peak_blocks
from plimsoll.serving.policy import Pin, Run, Step, Unpin
from plimsoll.spec.errors import InfeasibleError, PolicyError, SpecError
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK, executor

BLOCK = 16


def batch(group_of, prefixes, suffixes, outputs, **columns):
    """A workload and its groups; row i is in ``group_of[i]``, all its blocks have keys."""
    keys, starts, prompts = [], [0], []
    for row, group in enumerate(group_of):
        prompt = prefixes[group] + suffixes[row]
        shared = prefixes[group] // BLOCK
        keys += [(group + 1) * 10_000 + i for i in range(shared)]
        keys += [10**7 + row * 10_000 + i for i in range(prompt // BLOCK - shared)]
        starts.append(len(keys))
        prompts.append(prompt)
    load = Workload(
        name="groups",
        arrival_s=np.zeros(len(group_of)),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.full(len(group_of), 4096),
        prefix_keys=np.array(keys, dtype=np.int64),
        prefix_start=np.array(starts),
        prefix_block_tokens=BLOCK,
        **columns,
    )
    groups = [
        PrefixGroup(
            prefix_tokens=prefix,
            members=tuple(i for i, g in enumerate(group_of) if g == group),
        )
        for group, prefix in enumerate(prefixes)
        if group in group_of
    ]
    return load, groups


def equal_groups(groups=4, members=6, prefix=160, suffix=24, output=20, **columns):
    group_of = np.random.default_rng(0).permutation(np.repeat(np.arange(groups), members))
    num = groups * members
    return batch(group_of.tolist(), [prefix] * groups, [suffix] * num, [output] * num, **columns)


def plan_for(load, groups, hint=None, **options):
    hints = load.output_tokens if hint is None else np.full(len(load), hint)
    return order_groups(groups, load.prompt_tokens.tolist(), hints.tolist(), **options)


def run(policy, load, *, num_blocks=400, **options):
    made = executor(
        policy, replicas=1, num_blocks=num_blocks, max_num_seqs=1000, check_books=True, **options
    )
    return made.run(load)


# What is computed


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_run_computes_exactly_what_the_plan_says(data):
    num_groups = data.draw(st.integers(1, 5))
    group_of = data.draw(st.lists(st.integers(0, num_groups - 1), min_size=1, max_size=24))
    prefixes = data.draw(st.lists(st.integers(1, 150), min_size=num_groups, max_size=num_groups))
    num = len(group_of)
    suffixes = data.draw(st.lists(st.integers(1, 60), min_size=num, max_size=num))
    outputs = data.draw(st.lists(st.integers(1, 30), min_size=num, max_size=num))
    budget = data.draw(st.sampled_from([16, 100, 512]))
    load, groups = batch(group_of, prefixes, suffixes, outputs)
    plan = plan_for(load, groups, kv_tokens=40 * BLOCK)
    record = run(GroupPolicy(plan=plan, token_budget=budget), load, num_blocks=40)
    assert record.requests.ok.all()
    assert record.requests.output_tokens.tolist() == outputs
    assert record.steps.used_blocks.max() <= 40
    if not record.requests.preemptions.any():
        assert record.steps.prefill_tokens.sum() == plan.prefill_tokens


def test_the_prefix_outlives_its_first_member():
    """Every member ends with its first token, and others fill the memory meanwhile."""
    load, groups = equal_groups(groups=8, members=8, output=1)
    plan = plan_for(load, groups)
    record = run(GroupPolicy(plan=plan, token_budget=64), load, num_blocks=26)
    assert record.steps.prefill_tokens.sum() == plan.prefill_tokens == 8 * (160 + 8 * 24)
    lru = run(ChunkedPrefillPolicy(token_budget=64), load, num_blocks=26)
    assert lru.steps.prefill_tokens.sum() > 1.3 * plan.prefill_tokens


def test_hits_are_whole_blocks():
    load, groups = equal_groups(groups=1, prefix=40, suffix=9)
    plan = plan_for(load, groups)
    record = run(GroupPolicy(plan=plan), load)
    assert sorted(record.requests.cached_tokens.tolist()) == [0] + [32] * 5
    assert plan.groups[0].prefix_tokens == 32
    assert record.steps.prefill_tokens.sum() == plan.prefill_tokens == 32 + 6 * 17


def test_equal_prompts_compute_their_last_token():
    """48 tokens in common are three blocks, but the last token runs: two are shared."""
    load, _ = equal_groups(groups=1, members=3, prefix=48, suffix=0)
    groups = [PrefixGroup(prefix_tokens=47, members=(0, 1, 2))]
    record = run(GroupPolicy(plan=plan_for(load, groups)), load)
    assert record.steps.prefill_tokens.sum() == 48 + 2 * 16


# Order and waves


def test_order_counts_prompt_tokens_after_sharing():
    """Alone 40 of 100 is more than 30 of 330; shared, 10 x 30 of 330 + 9 x 10 is most."""
    groups = [PrefixGroup(prefix_tokens=320, members=tuple(range(1, 11)))]
    prompts, outputs = [100] + [330] * 10, [40.0] + [30.0] * 10
    plan = order_groups(groups, prompts, outputs)
    assert plan.order[0] == 1
    assert plan.groups[0].ratio == pytest.approx(300 / (320 + 100))
    assert order_groups((), prompts, outputs).order[0] == 0
    assert order_groups(groups, prompts, outputs, order="ascending").order[0] == 0


def test_one_huge_group_runs_in_waves():
    load, groups = equal_groups(groups=1, members=100, prefix=320, suffix=40, output=30)
    plan = plan_for(load, groups, kv_tokens=60 * BLOCK)
    (group,) = plan.groups
    assert len(group.waves) == 13
    assert sorted(group.members) == list(range(100))
    record = run(GroupPolicy(plan=plan), load, num_blocks=60)
    assert record.requests.ok.all()
    assert record.steps.prefill_tokens.sum() == plan.prefill_tokens == 320 + 100 * 40
    assert record.requests.preemptions.sum() == 0


def test_prefix_larger_than_the_pool_is_a_clear_error():
    load, groups = equal_groups(groups=1)
    with pytest.raises(InfeasibleError, match="prefix of 160 tokens is larger than the memory"):
        plan_for(load, groups, kv_tokens=144)
    with pytest.raises(InfeasibleError, match="shorten it, or use more or larger devices"):
        plan_for(load, groups, kv_tokens=176)


@pytest.mark.parametrize(
    ("groups", "prompts", "hints", "words"),
    [
        ((), [], [], "at least one"),
        ((), [5], [1.0, 2.0], "1 prompts and 2 predicted"),
        ((), [0], [1.0], "both must be positive"),
        ((), [5], [float("nan")], "both must be positive"),
        (((3, (0, 1)), (2, (1, 2))), [9, 9, 9], [1.0] * 3, "prompt 1 is in two groups"),
        (((3, (0, 7)),), [9, 9], [1.0] * 2, "prompt 7 is in two groups or in none"),
        (((9, (0, 1)),), [9, 12], [1.0] * 2, "the last one always runs"),
    ],
)
def test_bad_batches_are_named(groups, prompts, hints, words):
    made = [PrefixGroup(prefix_tokens=n, members=m) for n, m in groups]
    with pytest.raises(SpecError, match=words):
        order_groups(made, prompts, hints)


# Memory


@given(
    rows=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 70)), max_size=12),
    block=st.sampled_from([1, 4, 16]),
)
def test_the_forecast_is_never_below_what_happens(rows, block):
    own, left = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    most = 0
    for step in range(1, 71):
        alive = left >= step
        most = max(most, int(np.sum(-(-(own + step) // block) * alive)))
    forecast = peak_blocks(own, left, block)
    assert most <= forecast
    if block == 1:
        assert forecast == most


def test_memory_is_filled_as_predicted_and_no_further():
    load, groups = equal_groups(groups=10, members=10, output=60)
    record = run(GroupPolicy(plan=plan_for(load, groups), kv_fraction=0.8), load, num_blocks=200)
    assert record.requests.preemptions.sum() == 0
    assert 0.7 * 200 < record.steps.used_blocks.max() <= 0.8 * 200


@pytest.mark.parametrize("host_blocks", [0, 500])
@pytest.mark.parametrize("hint", [8, 800])
def test_wrong_predictions_cost_time_and_nothing_else(hint, host_blocks):
    """Ten times too short: requests are put aside, come back and finish; too long: fewer run."""
    load, groups = equal_groups(groups=6, members=10, output=80)
    policy = GroupPolicy(plan=plan_for(load, groups, hint))
    record = run(policy, load, num_blocks=120, host_blocks=host_blocks)
    assert record.requests.ok.all()
    assert (record.requests.preemptions.sum() > 0) == (hint == 8)
    right = run(replace(policy, plan=plan_for(load, groups)), load, num_blocks=120)
    assert right.requests.preemptions.sum() == 0
    if hint == 800:
        assert right.end_s < record.end_s


def test_one_request_that_needs_all_memory_gets_it():
    """Its output outgrows everything predicted; the pin of its own group must not be in the way."""
    load, groups = batch([0, 0, 0], [160] * 1, [16, 16, 16], [150, 150, 150])
    record = run(GroupPolicy(plan=plan_for(load, groups, 1)), load, num_blocks=22)
    assert record.requests.ok.all()


# Clients that leave, machines that fail


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1, 2), (5,), (0, 5)])
@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.2])
def test_an_abort_does_not_free_a_prefix_others_need(gone, after_s):
    leaves = np.full(6, np.inf)
    leaves[list(gone)] = after_s
    load, groups = batch([0] * 6, [640], [24] * 6, [20] * 6, cancel_after_s=leaves)
    plan = plan_for(load, groups)
    record = run(GroupPolicy(plan=plan, token_budget=256), load, num_blocks=60)
    stay = [i for i in range(6) if i not in gone]
    assert record.requests.ok[stay].all()
    if after_s >= 0.2:  # the prefix is there by then
        assert record.steps.prefill_tokens.sum() <= plan.prefill_tokens


def test_an_instance_lost_and_back_finishes_the_batch():
    load, groups = equal_groups()
    fault = Fault(instance=0, down_at_s=0.2, up_at_s=0.5)
    record = run(GroupPolicy(plan=plan_for(load, groups), token_budget=64), load, faults=[fault])
    assert record.requests.ok.all()


def test_requests_outside_the_plan_go_last():
    load, groups = equal_groups(groups=3)
    part = [group for group in groups if 0 not in group.members]
    lengths, outputs = load.prompt_tokens.tolist(), load.output_tokens.tolist()
    plan = order_groups(part, lengths, outputs)
    planned = replace(plan, groups=tuple(g for g in plan.groups if len(g.members) > 1))
    record = run(GroupPolicy(plan=planned, token_budget=64), load)
    assert record.requests.ok.all()
    inside = [m for group in planned.groups for m in group.members]
    outside = [i for i in range(len(load)) if i not in inside]
    starts = record.requests.scheduled_s
    assert min(starts[i] for i in outside) >= max(starts[i] for i in inside)


def test_late_arrivals_are_waited_for_by_the_prefix_only():
    arrival = np.sort(np.random.default_rng(1).uniform(0, 3, 24))
    load, groups = equal_groups()
    load = load.with_changes(arrival_s=arrival)
    record = run(GroupPolicy(plan=plan_for(load, groups)), load)
    assert record.requests.ok.all()
    assert (record.requests.scheduled_s >= arrival).all()


# Same results either way


def test_fast_forward_changes_nothing():
    load, groups = equal_groups(groups=6, members=8, output=50)
    policy = GroupPolicy(plan=plan_for(load, groups), shared_attention=True)
    fast = run(policy, load, num_blocks=150)
    slow = run(policy, load, num_blocks=150, fast_forward=False)
    assert np.allclose(fast.requests.finished_s, slow.requests.finished_s, atol=1e-9)
    assert fast.steps.num_steps.sum() == slow.steps.num_steps.sum()


def test_shared_attention_shortens_steps_by_the_prefixes_read_once():
    load, groups = equal_groups(groups=1, members=2, prefix=160, suffix=24, output=10)
    plan = plan_for(load, groups)
    plain = run(GroupPolicy(plan=plan), load)
    once = run(GroupPolicy(plan=plan, shared_attention=True), load)
    together = int(plain.steps.num_steps[plain.steps.num_decodes == 2].sum())
    saved_s = plain.end_s - once.end_s
    assert saved_s == pytest.approx(together * 160 * CLOCK.context_s)


# Settings and decisions that are wrong


def test_bad_settings_are_named():
    load, groups = equal_groups()
    plan = plan_for(load, groups)
    with pytest.raises(SpecError, match="token_budget is 0"):
        GroupPolicy(plan=plan, token_budget=0)
    with pytest.raises(SpecError, match="kv_fraction is 1.5"):
        GroupPolicy(plan=plan, kv_fraction=1.5)
    with pytest.raises(SpecError, match="dealt to 0 instances"):
        deal_groups(plan, 0)


class Scripted:
    """Runs request 0's prompt, then gives the scripted actions, then goes on as usual."""

    def __init__(self, *actions, read_once=0):
        self.actions = actions
        self.read_once = read_once
        self.asked = 0

    def step(self, view, inst, slot):
        self.asked += 1
        if self.asked == 1:
            first = next(iter(inst.waiting))
            return Step(runs=(Run(first.id, first.pending),))
        if self.asked == 2:
            return Step(actions=self.actions, decode_all=True, read_once=self.read_once)
        return ChunkedPrefillPolicy().step(view, inst, slot)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Scripted(Pin(0, 20)), "whole units of 16"),
        (Scripted(Pin(0, 0)), "whole units of 16"),
        (Scripted(Pin(0, 32), Pin(0, 32)), "pinned under this request already"),
        (Scripted(Pin(99, 32)), "no such request"),
        (Scripted(read_once=10_000), "read_once 10000"),
        (Scripted(read_once=-1), "read_once -1"),
    ],
)
def test_illegal_decisions_are_named(policy, words):
    load, _ = equal_groups(groups=1)
    with pytest.raises(PolicyError, match=words):
        run(policy, load)


@pytest.mark.parametrize("action", [Pin(0, 320), Unpin(0)])
def test_pins_that_cannot_be_are_refused(action):
    load, _ = equal_groups(groups=1)
    record = run(Scripted(action), load)
    assert record.meta["refused"] == 1
    assert record.requests.ok.all()


def test_what_is_pinned_stays_though_nobody_refers_to_it():
    load, _ = batch([0, 1, 2, 3], [160] * 4, [16] * 4, [1, 400, 400, 400])
    policy = Scripted(Pin(0, 160))
    made = executor(policy, replicas=1, num_blocks=60, max_num_seqs=2, check_books=True)
    record = made.run(load)
    assert record.requests.ok.all()
