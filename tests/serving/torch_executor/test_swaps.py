"""The swap manager on the real engine: tokens are the same whatever is copied when."""

from pathlib import Path
from typing import Any

import pytest

from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from tests.serving.torch_executor.tiny_llama import (
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
    return spec(policy, 40, max_model_len=400, **settings)


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
