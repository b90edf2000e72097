"""Tokens are the same under any chunking, preemption, swap, hand-over and batch composition."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plimsoll.models.context import FullContext
from plimsoll.models.loading import load, save
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    NanoPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.policy import StepPolicy
from plimsoll.serving.routers import DisaggPolicy
from tests.serving.torch_executor.tiny_llama import (
    Asked,
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

NUM = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    """Each request by itself, without a prefix cache."""
    run = open_run(
        folder, [spec(ChunkedPrefillPolicy(token_budget=2048), 100, prefix_caching=False)]
    )
    return serve_all(run, requests(NUM, shared=64), one_by_one=True)


def test_alone_is_what_a_whole_pass_says(folder: Path, alone: list[list[int]]) -> None:
    model = load(folder)
    for asked, tokens in zip(requests(NUM, shared=64)[:12], alone, strict=False):
        if asked.params.temperature:
            continue
        whole = torch.tensor(asked.prompt + tokens[:-1])
        context = FullContext(1, len(whole))
        with torch.inference_mode():
            hidden = model(whole, context.positions(), context)
            best = model.logits(hidden[len(asked.prompt) - 1 :]).argmax(dim=-1)
        assert best.tolist() == tokens


@pytest.mark.parametrize(
    ("policy", "num_blocks", "more"),
    [
        (ChunkedPrefillPolicy(token_budget=16), 3000, {"max_num_seqs": 8}),
        (ChunkedPrefillPolicy(token_budget=64), 3000, {}),
        (ChunkedPrefillPolicy(token_budget=512, max_partial_prefills=3), 3000, {}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 3000, {}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 50, {}),
        (
            ChunkedPrefillPolicy(token_budget=64, preempt="swap", ahead=True),
            50,
            {"host_blocks": 60},
        ),
        (SplitFusePolicy(token_budget=64), 3000, {}),
        (SplitFusePolicy(token_budget=512), 3000, {}),
        (OrcaPolicy(), 300, {}),
        (
            NanoPolicy(token_budget=64, mean_output_tokens=1),
            40,
            {"host_blocks": 60, "prefix_caching": False},
        ),
        (PrefillFirstPolicy(), 3000, {}),
        (PrefillFirstPolicy(), 60, {}),
        (ChunkedPrefillPolicy(token_budget=64), 50, {}),
        (ChunkedPrefillPolicy(token_budget=64, preempt="swap"), 50, {"host_blocks": 60}),
        (PrefillFirstPolicy(preempt="swap"), 50, {"host_blocks": 60}),
        (ChunkedPrefillPolicy(token_budget=64), 3000, {"prefix_caching": False}),
    ],
    ids=str,
)
def test_tokens_do_not_depend_on_the_schedule(
    folder: Path,
    alone: list[list[int]],
    policy: StepPolicy,
    num_blocks: int,
    more: dict[str, object],
) -> None:
    run = open_run(folder, [spec(policy, num_blocks, **more)])
    assert serve_all(run, requests(NUM, shared=64)) == alone
    if num_blocks < 100:
        assert run.num_preempted > 0
    if "host_blocks" in more:
        assert any("swap" in str(decision) for *_, decision in run.decisions)
    if more.get("prefix_caching", True) and num_blocks > 1000:
        assert run.num_cached_tokens > 0
    assert run.engines[0].inst._pool.held == 0


def test_swapped_to_disk(folder: Path, alone: list[list[int]], tmp_path: Path) -> None:
    policy = ChunkedPrefillPolicy(token_budget=64, preempt="swap")
    specs = [spec(policy, 50, host_blocks=200)]
    run = open_run(folder, specs, disk_folder=tmp_path, host_bytes=0)
    assert serve_all(run, requests(NUM, shared=64)) == alone
    assert any("swap" in str(decision) for *_, decision in run.decisions)
    assert not list(tmp_path.iterdir())


def test_handed_over_from_prefill_to_decode(folder: Path, alone: list[list[int]]) -> None:
    specs = [
        spec(ChunkedPrefillPolicy(token_budget=128), 300, role="prefill"),
        spec(ChunkedPrefillPolicy(token_budget=128), 120, role="decode"),
    ]
    run = open_run(folder, specs, router=DisaggPolicy())
    assert serve_all(run, requests(NUM, shared=64)) == alone
    assert sum("Move" in str(decision) for *_, decision in run.decisions) >= NUM // 2
    assert all(engine.inst._pool.held == 0 for engine in run.engines)


def test_replicas(folder: Path, alone: list[list[int]]) -> None:
    specs = [spec(ChunkedPrefillPolicy(token_budget=64), 300) for _ in range(2)]
    run = open_run(folder, specs)
    assert serve_all(run, requests(NUM, shared=64)) == alone


def test_end_of_sequence_ends_and_frees(folder: Path, alone: list[list[int]]) -> None:
    common = max(range(512), key=lambda t: sum(t in tokens for tokens in alone))
    run = open_run(folder, [spec(ChunkedPrefillPolicy(token_budget=64), 300)], eos_ids=(common,))
    cut = [t[: t.index(common) + 1] if common in t else t for t in alone]
    assert cut != alone
    assert serve_all(run, requests(NUM, shared=64)) == cut


def test_a_broken_request_leaves_shared_blocks_alone(folder: Path, tmp_path: Path) -> None:
    """One token's embedding is no number: its request fails, its prefix still serves others."""
    model: Any = load(folder)
    with torch.no_grad():
        model.embed_tokens.weight[500] = float("nan")
    save(model, tmp_path)
    prefix = [(11 * i) % 400 for i in range(64)]
    greedy = SamplingParams(max_tokens=12, temperature=0.0)
    found = []
    for broken in (False, True):
        run = open_run(tmp_path, [spec(ChunkedPrefillPolicy(token_budget=64), 100)])
        tails = [[1, 2], [500], [3, 4, 5]] if broken else [[1, 2], [3, 4, 5]]
        asked = [Asked([*prefix, *tail], greedy) for tail in tails]
        for one in asked:
            run.submit(one.conversation())
            assert run.wait_idle(60)
        run.close()
        assert not run.failure
        if broken:
            assert "not a number" in asked.pop(1).over[0].error
        assert asked[1].over[0].cached_tokens == 64
        found.append([one.delivered for one in asked])
    assert found[0] == found[1]
