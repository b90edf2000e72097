"""Nothing is lost or made up: requests, tokens and blocks, whatever the policy and the load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.executors.simulated import Fault
from tests.serving.clusters import POLICIES, STREAMS, disagg, executor, poisson


def check_record(record, workload):
    r = record.requests
    finished = r.ok
    assert np.array_equal(r.output_tokens[finished], workload.output_tokens[finished])
    first, last = r.first_token_s[finished], r.finished_s[finished]
    assert (r.scheduled_s[finished] >= r.arrival_s[finished] - 1e-9).all()
    assert (first > r.scheduled_s[finished]).all()
    assert (last >= first).all()
    assert ((last > first) == (r.output_tokens[finished] > 1)).all()
    steps = record.steps
    for instance in np.unique(steps.instance):
        rows = steps.instance == instance
        order = np.argsort(steps.start_s[rows], kind="stable")
        start = steps.start_s[rows][order]
        end = start + steps.duration_s[rows][order]
        assert (start[1:] >= end[:-1] - 1e-7).all(), "an instance runs one step at a time"


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(0.5, 50),
    num_blocks=st.integers(90, 600),
    max_num_seqs=st.integers(1, 40),
    streams=st.sampled_from([1, 4]),
)
def test_every_token_once_under_memory_pressure(
    name, seed, rate, num_blocks, max_num_seqs, streams
):
    workload = poisson(60, rate=rate, seed=seed)
    several = {"clock": STREAMS, "blocks_per_request": 3} if streams > 1 else {}
    run = executor(
        POLICIES[name],
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        check_books=True,
        **several,
    )
    record = run.run(workload)
    assert (record.requests.status == 0).all()
    check_record(record, workload)
    _, counts = record.itl_samples()
    assert counts.sum() == (workload.output_tokens - 1).sum()
    prefilled = record.steps.prefill_tokens.sum()
    assert prefilled >= workload.prompt_tokens.sum()
    if not record.requests.preemptions.any():
        assert prefilled == workload.prompt_tokens.sum()
    decoded = (record.steps.num_decodes * record.steps.num_steps).sum()
    sampled_after_park = len(record.park_request)
    assert decoded <= (workload.output_tokens - 1).sum() <= decoded + sampled_after_park
    assert (record.steps.used_blocks <= num_blocks).all()


def test_memory_pressure_really_preempts():
    workload = poisson(60, rate=50, seed=1, prompt=300, output=900)
    for name in ("chunked", "chunked-swap", "prefill-first", "prefill-first-swap", "splitfuse"):
        record = executor(POLICIES[name], num_blocks=100, check_books=True).run(workload)
        assert record.requests.preemptions.sum() > 0, name


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    down=st.floats(0.1, 5),
    length=st.floats(0.1, 5),
    patience=st.floats(0.05, 4),
)
def test_faults_and_cancellations_lose_nothing(seed, down, length, patience):
    rng = np.random.default_rng(seed)
    workload = poisson(60, rate=20, seed=seed).with_changes(
        cancel_after_s=np.where(rng.random(60) < 0.3, patience, np.inf)
    )
    faults = (Fault(instance=0, down_at_s=down, up_at_s=down + length),)
    record = executor(POLICIES["chunked"], faults=faults, check_books=True).run(workload)
    status = record.requests.status
    assert set(np.unique(status)) <= {0, 1}
    patient = np.isinf(workload.cancel_after_s)
    assert (status[patient] == 0).all()
    check_record(record, workload)
    cancelled = status == 1
    assert (record.requests.output_tokens[cancelled] <= workload.output_tokens[cancelled]).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), num_blocks=st.integers(90, 500), rate=st.floats(1, 30))
def test_disaggregation_conserves(seed, num_blocks, rate):
    workload = poisson(50, rate=rate, seed=seed)
    record = disagg(prefills=2, decodes=2, num_blocks=num_blocks, check_books=True).run(workload)
    r = record.requests
    assert (r.status == 0).all()
    check_record(record, workload)
    long = workload.output_tokens > 1
    assert np.isin(r.prefill_instance, (0, 1)).all()
    assert np.isin(r.instance[long], (2, 3)).all()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lost=st.integers(0, 3),
    down=st.floats(0.05, 6),
    refusals=st.floats(0, 0.4),
)
def test_disaggregation_survives_faults_and_refusals(seed, lost, down, refusals):
    rng = np.random.default_rng(seed)
    workload = poisson(50, rate=12, seed=seed).with_changes(
        cancel_after_s=np.where(rng.random(50) < 0.2, rng.uniform(0.05, 3, 50), np.inf)
    )
    record = disagg(
        prefills=2,
        decodes=2,
        num_blocks=300,
        faults=(Fault(instance=lost, down_at_s=down, up_at_s=down + 2),),
        refusal_rate=refusals,
        check_books=True,
    ).run(workload)
    patient = np.isinf(workload.cancel_after_s)
    assert (record.requests.status[patient] == 0).all()
    check_record(record, workload)


@pytest.mark.parametrize("name", POLICIES)
def test_a_request_that_outgrows_the_pool_fails_and_the_others_go_on(name):
    workload = poisson(12, rate=5, seed=3, prompt=300, output=40)
    outputs = workload.output_tokens.copy()
    outputs[4] = 3000
    workload = workload.with_changes(output_tokens=outputs, max_tokens=np.full(12, 3000))
    record = executor(POLICIES[name], replicas=1, num_blocks=100, check_books=True).run(workload)
    assert record.requests.status[4] == 3
    assert (np.delete(record.requests.status, 4) == 0).all()


def test_a_prompt_larger_than_the_pool_is_rejected_with_the_limit():
    workload = poisson(5, rate=5, seed=3, prompt=300, output=40)
    prompts = workload.prompt_tokens.copy()
    prompts[2] = 5000
    record = executor(POLICIES["chunked"], num_blocks=100).run(
        workload.with_changes(prompt_tokens=prompts)
    )
    assert record.requests.status.tolist() == [0, 0, 2, 0, 0]
    assert record.meta["rejected"] == {"longer than the KV pool of 1,600 tokens": 1}
