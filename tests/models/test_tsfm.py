"""Forecasters of series: what they may see, what they are taught on, and odd inputs."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import t as student

from plimsoll.models.student_mixture import DF_BOUNDS, SCALE_FLOOR, StudentTMixture
from plimsoll.models.tsfm import (
    TSConfig,
    TSDecoder,
    TSEncoder,
    cut_patches,
    forecast,
    init_series_model,
    instance_scale,
    non_embedding_params,
)
from plimsoll.spec.errors import SpecError

PATCH = 4
BOTH = (TSEncoder, TSDecoder)


def tiny(kind, seed=0):
    model = kind(TSConfig(width=16, heads=2, patch=PATCH))
    init_series_model(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.head.weight.mul_(10)  # so that what comes out depends on what went in
    return model.eval()


def mixture(seed, *shape):
    rng = np.random.default_rng(seed)
    return StudentTMixture.from_raw(torch.from_numpy(rng.normal(size=(*shape, 3, 4))))


def windows(seed, num=3, patches=6):
    values = np.random.default_rng(seed).normal(size=(num, patches * PATCH))
    return cut_patches(values, PATCH)


def test_density_is_that_of_scipy_and_integrates_to_one():
    one = mixture(0, 1)
    weight, center, scale, df = (
        getattr(one, name)[0].numpy() for name in ("log_weight", "center", "scale", "df")
    )

    def density(x):
        return float((np.exp(weight) * student.pdf(x, df, center, scale)).sum())

    at = 0.37
    assert float(one.log_prob(torch.tensor([at]))) == pytest.approx(np.log(density(at)))
    assert quad(density, -np.inf, np.inf)[0] == pytest.approx(1.0, abs=1e-6)
    half = quad(density, -np.inf, float(one.median()[0]))[0]
    assert half == pytest.approx(0.5, abs=1e-5)


def test_samples_have_the_median_of_their_mixture():
    one = mixture(1, 1)
    wide = StudentTMixture(
        **{
            name: getattr(one, name).expand(20_000, -1)
            for name in ("log_weight", "center", "scale", "df")
        }
    )
    drawn = wide.sample(torch.Generator().manual_seed(0))
    assert float((drawn < one.median()).double().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("raw", [-1e6, -50.0, 0.0, 50.0, 1e6])
def test_degrees_of_freedom_stay_above_two_and_scales_above_their_floor(raw):
    found = StudentTMixture.from_raw(torch.full((2, 3, 4), raw))
    assert (found.df >= DF_BOUNDS[0]).all() and (found.df <= DF_BOUNDS[1]).all()
    assert DF_BOUNDS[0] > 2
    assert (found.scale >= SCALE_FLOOR).all()
    assert torch.isfinite(found.log_prob(torch.tensor([0.0, 1e3]))).all()


def test_pooling_is_the_mean_of_densities():
    both = mixture(2, 2, 1, PATCH)
    at = torch.randn(1, 1, PATCH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = both.log_prob(at.expand(2, -1, -1)).exp().mean(0)
    assert torch.allclose(both.pooled(2).log_prob(at)[0].exp(), mean)


def test_sizes_grow_by_four():
    sizes = [
        non_embedding_params(TSEncoder(TSConfig(width=w, heads=max(1, w // 16)))) for w in (8, 16)
    ]
    decoder = TSDecoder(TSConfig(width=16, heads=1))
    assert sizes == [2048, 8192] and non_embedding_params(decoder) == 8192


def test_both_are_taught_the_same_number_of_patches():
    """A decoder taught fewer patches a series than the encoder would be compared unfairly."""
    window, seen = windows(0)
    shapes = [tiny(kind).teach(window, seen, 4).center.shape for kind in BOTH]
    assert shapes[0] == shapes[1] == (3, 2, PATCH, 3)


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_is_taught_from_what_it_is_to_say(kind):
    """Changing a patch changes nothing that is said of it or of patches before it."""
    model = tiny(kind)
    window, seen = windows(1)
    before = model.teach(window, seen, 3).center
    changed = window.clone()
    changed[:, 4] += 5.0
    after = model.teach(changed, seen, 3).center
    assert torch.allclose(before[:, :2], after[:, :2])
    assert (kind is TSEncoder) == torch.allclose(before[:, 2:], after[:, 2:])


@pytest.mark.parametrize("kind", BOTH)
def test_the_context_matters_at_every_patch(kind):
    model = tiny(kind)
    window, seen = windows(2)
    before = model.teach(window, seen, 3).center
    for patch in range(3):
        changed = window.clone()
        changed[:, patch] += 1.0
        assert not torch.allclose(before, model.teach(changed, seen, 3).center)


@pytest.mark.parametrize("kind", BOTH)
def test_a_forecast_begins_as_it_was_taught(kind):
    model = tiny(kind)
    values = np.random.default_rng(3).normal(size=(2, 5 * PATCH))
    said = forecast(model, values[:, : 4 * PATCH], PATCH, paths=1)
    mean, scale = instance_scale(values[:, : 4 * PATCH])
    window, seen = cut_patches((values - mean) / scale, PATCH)
    with torch.inference_mode():
        taught = model.teach(window, seen, 4)
    assert torch.allclose(said.mixture.center, taught.center[:, 0], atol=1e-5)


def test_normalisation_knows_the_context_alone():
    """A future that differs wildly leaves mean, scale and forecast as they are."""
    context = np.random.default_rng(4).normal(5, 2, size=(2, 16))
    mean, scale = instance_scale(context)
    assert mean == pytest.approx(context.mean(axis=1, keepdims=True))
    assert scale == pytest.approx(context.std(axis=1, keepdims=True))
    said = forecast(tiny(TSEncoder), context, 8)
    assert said.mean == pytest.approx(mean) and said.scale == pytest.approx(scale)


@pytest.mark.parametrize("kind", BOTH)
def test_forecasts_follow_the_unit_of_the_series(kind):
    model = tiny(kind)
    context = np.random.default_rng(5).normal(size=(2, 16))
    plain = forecast(model, context, 8).median()
    other = forecast(model, 1000 + 50 * context, 8).median()
    assert other == pytest.approx(1000 + 50 * plain, abs=0.02)


@pytest.mark.parametrize("kind", BOTH)
def test_gaps_are_masked_and_not_zeros(kind):
    model = tiny(kind)
    context = np.random.default_rng(6).normal(3, 1, size=(1, 16))
    gap = context.copy()
    gap[0, 5:8] = np.nan
    filled = np.where(np.isnan(gap), 0.0, gap)
    said = forecast(model, gap, 8)
    known = gap[np.isfinite(gap)]
    assert np.isfinite(said.median()).all()
    assert said.mean[0, 0] == pytest.approx(known.mean())
    zeros = forecast(model, filled, 8)
    assert not np.allclose(said.median(), zeros.median(), atol=1e-3)


@pytest.mark.parametrize("kind", BOTH)
def test_a_patch_without_any_value_is_not_looked_at(kind):
    """What stands in a missing patch changes nothing."""
    model = tiny(kind)
    window, seen = windows(7)
    seen = seen.clone()
    seen[:, 1] = False
    other = window.clone()
    other[:, 1] = 9.0
    first, second = (model.teach(w, seen, 4).center for w in (window, other))
    assert torch.allclose(first, second)


@pytest.mark.parametrize("kind", BOTH)
def test_a_context_shorter_than_a_patch_is_filled_with_gaps(kind):
    model = tiny(kind)
    short = np.array([[1.0, 2.0, 4.0]])
    padded = np.array([[np.nan, 1.0, 2.0, 4.0]])
    assert forecast(model, short, 6).median() == pytest.approx(forecast(model, padded, 6).median())


@pytest.mark.parametrize("level", [0.0, 7.0, -1e6])
@pytest.mark.parametrize("kind", BOTH)
def test_a_constant_series_divides_by_no_zero(kind, level):
    context = np.full((1, 16), level)
    said = forecast(tiny(kind), context, 8)
    assert said.scale[0, 0] > 0
    assert np.isfinite(said.median()).all()
    assert np.isfinite(said.log_density(np.full((1, 8), level))).all()


@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_below_one_is_refused(horizon):
    with pytest.raises(SpecError, match=f"a horizon of {horizon} points.*expected 1 or more"):
        forecast(tiny(TSEncoder), np.ones((1, 16)), horizon)


def test_a_context_without_values_is_refused():
    context = np.ones((2, 16))
    context[1] = np.nan
    with pytest.raises(SpecError, match="series 2: no value in its context of 16 points"):
        forecast(tiny(TSDecoder), context, 4)
    with pytest.raises(SpecError, match="contexts of shape"):
        forecast(tiny(TSDecoder), np.ones(16), 4)


def test_heads_must_have_an_even_width():
    with pytest.raises(SpecError, match="a width of 16 in 5 heads"):
        TSConfig(width=16, heads=5)
    with pytest.raises(SpecError, match="expected positive whole numbers"):
        TSConfig(width=16, heads=2, layers=0)


def test_a_horizon_need_not_be_whole_patches():
    said = forecast(tiny(TSDecoder), np.random.default_rng(8).normal(size=(2, 16)), 6, paths=3)
    assert said.median().shape == (2, 6)
    assert said.mixture.center.shape == (2, 6, 9)
