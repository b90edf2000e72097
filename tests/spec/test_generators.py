"""Generators: each process has its law, streams are independent, sessions chain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec import io
from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators import (
    Arrivals,
    AtOnce,
    ClosedLoop,
    ConstantArrivals,
    ConstantLength,
    Conversations,
    DiurnalArrivals,
    GammaArrivals,
    GapQuantiles,
    Length,
    Lengths,
    LognormalLength,
    MixtureLength,
    OnOffArrivals,
    PoissonArrivals,
    QuantileLength,
    Recipe,
    SpikeArrivals,
    UniformLength,
    WindowArrivals,
    ZipfLength,
    draw_lengths,
    generate,
)
from plimsoll.spec.statistics import rank_correlation, reuse_in

N = 40_000
FIXED = Lengths(prompt=ConstantLength(tokens=100), output=ConstantLength(tokens=10))
PROCESSES: list[tuple[Arrivals, float]] = [
    (PoissonArrivals(rate_per_s=4.0), 4.0),
    (GammaArrivals(rate_per_s=2.0, cv=2.0), 2.0),
    (ConstantArrivals(rate_per_s=5.0), 5.0),
    (OnOffArrivals(on_rate_per_s=20.0, mean_on_s=3.0, mean_off_s=9.0), 5.0),
    (SpikeArrivals(rate_per_s=2.0, factor=6.0, period_s=100.0, spike_s=10.0), 3.0),
    (DiurnalArrivals(rate_per_s=3.0, amplitude=0.8, period_s=500.0, peak_at_s=100.0), 3.0),
    (WindowArrivals(window_s=50.0, rates_per_s=(1.0, 0.0, 8.0), cv=1.5), 3.0),
    (GapQuantiles(levels=(0.0, 0.9, 1.0), gaps_s=(0.0, 0.1, 3.0)), 5.0),
]


def recipe(arrivals: Arrivals, **changes: object) -> Recipe:
    fields = {"name": "t", "num_requests": N, "arrivals": arrivals, "lengths": FIXED} | changes
    return Recipe(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("arrivals", "rate"), PROCESSES, ids=lambda p: getattr(p, "kind", ""))
def test_every_process_keeps_its_mean_rate(arrivals: Arrivals, rate: float) -> None:
    assert arrivals.mean_rate_per_s == pytest.approx(rate, rel=1e-3)
    workload = generate(recipe(arrivals), seed=3)
    assert len(workload) == N
    rates = [generate(recipe(arrivals), seed=seed).rate_per_s for seed in range(6)]
    assert np.mean(rates) == pytest.approx(rate, rel=0.05)
    fast = generate(recipe(arrivals), seed=3, rate_per_s=10 * rate)
    shape = workload.arrival_s / workload.arrival_s[-1]
    assert np.allclose(fast.arrival_s / fast.arrival_s[-1], shape), "scaling keeps the shape"


@pytest.mark.parametrize("cv", [0.25, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_stated_cv(cv: float) -> None:
    gaps = np.diff(generate(recipe(GammaArrivals(rate_per_s=1.0, cv=cv)), seed=1).arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.08)


def test_poisson_counts_have_variance_equal_to_mean() -> None:
    workload = generate(recipe(PoissonArrivals(rate_per_s=10.0)), seed=5)
    counts = np.bincount(workload.arrival_s.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.08)


def test_on_off_silence_and_spikes_and_days() -> None:
    bursts = generate(recipe(PROCESSES[3][0]), seed=2)
    gaps = np.diff(bursts.arrival_s)
    # A burst ends once every 60 requests; its pause is exponential with mean 9 s.
    assert np.sum(gaps > 1.0) == pytest.approx(N / 60 * np.exp(-1 / 9), rel=0.15)
    spikes = generate(recipe(PROCESSES[4][0]), seed=2)
    inside = np.mean(spikes.arrival_s % 100.0 >= 90.0)
    assert inside == pytest.approx(10 * 12 / (10 * 12 + 90 * 2), rel=0.05)
    day = generate(recipe(PROCESSES[5][0]), seed=2)
    phase = np.exp(2j * np.pi * (day.arrival_s - 100.0) / 500.0).mean()
    assert phase.real == pytest.approx(0.4, abs=0.02) and abs(phase.imag) < 0.02


def test_windows_have_their_rates_and_ticks() -> None:
    arrivals = WindowArrivals(window_s=50.0, rates_per_s=(1.0, 0.0, 8.0), tick_s=5.0)
    workload = generate(recipe(arrivals), seed=2)
    window = (workload.arrival_s % 150.0) // 50.0
    assert not np.any(window == 1)
    assert np.mean(window == 2) == pytest.approx(8 / 9, rel=0.02)
    assert np.all(workload.arrival_s % 5.0 == 0)


@pytest.mark.parametrize("arrivals", [p for p, _ in PROCESSES], ids=lambda p: p.kind)
def test_duration_cuts_where_it_says(arrivals: Arrivals) -> None:
    workload = generate(recipe(arrivals), seed=3, duration_s=200.0)
    assert workload.duration_s < 200.0
    assert len(workload) == pytest.approx(200 * arrivals.mean_rate_per_s, rel=0.6)
    longer = generate(recipe(arrivals), seed=3, duration_s=2_000.0)
    assert 1_800 < longer.duration_s < 2_000


def test_closed_loop_and_offline() -> None:
    closed = generate(recipe(ClosedLoop(num_in_flight=64, think_s=2.0)))
    assert closed.num_in_flight == 64 and np.all(closed.think_s == 2.0)
    offline = generate(recipe(AtOnce()))
    assert offline.duration_s == 0 and offline.num_in_flight == 0
    forced = generate(recipe(PoissonArrivals(rate_per_s=1.0)), num_in_flight=8)
    assert forced.num_in_flight == 8 and forced.duration_s == 0
    with pytest.raises(SpecError, match="no rate and no duration"):
        generate(recipe(AtOnce()), rate_per_s=1.0)


DISTRIBUTIONS: list[tuple[Length, float, float]] = [
    (ConstantLength(tokens=7), 7, 7),
    (UniformLength(low=80, high=100), 90, 90),
    (LognormalLength(median=200, sigma=0.5), 200 * np.exp(0.125), 200),
    (QuantileLength(levels=(0.0, 0.5, 1.0), tokens=(10.0, 20.0, 100.0)), 37.5, 20),
]


@pytest.mark.parametrize(("length", "mean", "median"), DISTRIBUTIONS)
@pytest.mark.parametrize("stratified", [False, True])
def test_lengths_have_their_mean_and_median(
    length: Length, mean: float, median: float, stratified: bool
) -> None:
    lengths = Lengths(prompt=length, output=length, stratified=stratified)
    for drawn in draw_lengths(lengths, N, seed=1):
        assert drawn.mean() == pytest.approx(mean, rel=0.02)
        assert np.median(drawn) == pytest.approx(median, rel=0.03)


def test_zipf_is_truncated_without_a_spike_at_the_limit() -> None:
    zipf = ZipfLength(exponent=1.1, high=1_000)
    drawn, _ = draw_lengths(Lengths(prompt=zipf, output=zipf), 200_000, seed=1)
    expected = np.arange(1, 1_001, dtype=float) ** -1.1
    expected /= expected.sum()
    counts = np.bincount(drawn, minlength=1_001)[1:] / len(drawn)
    assert counts[0] == pytest.approx(expected[0], rel=0.03)
    assert counts[900:].sum() == pytest.approx(expected[900:].sum(), rel=0.05)
    assert counts[-1] < 3 * expected[-1]


def test_mixture_and_limits() -> None:
    parts = (
        LognormalLength(median=20, sigma=0.3, high=2_000),
        LognormalLength(median=600, sigma=0.3, high=2_000),
    )
    mixture = MixtureLength(weights=(1.0, 3.0), parts=parts)
    drawn, _ = draw_lengths(Lengths(prompt=mixture, output=mixture), N, seed=1)
    assert np.mean(drawn < 110) == pytest.approx(0.25, abs=0.01)
    assert np.median(drawn[drawn < 110]) == pytest.approx(20, rel=0.05)
    assert np.median(drawn[drawn > 110]) == pytest.approx(600, rel=0.03)
    limited = LognormalLength(median=200, sigma=1.0, low=50, high=400)
    drawn, _ = draw_lengths(Lengths(prompt=limited, output=limited), N, seed=1)
    assert drawn.min() >= 50 and drawn.max() <= 400
    assert np.mean(drawn == 400) < 0.01, "no pile at the limit"


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize("stratified", [False, True])
def test_rank_correlation_is_the_stated_one(rho: float, stratified: bool) -> None:
    lengths = Lengths(
        prompt=LognormalLength(median=1e4, sigma=1.0),
        output=UniformLength(low=1, high=100_000),
        rank_correlation=rho,
        stratified=stratified,
    )
    prompt, output = draw_lengths(lengths, N, seed=4)
    assert rank_correlation(prompt, output) == pytest.approx(rho, abs=0.02)


def test_streams_do_not_touch_each_other() -> None:
    base = recipe(PoissonArrivals(rate_per_s=1.0))
    other = recipe(
        PoissonArrivals(rate_per_s=1.0),
        lengths=Lengths(prompt=UniformLength(low=1, high=9), output=UniformLength(low=1, high=9)),
    )
    assert np.array_equal(generate(base, seed=9).arrival_s, generate(other, seed=9).arrival_s)
    third = recipe(GammaArrivals(rate_per_s=5.0, cv=3.0), lengths=other.lengths)
    assert np.array_equal(
        generate(third, seed=9).prompt_tokens, generate(other, seed=9).prompt_tokens
    )
    assert not np.array_equal(generate(base, seed=8).arrival_s, generate(base, seed=9).arrival_s)


TALK = Conversations(
    mean_turns=4.0,
    think_median_s=20.0,
    system_prompt_tokens=100,
    block_tokens=16,
    max_context_tokens=4_000,
)
TALK_LENGTHS = Lengths(
    prompt=LognormalLength(median=80, sigma=0.8), output=LognormalLength(median=150, sigma=0.6)
)


@pytest.fixture(scope="module")
def talk() -> object:
    made = recipe(PoissonArrivals(rate_per_s=2.0), lengths=TALK_LENGTHS, sharing=TALK)
    return generate(made, seed=6, num_requests=5_000)


def test_a_turn_carries_everything_before_it(talk: object) -> None:
    workload = talk
    assert workload.sessions_wait and len(workload) == 5_000  # type: ignore[attr-defined]
    last: dict[int, int] = {}
    continued = 0
    for i, session in enumerate(workload.session_id.tolist()):  # type: ignore[attr-defined]
        own = _keys(workload, i)
        assert len(own) == workload.prompt_tokens[i] // 16  # type: ignore[attr-defined]
        assert own[:6].tolist() == list(range(6)), "the system prompt is common"
        assert workload.prompt_tokens[i] + workload.output_tokens[i] <= 4_000  # type: ignore[attr-defined]
        if session in last:
            p = last[session]
            continued += 1
            grown = workload.prompt_tokens[p] + workload.output_tokens[p]  # type: ignore[attr-defined]
            assert workload.prompt_tokens[i] > grown  # type: ignore[attr-defined]
            before = _keys(workload, p)
            assert np.array_equal(own[: len(before)], before)
            assert workload.think_s[i] > 0  # type: ignore[attr-defined]
        else:
            assert workload.think_s[i] == 0  # type: ignore[attr-defined]
        last[session] = i
    assert continued > 2_500


def test_different_sessions_share_the_system_prompt_only(talk: object) -> None:
    owner: dict[int, int] = {}
    for i, session in enumerate(talk.session_id.tolist()):  # type: ignore[attr-defined]
        for key in _keys(talk, i)[6:].tolist():
            assert owner.setdefault(key, session) == session
    assert reuse_in(talk).common_blocks == 6  # type: ignore[arg-type]


def _keys(workload: object, i: int) -> np.ndarray:  # type: ignore[type-arg]
    starts = workload.prefix_start  # type: ignore[attr-defined]
    return workload.prefix_keys[starts[i] : starts[i + 1]]  # type: ignore[attr-defined,no-any-return]


def test_mean_turns() -> None:
    assert TALK.turns(50_000, 0).mean() == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_requests": -1}, "num_requests"),
        ({"num_requests": 10**9}, "at most"),
        ({"rate_per_s": 0.0}, "above zero"),
        ({"rate_per_s": float("nan")}, "above zero"),
        ({"duration_s": -5.0}, "above zero"),
        ({"duration_s": 1e12}, "at most"),
        ({"duration_s": 5.0, "num_requests": 5}, "not both"),
        ({"num_in_flight": 4, "rate_per_s": 5.0}, "no rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_absurd_sizes_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        generate(recipe(PoissonArrivals(rate_per_s=1.0)), **options)  # type: ignore[arg-type]


GOOD = io.plain(recipe(PoissonArrivals(rate_per_s=1.0)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arrivals", "rate_per_s"), -1.0),
        (("arrivals", "rate_per_s"), float("nan")),
        (("arrivals", "kind"), "poison"),
        (("arrivals",), {"kind": "gap-quantiles", "levels": [0, 0.5], "gaps_s": [1, 2]}),
        (("arrivals",), {"kind": "windows", "window_s": 5, "rates_per_s": [0, 0]}),
        (("lengths", "prompt"), {"kind": "uniform", "low": 9, "high": 3}),
        (("lengths", "prompt"), {"kind": "quantiles", "levels": [0, 1], "tokens": [9, 3]}),
        (("lengths", "rank_correlation"), 2.0),
        (("num_requests",), 0),
        (("speed",), 3),
    ],
)
def test_bad_recipes_name_the_field(path: tuple[str, ...], value: object) -> None:
    data = io.plain(recipe(PoissonArrivals(rate_per_s=1.0)))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(SpecError):
        io.from_data(Recipe, data, where="r.yaml")


@settings(max_examples=40, deadline=None)
@given(
    process=st.sampled_from([p for p, _ in PROCESSES]),
    n=st.integers(1, 300),
    seed=st.integers(0, 2**40),
)
def test_same_seed_same_bytes_and_legal_columns(process: Arrivals, n: int, seed: int) -> None:
    made = recipe(process, lengths=TALK_LENGTHS, sharing=TALK)
    first, second = (generate(made, seed=seed, num_requests=n) for _ in range(2))
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "session_id", "prefix_keys"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert len(first) == n and first.prefix_start[-1] == len(first.prefix_keys)
