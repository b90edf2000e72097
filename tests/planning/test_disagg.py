"""Prefill and decode apart or together: the search believes what it simulates, and says why."""

import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.planning.disagg import DisaggSpace, search_disagg
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.plan import ChunkedPrefill, Parallel, Pool
from tests.clock_judge import ClockJudge, Replica
from tests.toy_world import slo, steady

SHAPES = (Parallel(tp=1), Parallel(tp=2))
KV_BYTES = 1e6


def replica(pool: Pool) -> Replica | None:
    speed = pool.parallel.num_devices**0.8
    clock = LinearClock(
        step_base_s=0.004 + 0.016 / speed,
        token_s=1e-4 / speed,
        decode_s=3e-4 / speed,
        context_s=1e-6 / speed,
    )
    return Replica(clock=clock, kv_tokens=200_000 * pool.parallel.num_devices)


def judge(link_bytes_per_s: float = 1e12) -> ClockJudge:
    return ClockJudge(
        replica=replica,
        kv_bytes_per_token=KV_BYTES,
        link_bytes_per_s=link_bytes_per_s,
        joint_fraction=0.9,
    )


def space(**changes: object) -> DisaggSpace:
    settings: dict[str, object] = {
        "model": "toy",
        "device": "toy",
        "num_nodes": 1,
        "devices_per_node": 4,
        "shapes": SHAPES,
    }
    return DisaggSpace(**{**settings, **changes})


def run(workload, promise, where=None, **changes):
    settings = {"judge": judge(), "affinity": "low", "duration_s": 60.0, "tolerance": 0.08}
    return search_disagg(where or space(), workload, promise, **{**settings, **changes})


def long_prompts():
    base = steady(2.0, 1500)
    return base.with_changes(prompt_tokens=base.prompt_tokens * 8)


def test_long_prompts_and_tight_tokens_are_served_apart():
    answer = run(long_prompts(), slo(1.5, 0.03))
    assert {p.role for p in answer.chosen.plan.pools} == {"prefill", "decode"}
    best_together = max((p.rate_per_s_per_device for p in answer.colocated), default=0.0)
    assert answer.chosen.rate_per_s_per_device > best_together
    assert "apart" in answer.why


def test_short_prompts_and_loose_tokens_are_served_together_and_it_says_why():
    base = steady(2.0, 1500)
    short = base.with_changes(prompt_tokens=base.prompt_tokens // 8 + 1)
    where = space(
        shapes=SHAPES[:1],
        devices_per_node=2,
        decode_requests=16,
        colocated=(ChunkedPrefill(token_budget=512),),
    )
    answer = run(short, slo(0.5, 0.04), where=where, duration_s=30.0)
    assert {p.role for p in answer.chosen.plan.pools} == {"both"}
    assert "together" in answer.why and "against" in answer.why
    assert answer.disaggregated


def test_a_tied_pair_stays_within_a_node():
    answer = run(long_prompts(), slo(1.5, 0.03), affinity="high")
    assert all(placed.in_node for placed in answer.disaggregated)
    assert all(placed.plan.num_devices <= 4 for placed in answer.disaggregated)


def test_a_pair_wider_than_a_node_is_told_from_one_that_is_tied_to_it():
    """Two stages each, one of prefill and one of decode a node, or pools that cross nodes."""
    wide = space(num_nodes=2, devices_per_node=2, shapes=(Parallel(tp=1, pp=2),))
    apart = {
        affinity: run(long_prompts(), slo(2.5, 0.06), where=wide, affinity=affinity).disaggregated
        for affinity in ("high", "low")
    }
    assert apart["high"] and all(p.in_node for p in apart["high"])
    assert apart["low"] and not any(p.in_node for p in apart["low"])


def test_a_slower_link_never_carries_more():
    fast = run(long_prompts(), slo(1.5, 0.03), judge=judge(4e11))
    slow = run(long_prompts(), slo(1.5, 0.03), judge=judge(1e9))
    best = [
        max((p.rate_per_s_per_device for p in answer.disaggregated), default=0.0)
        for answer in (slow, fast)
    ]
    assert best[0] <= best[1] * 1.05


def test_a_bound_below_one_request_is_infeasible_not_zero():
    with pytest.raises(InfeasibleError, match="infeasible at any rate"):
        run(steady(2.0, 500), slo(0.001, 0.2))


def test_what_fits_nowhere_is_an_error():
    class Nothing:
        def __call__(self, pool):
            return None

    empty = ClockJudge(replica=Nothing(), kv_bytes_per_token=1.0, link_bytes_per_s=1e9)
    with pytest.raises(InfeasibleError, match="no shape fits"):
        run(steady(2.0, 500), slo(), judge=empty)
