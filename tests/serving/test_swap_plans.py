"""A fairswap pool in a plan: its replicas swap as it says, and what cannot be is refused."""

from dataclasses import replace

import pytest

from plimsoll.serving.simulate.run import build, simulate_plan
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import FairSwap, Parallel, Pool, PrefillFirst, ServingPlan
from tests.serving.clusters import poisson

POOL = Pool(device="A10", policy=FairSwap(), prefix_caching=False, max_num_seqs=64)
PLAN = ServingPlan(model="llama-3-8b", fleet="1xA10", pools=(POOL,), max_model_len=4096)


def made(pool: Pool, fleet: str = "1xA10"):
    plan = replace(PLAN, fleet=fleet, pools=(pool,))
    return build(plan, load_model("llama-3-8b"), parse_fleet(fleet))[0][0]


def test_each_part_is_switched_by_itself():
    for part in ("groups", "asynchronous", "reuse"):
        off = {"groups": False, "asynchronous": False, "reuse": False}
        config = FairSwap(**(off | {part: True}), launch_s=5e-6, bytes_per_s=1e9)
        swapping = made(replace(POOL, policy=config)).swapping
        on = [name for name in off if getattr(swapping, name)]
        assert on == [part]
        assert (swapping.launch_s, swapping.bytes_per_s) == (5e-6, 1e9)
        assert swapping.block_bytes == 2 * 2**20 and swapping.pieces_per_block == 64
    assert made(POOL).swapping.bytes_per_s == 31.5e9
    assert made(replace(POOL, policy=PrefillFirst(preempt="swap"))).swapping is None


def test_a_plan_is_served_and_each_part_shows():
    load = poisson(80, rate=30, prompt=2000, output=150)
    model, fleet = load_model("llama-3-8b"), parse_fleet("1xA10")
    waits = {}
    for name, config in (
        ("all", FairSwap(priorities="random")),
        ("none", FairSwap(priorities="random", groups=False, asynchronous=False, reuse=False)),
    ):
        record = simulate_plan(
            replace(PLAN, pools=(replace(POOL, policy=config),)), model, fleet, load
        )
        assert record.requests.ok.all() and record.meta["swap_in_blocks"] > 100
        waits[name] = record.meta["swap_wait_s"]
    assert waits["all"] < 0.1 * waits["none"]


def test_what_has_no_place_in_its_copies_is_refused():
    with pytest.raises(SpecError, match="set prefix_caching: false"):
        made(replace(POOL, prefix_caching=True))
    with pytest.raises(SpecError, match="set pp: 1"):
        made(replace(POOL, parallel=Parallel(pp=2)), "2xA10")
    with pytest.raises(SpecError, match="token budget 32 is below max_num_seqs 64"):
        made(replace(POOL, policy=FairSwap(token_budget=32)))
