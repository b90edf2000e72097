"""The catalog entry of BlockLLM: its checks, and that its setting is the stated one."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.catalog import blockllm_setting as setting
from plimsoll.catalog.blockllm import SYSTEM
from plimsoll.catalog.contract import Context, Report
from plimsoll.catalog.verdicts import run_system


@pytest.mark.slow
def test_every_judged_check_passes() -> None:
    judged = tuple(check for check in SYSTEM.checks if not isinstance(check.band, Report))
    rows = list(run_system(replace(SYSTEM, checks=judged), Context()))
    assert [f"{r.claim}: {r.what}: {r.detail}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= len(judged)


def test_setting_is_the_stated_one() -> None:
    shares = setting.shares_of(0)
    assert len(shares) == 20 and sum(shares.values()) == pytest.approx(1.0)
    ordered = sorted(shares.values(), reverse=True)
    assert ordered[0] / ordered[9] == pytest.approx(10.0)
    asked = setting.traffic(50.0, 0, num=20_000)
    assert np.mean([a.prompt_tokens for a in asked]) == pytest.approx(300, rel=0.03)
    assert np.mean([a.output_tokens for a in asked]) == pytest.approx(100, rel=0.03)
    assert len(asked) / asked[-1].arrival_s == pytest.approx(50.0, rel=0.03)


@pytest.mark.parametrize("kind", ["blocks", "per-model", "adapter-sharing"])
def test_every_block_is_placed_within_memory(kind: str) -> None:
    where = setting.setting_of(kind, 0)
    sizes = {block.info.name: block.info.weight_bytes for block in where.blocks}
    assert set().union(*where.placed) == set(sizes)
    assert len(where.placed) == 12 and [where.servers.count(s) for s in range(4)] == [2, 2, 4, 4]
    assert max(sum(sizes[b] for b in held) for held in where.placed) < 0.6 * where.memory_bytes
    whole = sum(sizes[b] for b in where.apps[setting.FULL[0]])
    assert whole == pytest.approx(2 * 6.74e9, rel=0.01), "every chain is a whole model"


def test_ablations_take_away_what_they_name() -> None:
    apart = setting.setting_of("blocks", 0, locality=False)
    near = setting.setting_of("blocks", 0)
    chain = near.apps[setting.ADAPTED[0]]
    whole = [sum(set(chain) <= held for held in where.placed) for where in (near, apart)]
    assert whole[0] >= 6 and whole[1] < whole[0]
