"""Chains on simulated devices: closed forms, what transfers cost, faults, replicas, guesses."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.catalog import blockllm_setting as setting
from plimsoll.cost.block_clock import block_clock
from plimsoll.serving.executors.chains_simulated import Asked, ChainSetting, run_chains
from plimsoll.serving.routers.chains import ChainPolicy
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model

APP = setting.ADAPTED[0]
ONE = [Asked(APP, 0.0, 300, 20)]


def few(num: int, gap_s: float = 0.01) -> list[Asked]:
    return [Asked(APP, i * gap_s, 50 + 10 * i, 6) for i in range(num)]


def narrow(placed: list[set[str]]) -> ChainSetting:
    """The four blocks of one application on other devices, one a server."""
    plain = setting.spread_setting(0.0)
    return replace(
        plain, placed=tuple(frozenset(p) for p in placed), servers=tuple(range(len(placed)))
    )


def test_blocks_of_a_model_take_its_time_and_a_launch_each() -> None:
    model, device = load_model("llama-2-7b"), load_device("a100-sxm-80")
    clock = block_clock(model, device, launch_s=1e-4)
    chunks = ((300, 0), (20, 100))
    whole = clock.run_s(32, chunks, 4, 2000, ends=True)
    parts = [clock.run_s(8, chunks, 4, 2000, ends=last) for last in (False, False, False, True)]
    assert sum(parts) == pytest.approx(whole + 3e-4)
    with pytest.raises(UnsupportedError, match="its layers are not all alike"):
        block_clock(load_model("gemma-2-9b"), device)


def test_a_request_alone_takes_the_closed_form() -> None:
    where = setting.setting_of("per-model", 0)
    run = run_chains(where, ChainPolicy(), ONE)
    assert run.e2e_s[0] == pytest.approx(float(setting.idle_s(ONE)[0]), rel=0.01)


def test_hidden_states_pay_for_the_way_between_devices() -> None:
    blocks = [f"base/{i}" for i in range(4)]
    together = run_chains(narrow([set(blocks)]), ChainPolicy(), ONE)
    apart = run_chains(narrow([{b} for b in blocks]), ChainPolicy(), ONE)
    assert together.moved_bytes == (0.0, 0.0)
    moved = (300 + 19) * 3 * 4096 * 2 + 19 * 4096 * 2
    assert apart.moved_bytes == (moved, 0.0)
    hops_s = 19 * 4 * 50e-6 + 3 * 50e-6 + moved / 12.5e9
    assert apart.e2e_s[0] - together.e2e_s[0] == pytest.approx(hops_s, rel=0.02)


def test_requests_of_different_applications_share_batches() -> None:
    where = setting.setting_of("blocks", 0)
    asked = [Asked(app, 0.0, 100, 30) for app in setting.ADAPTED * 4]
    mixed = run_chains(where, ChainPolicy(), asked)
    alone = run_chains(where, ChainPolicy(mix_apps=False), asked)
    assert mixed.batch["base/0"] > 2 * alone.batch["base/0"]
    assert mixed.e2e_s.mean() < alone.e2e_s.mean()


def test_a_lost_device_delays_requests_and_loses_none() -> None:
    blocks = [f"base/{i}" for i in range(4)]
    where = narrow([set(blocks), set(blocks[2:])])
    two = narrow([set(blocks), set(blocks)])
    for setting_, lost in ((where, 1), (two, 0)):
        whole = run_chains(setting_, ChainPolicy(), few(12))
        faulty = run_chains(setting_, ChainPolicy(), few(12), faults=[(0.15, lost)], log=True)
        assert (faulty.end_s > 0).all()
        assert faulty.makespan_s >= whole.makespan_s
    assert any(entry[0] == "resume" for entry in faulty.log)


def test_an_overloaded_block_is_replicated_not_its_model() -> None:
    blocks = [f"base/{i}" for i in range(4)]
    where = narrow([set(blocks), set()])
    asked = [Asked(APP, i * 0.01, 1500, 20) for i in range(80)]
    policy = ChainPolicy(replicate_wait_s=0.1)
    grown = run_chains(where, policy, asked, replicate=True)
    assert grown.replicas and {device for _, device in grown.replicas} == {1}
    assert grown.makespan_s < run_chains(where, policy, asked).makespan_s


def test_guesses_save_time_when_right_and_stop_when_wrong() -> None:
    asked = [Asked(APP, 0.0, 100, 120)]
    plain = run_chains(setting.spread_setting(0.0), ChainPolicy(), asked)
    policy = ChainPolicy(speculate=True)
    right = run_chains(setting.spread_setting(1.0), policy, asked)
    wrong = run_chains(setting.spread_setting(0.0), policy, asked)
    assert right.e2e_s[0] < 0.95 * plain.e2e_s[0] and right.guesses > 100
    assert wrong.guesses <= policy.trial + 1
    assert wrong.e2e_s[0] == pytest.approx(plain.e2e_s[0], rel=0.02)


def test_the_same_seed_gives_the_same_run() -> None:
    where = setting.setting_of("blocks", 1)
    asked = setting.traffic(60.0, 1, num=40)
    first, second = (run_chains(where, ChainPolicy(), asked, log=True) for _ in range(2))
    assert first.log == second.log and np.array_equal(first.end_s, second.end_s)
    assert first.busy_s <= first.makespan_s * len(where.servers)
