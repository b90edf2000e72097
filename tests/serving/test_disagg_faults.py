"""Prefill and decode apart: lost peers, full memory, bursts."""

import numpy as np
import pytest

from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.policy import Move
from plimsoll.serving.routers import DisaggPolicy
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK


def load(prompts, outputs, gap_s=0.0):
    n = len(prompts)
    return Workload(
        name="load",
        arrival_s=np.arange(n) * gap_s,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
    )


def cluster(*, prefill_blocks=2000, decode_blocks=2000, decodes=1, transfer_s=1e-4, **options):
    specs = [
        InstanceSpec(role=role, policy=PrefillFirstPolicy(), clock=CLOCK, num_blocks=blocks)
        for role, blocks in (
            ("prefill", prefill_blocks),
            *(("decode", decode_blocks) for _ in range(decodes)),
        )
    ]
    return SimulatedExecutor(
        specs,
        DisaggPolicy(),
        transfer_s=lambda source, target, tokens: transfer_s * tokens,
        check_books=True,
        **options,
    )


def test_decode_peer_lost_during_the_pull_is_replaced_from_parked_kv():
    """The transfer takes from 0.12 s to 10.12 s; the target dies in between."""
    work = load([1000], [20])
    fault = Fault(instance=1, down_at_s=5.0, up_at_s=float("inf"))
    run = cluster(decodes=2, transfer_s=1e-2, faults=(fault,)).run(work)
    assert run.requests.status.tolist() == [0]
    assert run.requests.instance.tolist() == [2]
    assert run.steps.prefill_tokens.sum() == 1000, "nothing is prefilled again"


def test_prefill_peer_lost_during_the_pull_prefills_again():
    work = load([1000], [20])
    fault = Fault(instance=0, down_at_s=5.0, up_at_s=6.0)
    run = cluster(transfer_s=1e-2, faults=(fault,)).run(work)
    assert run.requests.status.tolist() == [0]
    assert run.requests.output_tokens.tolist() == [20]
    assert run.steps.prefill_tokens.sum() >= 2000


def test_no_decode_peer_left_waits_for_one():
    work = load([1000], [20])
    fault = Fault(instance=1, down_at_s=0.01, up_at_s=30.0)
    run = cluster(faults=(fault,)).run(work)
    assert run.requests.status.tolist() == [0]
    assert run.requests.first_token_s[0] < 1
    assert run.requests.finished_s[0] > 30
    assert run.steps.prefill_tokens.sum() == 1000


@pytest.mark.parametrize("decode_blocks", [70, 140, 400])
def test_prefill_memory_full_of_parked_kv_pushes_back_without_deadlock(decode_blocks):
    work = load([900] * 60, [100] * 60)
    run = cluster(prefill_blocks=130, decode_blocks=decode_blocks).run(work)
    assert (run.requests.status == 0).all()
    assert run.steps.prefill_tokens.sum() >= 54_000
    started = np.sort(run.requests.scheduled_s)
    assert started[-1] > run.requests.finished_s.min(), "prompts waited for decodes to end"


def test_a_burst_queues_at_the_prefill_side_instead_of_flooding_the_decode_side():
    """Each request is pulled once, when there is room; nothing is pulled to be thrown out."""
    work = load([800] * 40, [400] * 40)
    executor = cluster(prefill_blocks=4000, decode_blocks=400, log_decisions=True)
    run = executor.run(work)
    assert (run.requests.status == 0).all()
    assert run.meta["refused"] == 0
    pulled = [d for *_, d in executor.decisions if isinstance(d, Move)]
    assert sorted(move.request for move in pulled) == list(range(40))
    when = np.sort([at for at, _, _, d in executor.decisions if isinstance(d, Move)])
    assert when[20] > run.requests.first_token_s.max(), "half of them wait for room"
