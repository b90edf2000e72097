"""NanoFlow's policy: one dense batch a step, starts by predicted peak, a swap if that was low."""

import numpy as np

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy, NanoPolicy
from plimsoll.serving.policy import Park, Step
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK

BATCH = 256


def batch_of(n: int, *, prompt: int, output: int, seed: int = 0) -> Workload:
    """Requests that are all there at the start, lengths up to twice the mean."""
    rng = np.random.default_rng(seed)
    return Workload(
        name="batch",
        arrival_s=np.zeros(n),
        prompt_tokens=rng.integers(1, 2 * prompt, n),
        output_tokens=rng.integers(1, 2 * output, n),
        max_tokens=np.full(n, 2 * output),
    )


def run(policy, workload: Workload, *, num_blocks: int) -> tuple[RunRecord, list[Step]]:
    spec = InstanceSpec(
        clock=CLOCK,
        policy=policy,
        num_blocks=num_blocks,
        host_blocks=num_blocks,
        max_num_seqs=BATCH,
    )
    executor = SimulatedExecutor(
        [spec], RoundRobinPolicy(), check_books=True, log_decisions=True, fast_forward=False
    )
    record = executor.run(workload)
    return record, [row[3] for row in executor.decisions if isinstance(row[3], Step)]


def test_every_step_holds_exactly_the_dense_batch_while_prompts_wait() -> None:
    policy = NanoPolicy(token_budget=BATCH, mean_output_tokens=40)
    record, _ = run(policy, batch_of(300, prompt=60, output=40), num_blocks=4000)
    steps = record.steps
    tokens = steps.prefill_tokens + steps.num_decodes
    full = np.flatnonzero(steps.num_waiting > 0)[1:]  # the first request comes alone
    assert len(full) > 50
    assert (tokens[full] == BATCH).all()
    assert (steps.num_decodes <= BATCH).all() and steps.num_decodes.max() > 60
    assert record.requests.ok.all()


def test_a_right_mean_needs_no_swap_where_filling_memory_would() -> None:
    """Chunked prefill starts what fits now; the forecast starts what fits at its peak."""
    workload = batch_of(200, prompt=30, output=100).with_changes(output_tokens=np.full(200, 100))
    ours, _ = run(NanoPolicy(token_budget=BATCH, mean_output_tokens=100), workload, num_blocks=300)
    theirs, _ = run(
        ChunkedPrefillPolicy(token_budget=BATCH, preempt="swap"), workload, num_blocks=300
    )
    assert ours.requests.preemptions.sum() == 0
    assert theirs.requests.preemptions.sum() > 20
    assert ours.requests.ok.all()


def test_a_wrong_mean_swaps_as_few_as_it_takes_and_loses_none() -> None:
    workload = batch_of(150, prompt=30, output=120, seed=3)
    record, steps = run(
        NanoPolicy(token_budget=BATCH, mean_output_tokens=5), workload, num_blocks=250
    )
    parks = [[a for a in step.actions if isinstance(a, Park)] for step in steps]
    swaps = [step for step in parks if step]
    assert len(swaps) > 10
    assert {park.how for step in swaps for park in step} == {"swap"}
    assert np.mean([len(step) == 1 for step in swaps]) > 0.8, "more only where one is not enough"
    assert record.requests.ok.all()
    assert np.array_equal(record.requests.output_tokens, workload.output_tokens)


def test_a_full_host_falls_back_to_computing_again() -> None:
    workload = batch_of(80, prompt=30, output=100, seed=4)
    spec = InstanceSpec(
        clock=CLOCK,
        policy=NanoPolicy(token_budget=BATCH, mean_output_tokens=5),
        num_blocks=120,
        host_blocks=4,
        max_num_seqs=BATCH,
    )
    record = SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(workload)
    assert record.requests.ok.all() and record.requests.preemptions.sum() > 0
