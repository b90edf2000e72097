"""Decode steps formed while the ones before run: what is wasted, what is not, what stays right."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plimsoll.models.loading import load, save
from plimsoll.serving.executors.torch.messages import StepWork
from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies import ChunkedPrefillPolicy
from tests.serving.torch_executor.tiny_llama import (
    Asked,
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

AHEAD = ChunkedPrefillPolicy(token_budget=64, ahead=True)
PLAIN = ChunkedPrefillPolicy(token_budget=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("policy", [AHEAD, PLAIN], ids=["ahead", "one by one"])
def test_one_token_is_wasted_a_request_that_ends_itself_and_none_at_its_limit(
    folder: Path, policy: ChunkedPrefillPolicy
) -> None:
    plain = serve_all(open_run(folder, [spec(PLAIN, 300)]), requests(40), one_by_one=True)
    common = max(range(512), key=lambda t: sum(t in tokens[1:-1] for tokens in plain))
    run = open_run(folder, [spec(policy, 300)], eos_ids=(common,))
    asked = requests(40)
    found = serve_all(run, asked, one_by_one=True)
    assert found == [t[: t.index(common) + 1] if common in t else t for t in plain]
    # the first token comes of the prompt, and at the limit the end is known beforehand
    unforeseen = [
        len(tokens)
        for one, tokens in zip(asked, found, strict=True)
        if tokens[-1] == common and 1 < len(tokens) < one.params.max_tokens
    ]
    assert len(unforeseen) >= 3
    assert run.engines[0].num_wasted == (len(unforeseen) if policy.ahead else 0)


def test_the_next_step_is_there_before_the_answer_to_this_one(folder: Path) -> None:
    """No more than one ahead, and nearly always one."""
    run = open_run(folder, [spec(AHEAD, 300)])
    engine: Any = run.engines[0]
    under_way, seen = set(), []
    send, finish = engine._send, engine.finish_step

    def watch(message: Any) -> None:
        if isinstance(message, StepWork) and message.work:
            under_way.add(message.serial)
            seen.append(len(under_way))
        send(message)

    def answered(done: Any, now_s: float) -> bool:
        under_way.discard(done.serial)
        return bool(finish(done, now_s))

    engine._send, engine.finish_step = watch, answered
    (one,) = [Asked([1, 2, 3], SamplingParams(max_tokens=50, temperature=0.0))]
    serve_all(run, [one])
    assert set(seen) == {1, 2}
    assert seen.count(2) == 48  # all of 49 decode steps but the first


def test_clients_that_leave_and_workers_that_die(folder: Path) -> None:
    run = open_run(folder, [spec(AHEAD, 300)])
    asked = requests(30, shared=64)
    stays = serve_all(open_run(folder, [spec(PLAIN, 300)]), requests(30, shared=64))
    ids = [run.submit(one.conversation()) for one in asked]
    while len(asked[0].delivered) < 1:
        pass
    for gone in ids[1::3]:
        run.cancel(gone)
    assert run.wait_idle(60)
    for i, one in enumerate(asked):
        assert one.delivered == stays[i][: len(one.delivered)]
        assert len(one.over) == 1
        if i % 3 != 1:
            assert one.delivered == stays[i]
    more = requests(4, seed=3, longest=20)
    for one in more:
        run.submit(one.conversation())
    run._inbox.put((0, _failed()))
    assert run.wait_idle(60)
    assert all(len(one.over) == 1 for one in more)
    again = requests(30, shared=64)
    assert serve_all(run, again) == stays
    assert run.engines[0].inst._pool.held == 0


def _failed() -> Any:
    from plimsoll.serving.executors.torch.messages import Failed

    return Failed("killed")


def test_a_broken_request_beside_others(folder: Path, tmp_path: Path) -> None:
    """What it wrote in the step ahead is wiped before its blocks are another's."""
    model: Any = load(folder)
    with torch.no_grad():
        model.embed_tokens.weight[500] = float("nan")
    save(model, tmp_path)
    greedy = SamplingParams(max_tokens=40, temperature=0.0)
    prompts = [[i, i + 1, i + 2] for i in range(0, 60, 3)]
    found = []
    for policy in (PLAIN, AHEAD):
        run = open_run(tmp_path, [spec(policy, 80)])
        asked = [Asked(prompt, greedy) for prompt in (*prompts[:10], [500, 3], *prompts[10:])]
        for one in asked:
            run.submit(one.conversation())
        assert run.wait_idle(60)
        run.close()
        assert not run.failure
        assert "not a number" in asked[10].over[0].error
        found.append([one.delivered for one in asked])
    assert found[0] == found[1]


def test_unforeseen_ends_replay(folder: Path) -> None:
    plain = serve_all(open_run(folder, [spec(PLAIN, 300)]), requests(80))
    common = max(range(512), key=lambda t: sum(t in tokens[1:-1] for tokens in plain))
    specs = [spec(AHEAD, 300, max_num_seqs=4)]
    run = open_run(folder, specs, eos_ids=(common,))
    serve_all(run, requests(80))
    again = replay(run, specs, run._router)
    assert [row[1:] for row in again.decisions] == [row[1:] for row in run.decisions]
    assert run.engines[0].num_wasted > 0
