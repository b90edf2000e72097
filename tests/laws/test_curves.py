"""Curves for pictures: contours hold their loss, curves their budget, the path its minima."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.allocate import compute_optimal
from plimsoll.laws.curves import contours, iso_flop, levels, optimal_path
from plimsoll.laws.law import PUBLISHED
from plimsoll.laws.repeats import limited

LAWS = [name for name, law in PUBLISHED.items() if law.form.inputs == ("params", "tokens")]


def ranges(law, factor=3.0):
    return {key: (low / factor, high * factor) for key, (low, high) in law.box.items()}


@pytest.mark.parametrize("name", LAWS)
def test_every_point_of_a_contour_has_its_loss_and_lies_in_the_ranges(name):
    law = PUBLISHED[name]
    shown = ranges(law)
    found = levels(law, **shown)
    assert len(found) > 4 and found == sorted(found, reverse=True)
    for loss, (params, tokens) in zip(found, contours(law, found, **shown), strict=True):
        assert len(params) > 1
        at = law.predict({"params": params, "tokens": tokens})
        np.testing.assert_allclose(at, loss, rtol=1e-9)
        assert (np.diff(params) < 0).all() and (np.diff(tokens) > 0).all()
        for key, values in (("params", params), ("tokens", tokens)):
            low, high = shown[key]
            assert low * (1 - 1e-9) <= values.min() <= values.max() <= high * (1 + 1e-9)


def test_contours_over_a_limited_pool_flatten_where_repeats_are_worth_nothing():
    law = limited(PUBLISHED["chinchilla"], 2e10)
    shown = ranges(law)
    found = levels(law, **shown)
    for loss, (params, tokens) in zip(found, contours(law, found, **shown), strict=True):
        np.testing.assert_allclose(
            law.predict({"params": params, "tokens": tokens}), loss, rtol=1e-9
        )
    out_of_reach = PUBLISHED["chinchilla"].predict(
        {"params": np.array([1e12]), "tokens": np.array([2e10 * 17])}
    )[0]
    ((none, _),) = contours(law, [float(out_of_reach)], **shown)
    assert len(none) == 0


def test_a_contour_reaches_the_edges_of_the_ranges():
    law = PUBLISHED["chinchilla"]
    ((params, tokens),) = contours(law, [2.3], **ranges(law), num=2000)
    (_, n_high), (_, d_high) = ranges(law)["params"], ranges(law)["tokens"]
    assert params[0] == pytest.approx(n_high, rel=0.02)
    assert tokens[-1] == pytest.approx(d_high, rel=0.02)


def test_a_loss_out_of_reach_has_no_contour():
    law = PUBLISHED["chinchilla"]
    near, low, high = contours(law, [2.3, 1.5, 50.0], **ranges(law))
    assert len(near[0]) > 1
    assert [len(values) for values in (*low, *high)] == [0, 0, 0, 0]


@settings(max_examples=12, deadline=None)
@given(
    budget=st.floats(19.5, 23.0),
    served=st.sampled_from([0.0, 1e10, 1e12]),
    weight=st.floats(0.5, 4.0),
)
def test_the_least_of_a_curve_is_the_compute_optimal_split(budget, served, weight):
    law, flops = PUBLISHED["chinchilla"], 10.0**budget
    served = served if 2 * law.box["params"][0] * served * weight < flops else 0.0
    asked = {"serve_tokens": served, "serve_weight": weight}
    found = iso_flop(law, flops, **asked)
    best = compute_optimal(law, flops, **asked)
    assert found.least == best
    assert (found.loss >= best.loss * (1 - 1e-9)).all()
    step = found.params[1] / found.params[0]
    least = found.params[np.argmin(found.loss)]
    assert 1 / step**1.01 <= least / best.params <= step**1.01
    spent = 6 * found.params * found.tokens + weight * 2 * found.params * served
    np.testing.assert_allclose(spent, flops, rtol=1e-9)
    x = {"params": found.params, "tokens": found.tokens}
    np.testing.assert_allclose(found.loss, law.predict(x), rtol=1e-12)


def test_sizes_as_good_end_where_the_loss_says():
    found = iso_flop(PUBLISHED["chinchilla"], 1e22, num=1001)
    low, high = found.within(0.005)
    assert low < found.least.params < high
    inside = (found.params >= low) & (found.params <= high)
    limit = found.least.loss * 1.005
    assert (found.loss[inside] <= limit).all() and (found.loss[~inside] > limit).all()


def test_the_path_holds_minima_only_and_agrees_with_a_grid():
    law = PUBLISHED["chinchilla"]
    budgets = np.geomspace(1e19, 1e23, 9)
    path = optimal_path(law, budgets)
    assert [one.flops for one in path] == budgets.tolist()
    for one in path:
        sizes = one.params * np.geomspace(0.3, 3, 301)
        losses = law.predict({"params": sizes, "tokens": one.flops / 6 / sizes})
        assert one.loss <= losses.min() * (1 + 1e-9)
    kaplan = PUBLISHED["kaplan"]
    assert compute_optimal(kaplan, 1e22).edge and not optimal_path(kaplan, [1e22, 1e24])


def test_a_form_that_bends_down_far_away_keeps_its_near_minimum():
    law = PUBLISHED["farseer"]
    assert compute_optimal(law, 1e22, stretch=100.0).edge
    (near,) = optimal_path(law, [1e22], stretches=(10.0, 100.0))
    assert near.params == pytest.approx(compute_optimal(law, 1e22).params, rel=1e-4)
    assert not optimal_path(law, [1e22], stretches=(100.0,))
