"""A recorded real run, replayed in the simulator, makes the same decisions."""

from pathlib import Path

import numpy as np
import pytest

from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    NanoPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.policy import Move, StepPolicy
from plimsoll.serving.routers import FreenessPolicy
from tests.serving.torch_executor.test_live_moves import Restless
from tests.serving.torch_executor.tiny_llama import make_folder, open_run, requests, serve_all, spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("policy", "num_blocks", "more"),
    [
        (ChunkedPrefillPolicy(token_budget=64), 60, {}),
        (ChunkedPrefillPolicy(token_budget=64, preempt="swap"), 60, {"host_blocks": 80}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 60, {}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 400, {}),
        (PrefillFirstPolicy(), 60, {}),
        (PrefillFirstPolicy(preempt="swap"), 60, {"host_blocks": 80}),
        (SplitFusePolicy(token_budget=128), 400, {}),
        (OrcaPolicy(), 400, {}),
        (NanoPolicy(token_budget=64, mean_output_tokens=6), 60, {"host_blocks": 80}),
        (NanoPolicy(token_budget=64, mean_output_tokens=30, ahead=True), 60, {}),
    ],
    ids=str,
)
def test_same_decisions(
    folder: Path, policy: StepPolicy, num_blocks: int, more: dict[str, object]
) -> None:
    specs = [spec(policy, num_blocks, **more)]
    run = open_run(folder, specs, eos_ids=(7,))
    asked = requests(220, shared=64, longest=120)
    serve_all(run, asked)
    again = replay(run, specs, run._router)
    real = [row[1:] for row in run.decisions]
    assert [row[1:] for row in again.decisions] == real
    assert len(real) > 400
    times = np.array([row[0] for row in run.decisions])
    assert np.allclose([row[0] for row in again.decisions], times, atol=1e-6)
    record = run.record()
    ours = again.record.requests
    assert np.array_equal(ours.output_tokens, record.requests.output_tokens)
    assert np.array_equal(ours.cached_tokens, record.requests.cached_tokens)
    assert np.array_equal(ours.preemptions, record.requests.preemptions)
    assert np.allclose(ours.first_token_s, record.requests.first_token_s, atol=1e-6)


def test_a_changed_policy_decides_otherwise(folder: Path) -> None:
    specs = [spec(ChunkedPrefillPolicy(token_budget=64), 400)]
    run = open_run(folder, specs)
    serve_all(run, requests(60))
    other = [spec(ChunkedPrefillPolicy(token_budget=96), 400)]
    again = replay(run, other, run._router)
    assert [row[1:] for row in again.decisions] != [row[1:] for row in run.decisions]


@pytest.mark.parametrize("num_blocks", [300, 70])
def test_same_decisions_where_requests_move_all_the_time(folder: Path, num_blocks: int) -> None:
    """Ticks and copies come when they came; at 70 blocks the memory of both runs out."""
    router = Restless()
    policy = ChunkedPrefillPolicy(token_budget=64, preempt="swap")
    specs = [spec(policy, num_blocks, host_blocks=80) for _ in range(2)]
    run = open_run(folder, specs, router=router)
    serve_all(run, requests(220, shared=64, longest=120))
    again = replay(run, specs, run._router)
    real = [row[1:] for row in run.decisions]
    assert [row[1:] for row in again.decisions] == real
    assert sum(isinstance(row[2], Move) for row in real) > 100
    moved = run.record().requests
    assert np.array_equal(again.record.requests.instance, moved.instance)
    assert np.array_equal(again.record.requests.preemptions, moved.preemptions)


def test_same_decisions_of_freeness(folder: Path) -> None:
    specs = [spec(ChunkedPrefillPolicy(token_budget=64, preempt="swap"), 45) for _ in range(2)]
    run = open_run(folder, specs, router=FreenessPolicy(low_steps=10, high_steps=20))
    serve_all(run, requests(220, shared=64, longest=120))
    again = replay(run, specs, run._router)
    assert [row[1:] for row in again.decisions] == [row[1:] for row in run.decisions]
    assert len(run.ticks_s) > 5
