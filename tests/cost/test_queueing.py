"""Queue waits: closed forms against a simulated queue, each other and the published forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.queueing import (
    md1_wait_s,
    mg1_wait_s,
    mm1_wait_s,
    mmc_wait_s,
    pipeline_ttft_s,
    single_ttft_s,
    tensor_ttft_s,
    utilization,
)
from plimsoll.spec.errors import InfeasibleError, SpecError

loads = st.floats(0.01, 0.99)
times = st.floats(1e-4, 1e3)


def lindley_wait_s(gaps_s: np.ndarray, service_s: np.ndarray) -> float:
    """Mean wait of a single server by Lindley's recursion in its reflected-walk form."""
    walk = np.concatenate([[0.0], np.cumsum(service_s[:-1] - gaps_s[1:])])
    return float(np.mean(walk - np.minimum.accumulate(walk)))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("kind", ["constant", "exponential", "lognormal"])
def test_single_server_matches_a_simulated_queue(rho: float, kind: str) -> None:
    rng = np.random.default_rng(7)
    n, mean_s = 2_000_000, 0.25
    gaps = rng.exponential(mean_s / rho, n)
    sigma = 0.8
    cv = {"constant": 0.0, "exponential": 1.0, "lognormal": float(np.sqrt(np.exp(sigma**2) - 1))}
    service = {
        "constant": lambda: np.full(n, mean_s),
        "exponential": lambda: rng.exponential(mean_s, n),
        "lognormal": lambda: rng.lognormal(np.log(mean_s) - sigma**2 / 2, sigma, n),
    }[kind]()
    expected = mg1_wait_s(rho / mean_s, mean_s, service_cv=cv[kind])
    assert lindley_wait_s(gaps, service) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("num_servers", [2, 5])
def test_many_servers_match_a_simulated_queue(num_servers: int) -> None:
    rng = np.random.default_rng(3)
    n, mean_s, rho = 200_000, 1.0, 0.7
    arrivals = np.cumsum(rng.exponential(mean_s / (rho * num_servers), n))
    service = rng.exponential(mean_s, n)
    free_at = [0.0] * num_servers
    waited = 0.0
    for at, s in zip(arrivals.tolist(), service.tolist(), strict=True):
        first = min(range(num_servers), key=free_at.__getitem__)
        start = max(at, free_at[first])
        waited += start - at
        free_at[first] = start + s
    expected = mmc_wait_s(rho * num_servers / mean_s, mean_s, num_servers=num_servers)
    assert waited / n == pytest.approx(expected, rel=0.05)


@given(rho=loads, service_s=times)
@settings(deadline=None)
def test_the_forms_agree_where_they_must(rho: float, service_s: float) -> None:
    rate = rho / service_s
    if rate * service_s >= 1:
        return
    assert mm1_wait_s(rate, service_s) == pytest.approx(2 * md1_wait_s(rate, service_s))
    assert mmc_wait_s(rate, service_s, num_servers=1) == pytest.approx(mm1_wait_s(rate, service_s))
    assert pipeline_ttft_s(rate, service_s, num_stages=1) == single_ttft_s(rate, service_s)
    assert tensor_ttft_s(rate, service_s, speedup=1) == single_ttft_s(rate, service_s)


@given(rho=loads, service_s=times, speedup=st.floats(1.0, 2.0))
@settings(deadline=None)
def test_published_first_token_forms(rho: float, service_s: float, speedup: float) -> None:
    """arXiv 2401.09670, section 3: the three printed formulas."""
    r, d, k = rho / service_s, service_s, speedup
    if r * d >= 1:
        return
    assert single_ttft_s(r, d) == pytest.approx(d + r * d**2 / (2 * (1 - r * d)))
    assert pipeline_ttft_s(r, d) == pytest.approx(d + r * d**2 / (4 * (2 - r * d)))
    assert tensor_ttft_s(r, d, speedup=k) == pytest.approx(d / k + r * d**2 / (2 * k * (k - r * d)))


def test_tensor_wins_at_low_rate_and_pipeline_at_high() -> None:
    """The same section's conclusion, for an imperfect speed-up of 1.5 on two devices."""
    service_s = 1.0
    assert tensor_ttft_s(0.1, service_s, speedup=1.5) < pipeline_ttft_s(0.1, service_s)
    assert pipeline_ttft_s(1.45, service_s) < tensor_ttft_s(1.45, service_s, speedup=1.5)


@given(rho=st.floats(0.02, 0.9), service_s=times)
@settings(deadline=None)
def test_waits_grow_with_load(rho: float, service_s: float) -> None:
    lower, higher = 0.5 * rho / service_s, rho / service_s
    assert md1_wait_s(lower, service_s) < md1_wait_s(higher, service_s)
    assert mmc_wait_s(2 * lower, service_s, num_servers=2) < mmc_wait_s(
        2 * higher, service_s, num_servers=2
    )


def test_full_load_is_refused_with_what_would_carry_it() -> None:
    with pytest.raises(InfeasibleError, match="grows without end") as caught:
        md1_wait_s(4.0, 0.25)
    assert caught.value.change == "2 server(s) of this speed"
    with pytest.raises(InfeasibleError):
        mmc_wait_s(8.0, 0.5, num_servers=4)
    assert utilization(8.0, 0.5, num_servers=5) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("rate", "service"), [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, float("inf"))]
)
def test_absurd_input_is_named(rate: float, service: float) -> None:
    with pytest.raises(SpecError, match="rate_per_s|service_s"):
        md1_wait_s(rate, service)
