"""Hundreds of odd settings: shortcuts change nothing, nothing is lost, nothing gets stuck."""

import numpy as np
import pytest

from tests.serving.clusters import assert_same
from tests.serving.odd_settings import setting

ONCE_BROKEN = (
    17,  # a client left while no instance was up
    61,  # slots of a pipeline waited for each other's blocks
    134,  # whole prompts beside KV that waits to be pulled
    1803,  # the oldest prompt waited for blocks of KV that was handed over
    224,  # steps of two instances that end at the same instant
    10211,  # a prompt at the head waited for blocks of KV handed over behind it
)


def expanded(record):
    gaps, counts = record.itl_samples()
    return np.sort(np.repeat(gaps, counts))


def check(seed, **options):
    case = setting(seed, **options)
    fast, plain = (case.run(fast_forward=f) for f in (True, False))
    assert_same(fast, plain)
    assert np.allclose(expanded(fast), expanded(plain), atol=1e-9)
    assert fast.meta["refused"] == plain.meta["refused"]
    assert fast.meta["end_s"] == pytest.approx(plain.meta["end_s"])
    workload, r = case.workload, fast.requests
    patient = np.ones(len(workload), dtype=bool)
    if len(workload.cancel_after_s):
        patient = np.isinf(workload.cancel_after_s)
    assert (r.status[patient] == 0).all(), "every request that was not cancelled finishes"
    assert (r.status <= 1).all()
    assert np.array_equal(r.output_tokens[r.ok], workload.output_tokens[r.ok])
    assert (r.output_tokens <= workload.output_tokens).all()
    assert (r.cached_tokens < workload.prompt_tokens).all()
    assert (fast.steps.used_blocks <= np.array(fast.meta["num_blocks"])[fast.steps.instance]).all()
    started = np.isfinite(r.first_token_s)
    assert (r.first_token_s[started] > r.scheduled_s[started]).all()
    assert (r.scheduled_s[started] >= r.arrival_s[started]).all()
    tokens_in_steps = (fast.steps.num_decodes * fast.steps.num_steps).sum()
    assert len(expanded(fast)) >= tokens_in_steps


@pytest.mark.parametrize("seed", ONCE_BROKEN)
def test_once_broken(seed):
    check(seed)


@pytest.mark.parametrize("first", range(1000, 1060, 10))
def test_odd_settings(first):
    for seed in range(first, first + 10):
        check(seed)


@pytest.mark.parametrize("router", ["prefix-affine", "disaggregated"])
def test_routers_that_read_memory(router):
    for seed in range(2000, 2010):
        check(seed, router=router)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 11_000, 100))
def test_many_odd_settings(first):
    for seed in range(first, first + 100):
        check(seed)


@pytest.mark.parametrize("seed", range(30))
def test_a_run_that_is_stopped_holds_the_tokens_of_the_steps_that_ended(seed):
    case = setting(3000 + seed)
    case.options.pop("refusal_rate", None)
    until_s = 0.9137 + 0.31 * seed
    fast, plain = (case.run(fast_forward=f, until_s=until_s) for f in (True, False))
    assert_same(fast, plain)
    assert (fast.steps.start_s + fast.steps.duration_s <= until_s + 1e-9).all()
