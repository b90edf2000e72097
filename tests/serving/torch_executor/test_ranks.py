"""Replicas cut over processes: the same scores and tokens, parts that add up, ranks that die."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.loading import build, load, load_config
from plimsoll.models.sharding import Shard, cut_model, stage_layers
from plimsoll.serving.executors.torch.deploy import deploy, model_facts
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.ranks import GroupWorker
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    LeastWorkRouter,
    Parallel,
    Pool,
    ServingPlan,
)
from tests.models.checkpoints import small_config, write_checkpoint
from tests.models.test_deepseek import CASES as DEEPSEEK
from tests.models.test_deepseek import LATENT
from tests.models.test_dense_families import CASES as DENSE
from tests.models.test_experts import CASES as EXPERTS
from tests.serving.torch_executor.tiny_llama import Asked, make_folder, requests, serve_all

NUM = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def open_plan(
    folder: Path,
    parallel: Parallel,
    *,
    budget: int = 64,
    kv_bytes: float = 3e7,
    apart: bool = False,
) -> LiveRun:
    """A started run of one replica, or of a prefill and a decode replica."""
    pool = Pool(
        device="here",
        parallel=parallel,
        policy=ChunkedPrefill(token_budget=budget, preempt="swap"),
        max_num_seqs=16,
    )
    roles = ("prefill", "decode") if apart else ("both",)
    plan = ServingPlan(
        model=str(folder),
        fleet="here",
        engine="plimsoll",
        pools=tuple(
            Pool(**{f: getattr(pool, f) for f in pool.__slots__} | {"role": r}) for r in roles
        ),
        router=DisaggRouter() if apart else LeastWorkRouter(),
    )
    run = deploy(
        plan, model_facts(folder), kv_bytes=kv_bytes, num_threads=1, keep=True, check_books=True
    )
    run.start(120)
    return run


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    return serve_all(open_plan(folder, Parallel()), requests(NUM, shared=64))


@pytest.mark.parametrize(
    ("parallel", "more"),
    [
        (Parallel(tp=2), {}),
        (Parallel(pp=2), {}),
        (Parallel(tp=4), {"budget": 256}),
        (Parallel(tp=2), {"kv_bytes": 6e5}),
        (Parallel(tp=2), {"apart": True}),
    ],
    ids=str,
)
def test_same_tokens_as_one_process(
    folder: Path, alone: list[list[int]], parallel: Parallel, more: dict[str, Any]
) -> None:
    """Chunked prompts, prefix cache, swaps, hand-over; two stages have two slots in flight."""
    run = open_plan(folder, parallel, **more)
    assert serve_all(run, requests(NUM, shared=64)) == alone
    if "kv_bytes" in more:
        assert any("swap" in str(decision) for *_, decision in run.decisions)
    if parallel.pp > 1:
        steps = run.record().steps
        ends = dict.fromkeys((0, 1), 0.0)
        together = 0
        for slot, start_s, end_s in zip(
            steps.slot, steps.start_s, steps.start_s + steps.duration_s, strict=True
        ):
            together += start_s < ends[1 - int(slot)]
            ends[int(slot)] = end_s
        assert together > len(steps) // 4, "both slots are in flight at once"


CUTTABLE = {
    "qwen3": (*DENSE["qwen3"], Parallel(tp=2)),
    "phi3": (*DENSE["phi3"], Parallel(tp=2)),
    "gemma3": (*DENSE["gemma3"], Parallel(pp=2)),
    "llama-biases-tied": (*DENSE["llama-biases-tied"], Parallel(tp=2)),
    "gpt_oss": (*EXPERTS["gpt_oss"], Parallel(tp=2, pp=2)),
    "mixtral": (*EXPERTS["mixtral"], Parallel(pp=2)),
    "deepseek_v3": (DEEPSEEK["v3"][0], LATENT | DEEPSEEK["v3"][1], Parallel(tp=2)),
}


@pytest.mark.parametrize("family", CUTTABLE)
def test_families_by_tensor_and_pipeline(family: str, tmp_path: Path) -> None:
    """Greedy tokens of several ranks are those of one process."""
    kind, changes, cut = CUTTABLE[family]
    write_checkpoint(small_config(kind, **changes), tmp_path)
    found = []
    for parallel in (Parallel(), cut):
        run = open_plan(tmp_path, parallel, kv_bytes=1e7)
        asked = [Asked([3 + i, 50, 7 * i % 90] * 3, _greedy(12)) for i in range(5)]
        found.append(serve_all(run, asked))
    assert found[0] == found[1]


def _greedy(num: int) -> Any:
    from plimsoll.serving.generation import SamplingParams

    return SamplingParams(max_tokens=num, temperature=0.0, ignore_eos=True)


def test_parts_are_the_whole(folder: Path) -> None:
    """Every number is on some rank, and matrices on one only."""
    whole: Any = load(folder)
    matrices = sum(p.numel() for p in whole.layers.parameters() if p.dim() > 1)
    parts = [load(folder, shard=Shard(tp_rank=r, tp=2)) for r in range(2)]
    held = sum(p.numel() for part in parts for p in part.layers.parameters() if p.dim() > 1)
    assert held == matrices
    embedding = whole.embed_tokens.weight.numel()
    for part in parts:
        assert parameter_count(part) - embedding < 0.51 * (parameter_count(whole) - embedding)  # type: ignore[arg-type]
    mine = [part.layers[0].self_attn.q_proj.weight for part in parts]  # type: ignore[union-attr]
    assert torch.equal(torch.cat(mine), whole.layers[0].self_attn.q_proj.weight)
    joined = [p.layers[0].mlp.down_proj.weight for p in parts]  # type: ignore[union-attr]
    assert torch.equal(torch.cat(joined, dim=1), whole.layers[0].mlp.down_proj.weight)


def test_stages_share_the_layers() -> None:
    for num, stages in ((7, 3), (4, 4), (32, 5)):
        parts = [stage_layers(num, Shard(stage=s, num_stages=stages)) for s in range(stages)]
        assert [i for part in parts for i in part] == list(range(num))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_cut_is_said(folder: Path) -> None:
    def cut(**shard: int) -> None:
        model = build(load_config(folder), device="meta")
        cut_model(model, Shard(**shard))

    with pytest.raises(UnsupportedError, match="tp = 3 does not divide the model's query heads"):
        cut(tp=3)
    with pytest.raises(UnsupportedError, match="pp = 5 but the model has 2 layers"):
        cut(num_stages=5)
    with pytest.raises(UnsupportedError, match="cuts replicas by tp and pp only"):
        open_plan(folder, Parallel(attention_dp=2))


def test_a_rank_dies_and_the_group_comes_back(folder: Path, alone: list[list[int]]) -> None:
    run = open_plan(folder, Parallel(tp=2))
    long = Asked([5] * 20, _greedy(900))
    run.submit(long.conversation())
    while len(long.delivered) < 5:
        time.sleep(0.01)
    group = run._workers[0]
    assert isinstance(group, GroupWorker)
    os.kill(group.processes[1].pid or 0, signal.SIGKILL)
    while not long.over:
        time.sleep(0.01)
    assert "the worker that served this request stopped" in long.over[0].error
    asked = requests(NUM, shared=64)
    assert serve_all(run, asked) == alone
    assert not any(process.is_alive() for process in group.processes)


def test_modules_of_other_stages_take_no_memory(folder: Path) -> None:
    last = load(folder, shard=Shard(stage=1, num_stages=2))
    assert isinstance(last.layers[0], nn.Identity)
    assert list(last.kv_shapes) == [1]
    assert not list(last.embed_tokens.parameters())  # type: ignore[attr-defined]
