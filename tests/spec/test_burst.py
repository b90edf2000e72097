"""Burst models: what was put in is found again, and real traces keep their variance."""

from pathlib import Path

import numpy as np
import pytest

from plimsoll.spec import io
from plimsoll.spec.burst import (
    BurstModel,
    BurstWindow,
    Drift,
    Failures,
    Idle,
    RequestKind,
    SessionHabit,
    fit,
    scale,
)
from plimsoll.spec.burst.families import fit_gamma_shape, fit_modes, ks_to_exponential, ks_to_gamma
from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators import (
    Lengths,
    LognormalLength,
    MixtureLength,
    QuantileLength,
    ZipfLength,
)
from plimsoll.spec.traces import load_azure
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

TRACES = Path(__file__).resolve().parents[2] / "../shared/data/traces"
RATES, BENDS = (2.0, 4.0, 1.0, 3.0), (1.0, 1.2, 0.8, 1.0)


def truth(alpha: float, **changes: object) -> BurstModel:
    """Four windows of 2,000 s, about 20,000 requests, everything in the model switched on."""
    output = MixtureLength(
        weights=(0.4, 0.6),
        parts=(LognormalLength(median=20, sigma=0.4), LognormalLength(median=300, sigma=0.5)),
    )
    lengths = Lengths(
        prompt=ZipfLength(exponent=1.1, high=1_023), output=output, rank_correlation=0.3
    )
    fields = {
        "name": "truth",
        "window_s": 2_000.0,
        "windows": tuple(
            BurstWindow(rate_per_s=r, alpha=alpha * b) for r, b in zip(RATES, BENDS, strict=True)
        ),
        "kinds": (RequestKind(lengths=lengths),),
        "sessions": SessionHabit(
            turn_levels=(0.0, 0.6, 0.9, 1.0),
            turns=(1.0, 1.0, 4.0, 30.0),
            gap_median_s=60.0,
            gap_sigma=1.0,
        ),
        "failures": Failures(share=0.02, mean_run=3.0),
    } | changes
    return BurstModel(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0625, 0.25, 1.0, 4.0])
def test_what_was_put_in_is_found_again(alpha: float) -> None:
    original = truth(alpha)
    found = fit(original.sample(1), window_s=2_000.0)
    for window, was in zip(found.windows, original.windows, strict=True):
        assert window.alpha == pytest.approx(was.alpha, rel=0.10)
        assert window.alpha * window.beta_s == pytest.approx(1 / window.rate_per_s)
    assert found.gap_ks <= 0.03
    assert found.drift.cv == 0 and found.idle.share == 0, "nothing is found that was not there"
    lengths = found.kinds[0].lengths
    assert isinstance(lengths.prompt, ZipfLength) and isinstance(lengths.output, MixtureLength)
    assert lengths.prompt.exponent == pytest.approx(1.1, abs=0.1)
    assert [p.median for p in lengths.output.parts] == pytest.approx([20, 300], rel=0.10)
    assert lengths.output.weights[0] == pytest.approx(0.4, abs=0.03)
    assert lengths.rank_correlation == pytest.approx(0.3, abs=0.03)
    assert found.failures.share == pytest.approx(0.02, rel=0.25)
    assert found.failures.mean_run == pytest.approx(3.0, rel=0.35)
    assert found.sessions is not None
    assert np.interp(0.95, found.sessions.turn_levels, found.sessions.turns) == pytest.approx(
        np.interp(0.95, (0.9, 1.0), (4.0, 30.0)), rel=0.4
    )
    assert found.sessions.gap_median_s == pytest.approx(60, rel=0.35)


def test_the_wrong_family_is_told() -> None:
    gaps = np.random.default_rng(0).gamma(1 / 16, 16.0, 20_000)
    alpha = fit_gamma_shape(gaps)
    assert alpha == pytest.approx(1 / 16, rel=0.10)
    assert ks_to_gamma(gaps, alpha) <= 0.03
    assert ks_to_exponential(gaps) >= 0.15
    poisson = np.random.default_rng(1).exponential(1.0, 20_000)
    assert ks_to_exponential(poisson) <= 0.02


def test_one_gamma_over_drifting_windows_looks_burstier_than_it_is() -> None:
    rates = tuple(0.2 * 1.7**k for k in range(8))
    calm = truth(
        1.0, windows=tuple(BurstWindow(rate_per_s=r, alpha=1.0) for r in rates), window_s=1_000.0
    )
    drawn = calm.sample(3)
    apart = fit(drawn, window_s=1_000.0)
    together = fit_gamma_shape(np.diff(drawn.arrival_s))
    large = [w.alpha for w in apart.windows[-4:]]
    assert np.mean(large) == pytest.approx(1.0, rel=0.08)
    assert together < 0.85


def test_drift_and_pauses_are_found_again() -> None:
    drifting = truth(1.0, drift=Drift(step_s=60.0, cv=0.4, correlation=0.6))
    found = np.array([fit(drifting.sample(s), window_s=2_000.0).drift.cv for s in range(4)])
    assert found.mean() == pytest.approx(0.4, rel=0.25)
    idling = truth(1.0, idle=Idle(share=0.01, alpha=1.0, mean_gaps=50.0))
    idle = fit(idling.sample(2), window_s=2_000.0).idle
    assert idle.share == pytest.approx(0.01, rel=0.3)
    assert idle.share * idle.mean_gaps == pytest.approx(0.5, rel=0.2)


