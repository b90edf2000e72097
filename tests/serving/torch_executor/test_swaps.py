"""The swap manager on the real engine: tokens are the same whatever is copied when."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from plimsoll.serving.executors.torch.copy_lanes import CopyLanes
from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.kv.swap_manager import SwapManager, SwapSpec
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from tests.serving.torch_executor.tiny_llama import (
    VOCABULARY,
    Asked,
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

NUM = 24
SLOW = 2e7
"""Bytes a second of the link: a block of the small model takes about as long as a step."""
PARTS = [
    {},
    {"groups": True},
    {"reuse": True},
    {"asynchronous": True},
    {"groups": True, "asynchronous": True, "reuse": True},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    run = open_run(folder, [spec(FairSwapPolicy(), 100, prefix_caching=False)])
    return serve_all(run, requests(NUM), one_by_one=True)


def swapping(parts: dict[str, bool], **more: Any) -> Any:
    swap = SwapSpec(group_blocks=4, short_s=0.0, small_batch=1, **parts)
    settings = {"host_blocks": 200, "prefix_caching": False, "swapping": swap} | more
    policy = FairSwapPolicy(update_frequency=0.2, token_budget=64)
    num_blocks = settings.pop("num_blocks", 40)
    return spec(policy, num_blocks, max_model_len=400, **settings)


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_tokens_do_not_depend_on_how_requests_are_swapped(
    folder: Path, alone: list[list[int]], parts: dict[str, bool]
) -> None:
    run = open_run(folder, [swapping(parts)], copy_bytes_per_s=SLOW)
    assert serve_all(run, requests(NUM)) == alone
    swaps = run.engines[0].swaps
    assert run.num_preempted > 10 and swaps is not None
    assert swaps.manager.num_back_blocks > 50
    assert swaps.manager.in_flight == () and swaps.check() == ""
    assert run.engines[0].inst._pool.held == 0


def test_blocks_given_out_before_the_copy_out_of_them_are_found_out(
    folder: Path, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for copies of the blocks they get: tokens must show it."""
    monkeypatch.setattr(SwapManager, "waits_for", lambda self, blocks: ())
    parts = {"asynchronous": True, "reuse": True}
    run = open_run(folder, [swapping(parts)], copy_bytes_per_s=SLOW / 4)
    assert serve_all(run, requests(NUM)) != alone


