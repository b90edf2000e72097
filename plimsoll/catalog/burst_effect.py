"""What bursts do to a service: same mean rate, same lengths, other gaps.

Four simulated A100 instances of OPT-66B on 4 devices each, with the published step times of
``cost/fits.py`` and vLLM's first scheduler, at 70 % of the rate they sustain. Gaps are Gamma with
a stated CV; lengths are the bundled ``chat`` statistics. Rates, seeds and sizes are the same for
every CV, so the gaps alone make the difference.
Left out: failures and retries, which bursts also cause.
"""

import functools
from dataclasses import dataclass

import numpy as np

from plimsoll.cost.fits import PublishedFit, published_fit
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import ROUTERS, DisaggPolicy
from plimsoll.spec.generators import (
    Arrivals,
    AtOnce,
    GammaArrivals,
    Recipe,
    generate,
)
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import bundled_recipe

__all__ = ["BurstEffect", "ROUTER_NAMES", "burst_effect", "effect_of", "sustained_rate_per_s"]

ROUTER_NAMES = ("round-robin", "least-work", "prefix-affine", "disaggregated")
_NUM_INSTANCES = 4
_LOAD = 0.7
_NUM_REQUESTS = 10_000
_BLOCK_TOKENS = 16
_NETWORK_BYTES_PER_S = 25e9


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstEffect:
    """What users saw in one run."""

    ttft_p50_s: float
    ttft_p99_s: float
    preemptions: int


@functools.cache
def _fit() -> PublishedFit:
    return published_fit("opt-66b", tp=4)


def _executor(router: str) -> SimulatedExecutor:
    fit = _fit()

    def instances(role: str, count: int) -> list[InstanceSpec]:
        spec = InstanceSpec(
            role=role,  # type: ignore[arg-type]
            clock=fit.clock,
            policy=PrefillFirstPolicy(),
            num_blocks=fit.max_kv_tokens // _BLOCK_TOKENS,
            block_tokens=_BLOCK_TOKENS,
        )
        return [spec] * count

    if router == "disaggregated":
        return SimulatedExecutor(
            [*instances("prefill", _NUM_INSTANCES // 2), *instances("decode", _NUM_INSTANCES // 2)],
            DisaggPolicy(),
            transfer_s=lambda _a, _b, k: fit.kv_bytes_per_token * k / _NETWORK_BYTES_PER_S,
        )
    return SimulatedExecutor(instances("both", _NUM_INSTANCES), ROUTERS[router]())


def _chat(arrivals: Arrivals, num_requests: int) -> Recipe:
    lengths = bundled_recipe("chat").lengths
    return Recipe(name="bursts", num_requests=num_requests, arrivals=arrivals, lengths=lengths)


@functools.cache
def sustained_rate_per_s() -> float:
    """Requests per second that end while the instances are full, over the middle half."""
    work = generate(_chat(AtOnce(), 4_000))
    ends_s = np.sort(_executor("least-work").run(work).requests.finished_s)
    quarter = len(ends_s) // 4
    return float(2 * quarter / (ends_s[3 * quarter] - ends_s[quarter]))


def effect_of(workload: Workload, router: str = "least-work") -> BurstEffect:
    """What users of this workload see on the four instances."""
    requests = _executor(router).run(workload).requests
    ttft_s = requests.ttft_s[requests.ok]
    return BurstEffect(
        ttft_p50_s=float(np.percentile(ttft_s, 50)),
        ttft_p99_s=float(np.percentile(ttft_s, 99)),
        preemptions=int(requests.preemptions.sum()),
    )


@functools.cache
def burst_effect(cv: float, seed: int, router: str = "least-work") -> BurstEffect:
    """Gamma gaps of that CV at 70 % load."""
    arrivals = GammaArrivals(rate_per_s=_LOAD * sustained_rate_per_s(), cv=cv)
    return effect_of(generate(_chat(arrivals, _NUM_REQUESTS), seed=seed), router)
