"""A group plan on the real engine: what it computes, its tokens, its replay in the simulator."""

from pathlib import Path

import numpy as np
import pytest

from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.plan_groups import plan_groups
from plimsoll.serving.policies import ChunkedPrefillPolicy, GroupPolicy
from tests.serving.torch_executor.tiny_llama import (
    VOCABULARY,
    Asked,
    make_folder,
    open_run,
    serve_all,
    spec,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def batch(seed: int) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(10):
        prefix = rng.integers(0, VOCABULARY, 80).tolist()
        for _ in range(8):
            suffix = rng.integers(0, VOCABULARY, int(rng.integers(1, 20))).tolist()
            rows.append((prefix + suffix, int(rng.integers(2, 20))))
    order = rng.permutation(len(rows))
    return [rows[i][0] for i in order], [rows[i][1] for i in order]


def asked(prompts: list[list[int]], outputs: list[int]) -> list[Asked]:
    return [
        Asked(p, SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True))
        for p, n in zip(prompts, outputs, strict=True)
    ]


@pytest.mark.parametrize("hint", [1.0, 0.1])
def test_the_figure_the_tokens_and_the_replay(folder: Path, hint: float) -> None:
    prompts, outputs = batch(1)
    plan = plan_groups(prompts, [hint * n for n in outputs], kv_tokens=60 * 16)
    specs = [spec(GroupPolicy(plan=plan, token_budget=128), 60)]
    run = open_run(folder, specs)
    ours = asked(prompts, outputs)
    serve_all(run, ours)
    record = run.record()
    if hint == 1.0:
        assert record.requests.preemptions.sum() == 0
        assert record.steps.prefill_tokens.sum() == plan.prefill_tokens
    again = replay(run, specs, run._router)
    assert [row[1:] for row in again.decisions] == [row[1:] for row in run.decisions]
    alone = asked(prompts, outputs)
    serve_all(open_run(folder, [spec(ChunkedPrefillPolicy(token_budget=128), 2000)]), alone)
    assert [a.delivered for a in ours] == [a.delivered for a in alone]