@pytest.mark.parametrize("parts", [{}, {"asynchronous": True, "reuse": True}], ids=str)
def test_what_a_failed_copy_carried_is_computed_again(
    folder: Path,
    alone: list[list[int]],
    parts: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, tries, fine = random.Random(0), [0, 0], CopyLanes.transfer

    def transfer(self: CopyLanes, source: Tensor, target: Tensor) -> None:
        tries[0] += 1
        if rng.random() < 0.01:
            tries[1] += 1
            raise RuntimeError("the link is down")
        fine(self, source, target)

    monkeypatch.setattr(CopyLanes, "transfer", transfer)
    run = open_run(folder, [swapping(parts)], copy_bytes_per_s=SLOW)
    assert serve_all(run, requests(NUM)) == alone
    swaps = run.engines[0].swaps
    assert tries[1] > 3 and swaps is not None
    assert swaps.manager.in_flight == () and swaps.check() == ""
    assert run.engines[0].inst._pool.held == 0


def test_closed_while_its_copy_is_in_flight(folder: Path, alone: list[list[int]]) -> None:
    parts = {"groups": True, "asynchronous": True, "reuse": True}
    run = open_run(folder, [swapping(parts)], copy_bytes_per_s=SLOW / 8)
    asked = requests(NUM)
    ids = [run.submit(one.conversation()) for one in asked]
    manager, closed = run.engines[0].swaps.manager, set()  # type: ignore[union-attr]
    until = time.monotonic() + 30
    while len(closed) < 8 and time.monotonic() < until and not run.wait_idle(0.002):
        for copy in manager.in_flight:
            if copy.request >= 0 and copy.request not in closed and len(closed) < 8:
                closed.add(copy.request)
                run.cancel(copy.request)
                break
    assert run.wait_idle(60)
    run.close()
    assert len(closed) == 8 and not run.failure
    for i, one, tokens in zip(ids, asked, alone, strict=True):
        assert len(one.over) == 1
        if i in closed and one.over[0].finish == "cancelled":
            assert one.delivered == tokens[: len(one.delivered)]
        else:
            assert one.delivered == tokens
    assert manager.in_flight == () and run.engines[0].inst._pool.held == 0


def turns(folder: Path, reuse: bool, host_blocks: int, num_blocks: int = 40) -> Any:
    """(tokens of three turns of eight sessions, the manager, tokens found on the host)."""
    parts = {"groups": True, "asynchronous": True, "reuse": reuse}
    settings = swapping(parts, host_blocks=host_blocks, num_blocks=num_blocks)
    run = open_run(folder, [settings], copy_bytes_per_s=SLOW)
    rng = random.Random(1)
    prompts: list[list[int]] = [[] for _ in range(8)]
    said, cached = [], 0
    for _ in range(3):
        asked = []
        for session, prompt in enumerate(prompts):
            prompt += [rng.randrange(VOCABULARY) for _ in range(rng.randrange(20, 70))]
            asked.append(Asked(list(prompt), SamplingParams(max_tokens=20, temperature=0.0)))
            run.submit(asked[-1].conversation(), session=session)
        assert run.wait_idle(120)
        for prompt, one in zip(prompts, asked, strict=True):
            prompt += one.delivered
            said.append(one.delivered)
            cached += one.over[0].cached_tokens
    run.close()
    assert not run.failure
    return said, run.engines[0].swaps.manager, cached  # type: ignore[union-attr]


def test_turns_of_sessions_say_the_same_whatever_the_host_kept(folder: Path) -> None:
    """Also where copies lost their ends to others."""
    alone, never, _ = turns(folder, False, 400, num_blocks=400)
    dropped, _, nothing = turns(folder, False, 45)
    kept, manager, cached = turns(folder, True, 45)
    assert alone == dropped == kept
    assert never.num_out_blocks == 0 and nothing == 0
    assert manager.num_cut > 3 and cached > 50
    assert manager.num_out_blocks < manager.num_whole_blocks


@pytest.mark.slow
def test_killed_while_copies_are_in_flight(tmp_path: Path) -> None:
    """Every request ends once; what is sent again says what it would have said."""
    from plimsoll.evals import real_runs as runs

    folder = runs.random_llama(tmp_path)
    swap = SwapSpec(groups=True, asynchronous=True, reuse=True, short_s=0.0, small_batch=1)
    policy = FairSwapPolicy(update_frequency=0.25, token_budget=256)
    lengths = [(int(n), 30) for n in np.random.default_rng(3).integers(40, 160, 16)]

    def instance(**more: Any) -> Any:
        return runs.instance(policy, max_model_len=600, **more)

    with runs.RealRun(folder, [instance()]) as run:
        alone = run.serve(runs.prompts_of(lengths, seed=0))
    settings = instance(num_blocks=45, host_blocks=100, swapping=swap)
    with runs.RealRun(folder, [settings], copy_bytes_per_s=1e6) as run:
        asked = runs.prompts_of(lengths, seed=0)
        for one in asked:
            run.send(one)
        swaps = run.live.engines[0].swaps
        until = time.monotonic() + 60
        while time.monotonic() < until and len(swaps.manager.in_flight) < 2:
            time.sleep(1e-3)
        assert len(swaps.manager.in_flight) >= 2
        run.live._workers[0].process.kill()
        assert run.live.wait_idle(120) and not run.live.failure
        assert [len(one.over) for one in asked] == [1] * len(asked)
        lost = [i for i, one in enumerate(asked) if one.over[0].finish == "error"]
        assert lost and all("can be sent again" in asked[i].over[0].error for i in lost)
        assert swaps.manager.in_flight == () and swaps.check() == ""
        again = [runs.Asked(asked[i].prompt, asked[i].output_tokens) for i in lost]
        assert run.serve(again) == [alone[i] for i in lost]
        kept = [i for i in range(len(asked)) if i not in lost]
        assert [asked[i].tokens for i in kept] == [alone[i] for i in kept]
        assert run.live.engines[0].inst._pool.held == 0


def test_a_replay_in_the_simulator_decides_the_same(folder: Path) -> None:
    parts = {"groups": True, "asynchronous": True, "reuse": True}
    settings = swapping(parts)
    run = open_run(folder, [settings], copy_bytes_per_s=3 * SLOW)
    serve_all(run, requests(200, longest=80))
    again = replay(run, [settings], run._router)
    real = [row[1:] for row in run.decisions]
    assert [row[1:] for row in again.decisions] == real
    assert sum("Resume" in str(row) for row in real) > 20
    times = np.array([row[0] for row in run.decisions])
    assert np.allclose([row[0] for row in again.decisions], times, atol=1e-6)
    assert np.array_equal(again.record.requests.preemptions, run.record().requests.preemptions)
