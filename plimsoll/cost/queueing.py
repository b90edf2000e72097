"""Mean waits of single-station queues, and the first-token times they imply.

Poisson arrivals; the wait is the time before service starts, in steady state. One server
with service time S: W = rate E[S^2] / (2 (1 - rho)) (Pollaczek-Khinchine); several servers
with exponential service: Erlang C. Leaves out: bounded queues, priorities, batching, and
everything before the steady state.
Sources: doi:10.1007/BF01194620 (M/G/1); Queueing Systems, volume 1 (1975), sections 3.5 and
5.6; arXiv 2401.09670 section 3 for the three first-token forms.
"""

import math

from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "md1_wait_s",
    "mg1_wait_s",
    "mm1_wait_s",
    "mmc_wait_s",
    "pipeline_ttft_s",
    "single_ttft_s",
    "tensor_ttft_s",
    "utilization",
]


def utilization(rate_per_s: float, service_s: float, *, num_servers: int = 1) -> float:
    """Share of time a server is busy, rate x service / servers; below 1, or no answer exists.

    Raises:
        SpecError: a rate, time or count that is negative, zero where it must not be, or NaN.
        InfeasibleError: the load is 1 or more, so that the queue grows without end.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s >= 0):
        raise SpecError(f"rate_per_s is {rate_per_s}; expected a finite rate, zero or more")
    if not (math.isfinite(service_s) and service_s > 0):
        raise SpecError(f"service_s is {service_s}; expected a finite time above zero")
    if num_servers < 1:
        raise SpecError(f"num_servers is {num_servers}; expected 1 or more")
    rho = rate_per_s * service_s / num_servers
    if rho >= 1:
        most = num_servers / service_s
        raise InfeasibleError(
            f"{rate_per_s:g} requests/s of {service_s:g} s each load {num_servers} server(s) to "
            f"{rho:.3g}; the queue grows without end from {most:.4g} requests/s on",
            binding="service rate",
            nearest=f"any rate below {most:.4g} requests/s",
            change=f"{math.floor(rate_per_s * service_s) + 1} server(s) of this speed",
        )
    return rho


def mg1_wait_s(rate_per_s: float, service_s: float, *, service_cv: float) -> float:
    """Mean wait of M/G/1; ``service_cv`` is the standard deviation of service over its mean."""
    rho = utilization(rate_per_s, service_s)
    if not (math.isfinite(service_cv) and service_cv >= 0):
        raise SpecError(f"service_cv is {service_cv}; expected a finite number, zero or more")
    return rho * service_s * (1 + service_cv**2) / (2 * (1 - rho))


def md1_wait_s(rate_per_s: float, service_s: float) -> float:
    """Mean wait with constant service time: half of the exponential one."""
    return mg1_wait_s(rate_per_s, service_s, service_cv=0.0)


def mm1_wait_s(rate_per_s: float, service_s: float) -> float:
    """Mean wait with exponential service times."""
    return mg1_wait_s(rate_per_s, service_s, service_cv=1.0)


def mmc_wait_s(rate_per_s: float, service_s: float, *, num_servers: int) -> float:
    """Mean wait before any of ``num_servers`` equal servers, exponential service (Erlang C)."""
    rho = utilization(rate_per_s, service_s, num_servers=num_servers)
    load = rho * num_servers
    blocked = 1.0  # Erlang B, by its recursion: stable where factorials overflow
    for servers in range(1, num_servers + 1):
        blocked = load * blocked / (servers + load * blocked)
    waits = blocked / (1 - rho * (1 - blocked))
    return waits * service_s / (num_servers * (1 - rho))


def single_ttft_s(rate_per_s: float, service_s: float) -> float:
    """Mean first-token time of one device: D + R D^2 / (2 (1 - R D))."""
    return service_s + md1_wait_s(rate_per_s, service_s)


def pipeline_ttft_s(rate_per_s: float, service_s: float, *, num_stages: int = 2) -> float:
    """Mean first-token time through equal pipeline stages.

    ``service_s`` is the time through all stages. Constant service queues only before the
    first stage: D + R D^2 / (4 (2 - R D)) for two stages.
    """
    if num_stages < 1:
        raise SpecError(f"num_stages is {num_stages}; expected 1 or more")
    return service_s + md1_wait_s(rate_per_s, service_s / num_stages)


def tensor_ttft_s(rate_per_s: float, service_s: float, *, speedup: float) -> float:
    """Mean first-token time when tensor parallelism divides service by ``speedup``.

    D/K + R D^2 / (2 K (K - R D)); ``service_s`` is the time on one device.
    """
    if not (math.isfinite(speedup) and speedup > 0):
        raise SpecError(f"speedup is {speedup}; expected a finite number above zero")
    return single_ttft_s(rate_per_s, service_s / speedup)
