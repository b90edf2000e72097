"""What the executor owes whatever the policy: loops, pipelines, swaps, cancellations, faults."""

from dataclasses import dataclass

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy
from plimsoll.serving.routers import LeastWorkPolicy, RoundRobinPolicy
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK, POLICIES, disagg, executor, poisson

CANCELLED = 1


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("num", [1, 7, 64])
def test_a_closed_loop_keeps_as_many_in_flight(name, num):
    workload = poisson(200, rate=1, seed=2).with_changes(num_in_flight=num)
    r = executor(POLICIES[name], num_blocks=400).run(workload).requests
    assert (r.arrival_s[:num] == 0).all()
    ends = np.sort(r.finished_s)
    assert np.sort(r.arrival_s)[num:] == pytest.approx(ends[: 200 - num]), "one in as one is out"


def test_a_closed_loop_pauses_between_requests():
    workload = poisson(40, rate=1, seed=2).with_changes(
        num_in_flight=1, think_s=np.linspace(0, 2, 40)
    )
    r = executor(POLICIES["chunked"]).run(workload).requests
    assert r.arrival_s[1:] == pytest.approx(r.finished_s[:-1] + workload.think_s[1:])


def pipeline(stages, *, num_seqs, base_s=0.01, **spec):
    clock = LinearClock(step_base_s=base_s, token_s=1e-5, decode_s=1e-5, num_stages=stages)
    spec.setdefault("policy", PrefillFirstPolicy())
    spec.setdefault("num_blocks", 5000)
    return InstanceSpec(clock=clock, max_num_seqs=num_seqs, **spec), clock


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_full_pipeline_passes_a_step_every_stage_time(stages):
    """Equal one-step requests, one a slot: rate 1 / stage time, latency ``stages`` of them."""
    spec, _ = pipeline(stages, num_seqs=stages, base_s=0.01 - 1e-5 * 100)
    n = 60
    workload = Workload(
        name="equal",
        arrival_s=np.zeros(n),
        prompt_tokens=np.full(n, 100),
        output_tokens=np.ones(n, dtype=np.int64),
    )
    r = SimulatedExecutor([spec], RoundRobinPolicy()).run(workload).requests
    ends = np.sort(r.finished_s)
    assert ends[0] == pytest.approx(stages * 0.01)
    assert np.diff(ends) == pytest.approx(np.full(n - 1, 0.01))
    assert r.finished_s - r.scheduled_s == pytest.approx(np.full(n, stages * 0.01))


@pytest.mark.parametrize("name", ["chunked", "prefill-first", "orca", "splitfuse"])
@pytest.mark.parametrize("stages", [2, 4])
def test_a_stage_runs_one_step_at_a_time(name, stages):
    """Stage times recomputed from the rows: every step ends when the recurrence says."""
    spec, clock = pipeline(stages, num_seqs=16, policy=POLICIES[name])
    record = SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(
        poisson(150, rate=20, seed=4)
    )
    s = record.steps
    free = np.zeros(stages)
    for i in np.lexsort((s.slot, s.start_s)):
        stage_s = clock.step_base_s + 1e-5 * s.prefill_tokens[i] + clock.decode_s * s.num_decodes[i]
        assert s.start_s[i] >= free[0] - 1e-9, "the first stage is free when a step starts"
        end_s = s.start_s[i]
        for stage in range(stages):
            end_s = max(end_s, free[stage]) + stage_s
            free[stage] = end_s
        assert s.start_s[i] + s.step_s[i] == pytest.approx(end_s, abs=1e-9)
    assert len(np.unique(s.slot)) == stages, "every slot is used"


@pytest.mark.parametrize("hidden_s", [0.0, 0.01])
def test_steps_formed_ahead_hide_the_host_and_make_arrivals_wait(hidden_s):
    clock = LinearClock(step_base_s=0.02, token_s=1e-4, host_step_s=hidden_s)
    lone = poisson(1, rate=1, prompt=100, output=200).with_changes(
        output_tokens=np.array([101]), max_tokens=np.array([101])
    )
    plain, ahead = (
        executor(POLICIES[name], clock=clock, replicas=1).run(lone)
        for name in ("chunked", "chunked-ahead")
    )
    gained = (plain.requests.e2e_s - ahead.requests.e2e_s)[0]
    assert gained == pytest.approx(99 * hidden_s)  # of 100 decode steps all but the first
    crowd = poisson(300, rate=3, output=400, seed=2)
    plain, ahead = (
        executor(POLICIES[name], clock=clock, replicas=1).run(crowd)
        for name in ("chunked", "chunked-ahead")
    )
    assert (ahead.requests.output_tokens == plain.requests.output_tokens).all()
    if not hidden_s:  # about one step of 20 ms more
        later_s = (ahead.requests.ttft_s - plain.requests.ttft_s).mean()
        assert 0.008 < later_s < 0.04


@dataclass(frozen=True, kw_only=True)
class CountedClock(LinearClock):
    """Remembers the swaps asked for."""

    swaps: list

    def swap_s(self, num_tokens):
        self.swaps.append(num_tokens)
        return super().swap_s(num_tokens)


