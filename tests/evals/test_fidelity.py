"""The comparison of simulator and engine: its traffic, its figures, one setting of it."""

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.evals.fidelity import (
    FIGURES,
    LOADS,
    MODELS,
    POLICIES,
    Cell,
    Figures,
    error_summary,
    figures_of,
    plan_of,
    saturated_rate,
    simulated_run,
    traffic,
)
from plimsoll.evals.fidelity_run import compare_all
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy

CLOCK = LinearClock(step_base_s=2e-3, token_s=2e-5)


def specs() -> list[InstanceSpec]:
    policy = ChunkedPrefillPolicy(token_budget=256)
    return [InstanceSpec(clock=CLOCK, policy=policy, num_blocks=2000, max_num_seqs=16)]


def test_eighteen_settings() -> None:
    assert len(MODELS) * len(LOADS) * len(POLICIES) == 18
    kinds = {plan_of(name, policy).pools[0].policy.kind for name in MODELS for policy in POLICIES}
    assert kinds == {"chunked-prefill", "prefill-first"}


def test_traffic_is_drawn_within_bounds() -> None:
    drawn = traffic(500, rate=5.0, seed=1)
    assert drawn.arrival_s[0] == 0
    assert 499 / drawn.arrival_s[-1] == pytest.approx(5.0, rel=0.2)
    assert drawn.prompt_tokens.min() >= 16 and drawn.prompt_tokens.max() <= 480
    assert drawn.output_tokens.min() >= 4 and drawn.output_tokens.max() <= 128
    assert (traffic(500, rate=5.0, seed=1).prompt_tokens == drawn.prompt_tokens).all()
    assert traffic(9, rate=0.0, seed=1).num_in_flight == 16


def test_the_saturated_rate_is_what_a_full_engine_serves() -> None:
    most = saturated_rate(specs(), LeastWorkPolicy())
    over = traffic(400, rate=3 * most, seed=0)
    served = simulated_run(specs(), LeastWorkPolicy(), over, request_s=0.0)
    assert 400 / np.max(served.requests.finished_s) == pytest.approx(most, rel=0.15)


def test_figures_are_those_of_the_record() -> None:
    record = simulated_run(
        specs(), LeastWorkPolicy(), traffic(60, rate=4.0, seed=0), request_s=0.01
    )
    found, requests = figures_of(record, skip=10), record.requests
    assert found.ttft_p50_s == pytest.approx(np.median(requests.ttft_s[10:]))
    assert requests.ttft_s.min() > 0.01
    span = requests.finished_s[10:].max() - requests.arrival_s[10:].min()
    assert found.tokens_per_s == pytest.approx(requests.output_tokens[10:].sum() / span)


def test_errors_are_simulated_over_real() -> None:
    def cell(factor: float) -> Cell:
        real = Figures(**dict.fromkeys(FIGURES, 2.0))
        simulated = Figures(**dict.fromkeys(FIGURES, 2.0 * factor))
        return Cell(
            model="m", load="full", policy="p", num_requests=1, real_s=1.0, real=real,
            simulated=simulated,
        )  # fmt: skip

    cells = [cell(f) for f in (0.8, 1.1, 1.05)]
    assert cells[0].error("tpot_p50_s") == pytest.approx(-0.2)
    assert error_summary(cells, "ttft_p99_s") == pytest.approx((0.1, 0.2))


def test_one_setting_served_and_simulated() -> None:
    """Every request is served for real, with the lengths of the workload; both clocks are told."""
    found = list(
        compare_all(
            lambda model: CLOCK,
            request_s=0.0,
            run_s=1.0,
            models=("llama-10m",),
            loads=LOADS[2:],
            policies=POLICIES[:1],
            others=(lambda model: LinearClock(step_base_s=10.0),),
        )
    )
    ((ours, slow),) = found
    assert ours.real == slow.real
    assert ours.num_requests >= 60
    assert ours.real.tokens_per_s > 10
    assert slow.error("tpot_p50_s") > 5 > abs(ours.error("tpot_p50_s"))