def minute_variance(arrival_s: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.histogram(arrival_s, np.arange(0, arrival_s[-1], 60.0))[0].var())


@pytest.mark.skipif(not TRACES.is_dir(), reason="measured traces are not beside the checkout")
@pytest.mark.parametrize(("name", "within"), [("conv", 0.20), ("code", 0.35)])
def test_models_of_real_hours_keep_the_variance_of_minute_counts(name: str, within: float) -> None:
    trace = load_azure(TRACES / f"azure_llm_2023_{name}.csv")
    model = fit(trace)
    drawn = [model.sample(seed) for seed in range(20)]
    variance = np.mean([minute_variance(w.arrival_s) for w in drawn])
    assert variance == pytest.approx(minute_variance(trace.arrival_s), rel=within)
    assert np.mean([len(w) for w in drawn]) == pytest.approx(len(trace), rel=0.05)
    for side in ("prompt_tokens", "output_tokens"):
        mean = np.mean([getattr(w, side).mean() for w in drawn])
        assert mean == pytest.approx(getattr(trace, side).mean(), rel=0.03)


@pytest.mark.skipif(not TRACES.is_dir(), reason="measured traces are not beside the checkout")
def test_poisson_with_the_same_rate_loses_the_bursts() -> None:
    trace = load_azure(TRACES / "azure_llm_2023_code.csv")
    poisson = load_workload("10/10", rate_per_s=trace.rate_per_s, num_requests=len(trace))
    assert minute_variance(poisson.arrival_s) < 0.02 * minute_variance(trace.arrival_s)


def test_a_model_is_a_file(tmp_path: Path) -> None:
    model = fit(truth(0.5).sample(4), window_s=2_000.0)
    for name in ("m.yaml", "m.json"):
        io.write(model, tmp_path / name)
        assert io.read(BurstModel, tmp_path / name) == model
    again = io.read(BurstModel, tmp_path / "m.yaml")
    assert np.array_equal(again.sample(1).arrival_s, model.sample(1).arrival_s)


def test_rates_and_durations() -> None:
    model = truth(0.5)
    assert model.rate_per_s == 2.5 and model.duration_s == 8_000
    base = model.sample(3)
    fast = model.sample(3, rate_per_s=25.0)
    assert fast.rate_per_s == pytest.approx(25.0, rel=0.05)
    assert np.allclose(fast.arrival_s * 10, base.arrival_s)
    two_days = model.sample(3, duration_s=16_000.0)
    assert 15_900 < two_days.duration_s < 16_000
    assert len(two_days) == pytest.approx(2 * len(base), rel=0.05)
    assert np.allclose(scale(base, 10.0).arrival_s, fast.arrival_s)


def test_kinds_keep_their_own_lengths() -> None:
    rng = np.random.default_rng(0)
    n = 8_000
    kind = (rng.random(n) < 0.3).astype(np.int64)
    prompt = np.where(kind == 1, 50, 2_000 + rng.integers(0, 500, n))
    trace = Workload(
        name="two",
        arrival_s=np.cumsum(rng.exponential(1.0, n)),
        prompt_tokens=prompt,
        output_tokens=rng.integers(1, 100, n),
        class_index=kind,
        classes=("Conversation log", "API log"),
    )
    model = fit(trace)
    assert [k.name for k in model.kinds] == ["Conversation log", "API log"]
    assert model.kinds[1].share == pytest.approx(0.3, abs=0.02)
    drawn = model.sample(1)
    assert drawn.classes == trace.classes
    assert set(drawn.prompt_tokens[drawn.class_index == 1]) == {50}
    assert drawn.prompt_tokens[drawn.class_index == 0].min() >= 2_000


def test_one_mode_stays_one() -> None:
    one = np.rint(np.random.default_rng(0).lognormal(5.0, 0.6, 5_000)).astype(np.int64)
    assert len(fit_modes(one).parts) == 1


def test_odd_lengths_become_tables() -> None:
    rng = np.random.default_rng(0)
    n = 4_000
    trace = Workload(
        name="odd",
        arrival_s=np.cumsum(rng.exponential(1.0, n)),
        prompt_tokens=rng.choice([7, 900, 4_000], n),
        output_tokens=rng.integers(1, 100, n),
    )
    assert isinstance(fit(trace).kinds[0].lengths.prompt, QuantileLength)


def test_bad_input() -> None:
    with pytest.raises(SpecError, match="no arrival times"):
        fit(load_workload("chat", num_in_flight=4))
    with pytest.raises(SpecError, match="no arrival times"):
        fit(load_workload("batch", num_requests=100))
    with pytest.raises(SpecError, match="too few"):
        fit(load_workload("chat", num_requests=10))
    with pytest.raises(SpecError, match="window_s"):
        fit(load_workload("chat"), window_s=0.0)
    good = io.plain(truth(1.0))
    for bad in (0.0, -1.0, float("nan")):
        data = good | {"windows": [{"rate_per_s": 1.0, "alpha": bad}]}
        with pytest.raises(SpecError, match="alpha"):
            io.from_data(BurstModel, data, where="m.yaml")
    with pytest.raises(SpecError, match="empty"):
        io.from_data(
            BurstModel, good | {"windows": [{"rate_per_s": 0.0, "alpha": 1.0}]}, where="m.yaml"
        )
    for options in ({"rate_per_s": 0.0}, {"duration_s": -1.0}, {"duration_s": 1e12}):
        with pytest.raises(SpecError):
            truth(1.0).sample(0, **options)