@pytest.mark.parametrize("name", ["chunked-swap", "prefill-first-swap"])
def test_a_swap_is_paid_once_each_way(name):
    clock = CountedClock(step_base_s=0.02, token_s=1e-4, swap_token_s=1e-5, swaps=[])
    workload = poisson(60, rate=50, seed=1, prompt=300, output=900)
    record = executor(
        POLICIES[name], clock=clock, replicas=1, num_blocks=100, host_blocks=10**4
    ).run(workload)
    assert len(record.park_request) == record.requests.preemptions.sum() > 10
    assert 2 * len(record.park_request) >= len(clock.swaps) > 20
    values, counts = np.unique(clock.swaps, return_counts=True)
    assert (counts % 2 == 0).all(), "what goes out comes back, of the same size"
    assert record.steps.stall_s.sum() == pytest.approx(1e-5 * sum(clock.swaps))


def rows(*rows):
    """Rows of (arrival, prompt, output, patience)."""
    arrival, prompt, output, patience = zip(*rows, strict=True)
    return Workload(
        name="rows",
        arrival_s=np.array(arrival, dtype=float),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        cancel_after_s=np.array(patience, dtype=float),
    )


STEP = LinearClock(step_base_s=0.1)
NEVER = np.inf


def serve(workload, **spec):
    spec = {"policy": ChunkedPrefillPolicy(token_budget=100), "num_blocks": 1000} | spec
    spec = InstanceSpec(clock=STEP, **spec)
    return SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(workload).requests


def test_cancelled_while_it_waits():
    r = serve(rows((0, 50, 30, NEVER), (0.01, 50, 5, 0.5), (0.02, 50, 5, NEVER)), max_num_seqs=1)
    assert r.status.tolist() == [0, CANCELLED, 0]
    assert np.isnan(r.scheduled_s[1]) and r.output_tokens[1] == 0
    assert r.scheduled_s[2] == pytest.approx(r.finished_s[0])


def test_cancelled_in_the_middle_of_its_prompt():
    r = serve(rows((0, 950, 5, 0.45), (0, 100, 5, NEVER)))
    assert r.status.tolist() == [CANCELLED, 0]
    assert np.isnan(r.first_token_s[0]) and r.output_tokens[0] == 0
    assert r.first_token_s[1] == pytest.approx(0.6), "its turn comes with the next step"


@pytest.mark.parametrize(
    ("patience", "delivered"),
    [(0.25, 3), (0.3, 3), (0.30001, 4)],  # the step under way still delivers; a boundary is late
)
def test_cancelled_while_it_decodes(patience, delivered):
    r = serve(rows((0, 50, 30, patience), (0, 50, 30, NEVER)))
    assert r.status.tolist() == [CANCELLED, 0]
    assert r.output_tokens.tolist() == [delivered, 30]
    assert np.isnan(r.finished_s[0])
    assert r.finished_s[1] == pytest.approx(3.1), "nobody else is held up"


def test_cancelled_on_its_way_to_the_decode_side():
    """100 prompt tokens take 20 ms + 10 ms; then 0.1 s of transfer."""
    workload = rows((0, 100, 20, 0.08), (0.5, 100, 20, NEVER))
    r = disagg(token_s=1e-3, check_books=True).run(workload).requests
    assert r.status.tolist() == [CANCELLED, 0]
    assert r.output_tokens.tolist() == [1, 20], "the first token came from the prompt side"
    assert r.instance[1] == 1


def test_a_lost_instance_rests_and_its_requests_go_on_elsewhere():
    workload = poisson(120, rate=10, seed=8)
    fault = Fault(instance=0, down_at_s=3.0, up_at_s=6.0)
    spec = InstanceSpec(policy=POLICIES["chunked"], clock=CLOCK, num_blocks=2000)
    executors = [
        SimulatedExecutor([spec] * 2, LeastWorkPolicy(), faults=faults, check_books=True)
        for faults in ((), (fault,))
    ]
    calm, hit = (e.run(workload) for e in executors)
    r, s = hit.requests, hit.steps
    assert (r.status == 0).all()
    assert np.array_equal(r.output_tokens, workload.output_tokens)
    on_lost = s.instance == 0
    ends = s.start_s + s.duration_s
    assert not ((s.start_s[on_lost] < 6.0) & (ends[on_lost] > 3.0 + 1e-9)).any()
    assert (s.start_s[on_lost] >= 6.0).any(), "it works again when it is back"
    assert s.prefill_tokens.sum() > workload.prompt_tokens.sum(), "lost KV is computed again"
    assert r.e2e_s.mean() > calm.requests.e2e_s.mean()


def test_an_instance_that_never_comes_back_leaves_its_requests_unfinished():
    workload = poisson(20, rate=10, seed=8)
    fault = Fault(instance=0, down_at_s=0.7, up_at_s=np.inf)
    record = executor(POLICIES["chunked"], replicas=1, faults=(fault,)).run(workload)
    assert set(record.requests.status) == {0, 4} or set(record.requests.status) == {4}
    assert (record.steps.start_s + record.steps.duration_s <= 0.7 + 1e-9).all()
