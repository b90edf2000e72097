"""The space: legal, complete, without duplicates, and counted as enumerated."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.parallel_shapes import Site, Skips, parallel_shapes, replicas_that_fit
from plimsoll.planning.plan_space import SpaceOptions, enumerate_plans, policies_for, usable_sites
from plimsoll.planning.ranking import rank_plans
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.hardware import Fleet, FleetPart, Node
from tests.toy_world import (
    FLEET,
    ToyPhysics,
    demand,
    dense_model,
    moe_model,
    slo,
    small_options,
    steady,
)

H100 = load_device("H100-SXM")


def shapes(model, nodes, **changes):
    site = Site(device=H100, nodes=nodes)
    skips = Skips()
    found = list(parallel_shapes(model, site, max_devices=site.num_devices, skips=skips, **changes))
    return found, skips


def test_one_device_has_exactly_one_shape():
    for model in (dense_model(), moe_model()):
        found, _ = shapes(model, (1,))
        assert [(s.tp, s.pp, s.attention_dp, s.ep) for s in found] == [(1, 1, 1, 1)]


def test_dense_shapes_on_four_devices_are_all_products():
    found, _ = shapes(dense_model(), (4,))
    assert [(s.tp, s.pp) for s in found] == [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
    assert {s.attention_dp for s in found} == {s.ep for s in found} == {1}


def test_experts_add_attention_dp_and_ep_each_shape_once():
    found, _ = shapes(moe_model(), (4,))
    keys = [(s.tp, s.pp, s.attention_dp, s.ep) for s in found]
    assert len(keys) == len(set(keys))
    assert (1, 1, 4, 4) in keys and (2, 1, 2, 4) in keys and (4, 1, 1, 1) in keys
    assert all(s.num_devices <= 4 for s in found)
    many, _ = shapes(moe_model(), (4,), engine="trtllm")
    assert {(s.tp, s.ep) for s in many if s.num_devices == s.tp == 4} == {(4, 1), (4, 2), (4, 4)}


def test_tensor_parallelism_stays_in_the_node_and_stages_do_not_straddle():
    found, _ = shapes(dense_model(), (4, 4))
    assert max(s.tp for s in found) == 4
    assert any(s.tp == 4 and s.pp == 2 for s in found)
    odd, skips = shapes(dense_model(heads=9, kv_heads=9), (3, 3))
    assert not any(s.tp == 2 for s in odd)
    assert sum(skips.values()) > 0


def test_skipped_shapes_are_counted_with_the_reason():
    _, skips = shapes(dense_model(heads=6, kv_heads=6), (4,))
    reasons = [r for r in skips if r.startswith("tp = 4")]
    assert len(reasons) == 1 and skips[reasons[0]] >= 1


def test_block_quantized_weights_are_not_cut_through_a_block():
    wide = dense_model()
    found, skips = shapes(wide, (8,), weight_dtype=DType.FP8_BLOCK)
    assert max(s.tp for s in found) == 8
    narrow = dense_model(heads=16, kv_heads=16)
    found, skips = shapes(narrow, (16,), weight_dtype=DType.FP8_BLOCK)
    assert max(s.tp for s in found) == 16  # 2048 / 16 = 128
    deep = dense_model(heads=32, kv_heads=32)
    found, skips = shapes(deep, (32,), weight_dtype=DType.FP8_BLOCK)
    assert max(s.tp for s in found) == 16
    assert any("scale blocks" in reason for reason in skips)


@given(
    nodes=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=4),
    sizes=st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4)), max_size=3),
)
@settings(deadline=None, max_examples=60)
def test_what_fits_never_needs_more_devices_than_there_are(nodes, sizes):
    site = Site(device=H100, nodes=tuple(nodes))
    if replicas_that_fit(site, sizes):
        assert sum(d * n for d, n in sizes) <= sum(nodes)
        assert all(replicas_that_fit(site, sizes[:k]) for k in range(len(sizes)))


def test_every_candidate_is_new_and_within_the_fleet():
    plans = list(enumerate_plans(dense_model(), FLEET, small_options()))
    keys = {(p.pools, p.weight_dtype, p.kv_dtype) for p in plans}
    assert len(keys) == len(plans)
    assert max(p.num_devices for p in plans) == 4
    assert {p.mode for p in plans} == {"aggregated", "disaggregated"}


def test_search_counts_exactly_what_enumeration_yields():
    for model in (dense_model(), moe_model()):
        for options in (
            small_options(),
            small_options(budgets=(16, 512), max_num_seqs=(8, 32)),
            small_options(modes=("aggregated",)),
            small_options(weight_dtypes=(None, DType.FP8)),
            small_options(max_devices=3),
        ):
            workload = steady(count=200)
            sites = usable_sites(FLEET, options)
            ranking = rank_plans(model, sites, options, ToyPhysics(), demand(workload, slo()))
            plans = list(enumerate_plans(model, FLEET, options))
            assert ranking.num_enumerated == len(plans)
            assert ranking.num_estimated + ranking.pruned.total() == len(plans)
            assert {e.candidate for e in ranking.estimates} <= set(plans)


def test_naming_devices_in_another_order_changes_nothing():
    parts = parse_fleet("4xH100-SXM+4xL40S").parts
    options = small_options(modes=("aggregated",))
    one = set(enumerate_plans(dense_model(), Fleet(parts=parts), options))
    other = set(enumerate_plans(dense_model(), Fleet(parts=parts[::-1]), options))
    assert {(p.pools, p.weight_dtype) for p in one} == {(p.pools, p.weight_dtype) for p in other}


def test_limits_are_counts_of_devices():
    def most(**changes):
        options = small_options(**changes)
        return max(p.num_devices for p in enumerate_plans(dense_model(), FLEET, options))

    assert most() == 4
    assert most(max_devices=2) == 2
    assert most(power_w=3 * H100.power.peak_w) == 3
    assert H100.price is not None
    assert most(usd_per_hour=2.5 * H100.price.usd_per_hour) == 2


def test_a_money_limit_without_a_price_is_refused():
    device = replace(H100, price=None)
    bare = Fleet(parts=(FleetPart(node=Node(device=device, num_devices=2)),))
    with pytest.raises(UnsupportedError, match="no price"):
        list(enumerate_plans(dense_model(), bare, small_options(usd_per_hour=10.0)))


def test_include_and_exclude_name_devices_of_the_fleet():
    fleet = parse_fleet("2xH100-SXM+2xL40S")
    only = enumerate_plans(dense_model(), fleet, small_options(include=("L40S",)))
    assert {pool.device for p in only for pool in p.pools} == {load_device("L40S").name}
    without = enumerate_plans(dense_model(), fleet, small_options(exclude=("L40S",)))
    assert {pool.device for p in without for pool in p.pools} == {H100.name}
    with pytest.raises(SpecError, match="not in the fleet.*Did you mean"):
        list(enumerate_plans(dense_model(), fleet, small_options(include=("L40",))))
    with pytest.raises(SpecError, match="no device is left"):
        list(enumerate_plans(dense_model(), fleet, small_options(exclude=("L40S", "H100-SXM"))))


def test_each_engine_tries_the_policies_it_runs():
    kinds = {
        engine: {p.kind for p in policies_for(SpaceOptions(engine=engine))}
        for engine in ("vllm", "sglang", "trtllm")
    }
    assert kinds["vllm"] == {"chunked-prefill"}
    assert kinds["sglang"] == {"chunked-prefill", "prefill-first"}
    assert kinds["trtllm"] == {"chunked-prefill"}
