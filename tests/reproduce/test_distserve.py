"""The catalog entry of DistServe: its checks, and the pilot numbers they were sized by."""

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from plimsoll.catalog import distserve_setting as setting
from plimsoll.catalog.contract import Context
from plimsoll.catalog.distserve import SYSTEM
from plimsoll.catalog.distserve_setting import Case
from plimsoll.catalog.verdicts import run_system

DATA = Path(__file__).parents[2] / "../shared/data"
SMALL = Case(
    lengths=DATA / setting.AZURE, model="opt-13b", ttft_s=0.25, tpot_s=0.1, guess_per_s=1.5
)
LARGE = replace(SMALL, model="opt-66b", ttft_s=0.4, guess_per_s=0.3)
LOOSE = replace(LARGE, ttft_s=2.5, tpot_s=0.15)


def failures(rows):
    return [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"]


def test_quick_checks_pass():
    rows = list(run_system(SYSTEM, Context(data=DATA), quick=True))
    assert failures(rows) == []
    assert sum(r.verdict == "pass" for r in rows) >= 4


@pytest.mark.slow
def test_every_check_passes():
    rows = list(run_system(SYSTEM, Context(data=DATA), timed=False))
    assert failures(rows) == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pilot", "case"),
    [
        (1.66, replace(SMALL, prefill=(2, 1), decode=(2, 1))),
        (1.45, SMALL),
        (0.84, replace(SMALL, both=(1, 1))),
        (1.35, replace(SMALL, both=(2, 1))),
        (0.31, replace(LARGE, prefill=(4, 1), decode=(4, 1))),
        (0.54, replace(LOOSE, prefill=(2, 1), decode=(4, 1))),
        (0.31, replace(LOOSE, both=(4, 1))),
        (3.85, replace(SMALL, lengths=DATA / setting.SHAREGPT, both=(1, 1), guess_per_s=4)),
        (3.42, replace(SMALL, lengths=DATA / setting.SHAREGPT, guess_per_s=3)),
    ],
)
def test_goodput_is_near_the_pilot(pilot, case):
    rates = [setting.goodput_of(replace(case, seed=seed)) for seed in (0, 1, 2)]
    assert median(rates) == pytest.approx(pilot, rel=0.25)


def test_lengths_are_those_stated():
    """Azure conversation 2023, in + out <= 2048: 16,528 pairs, mean 754/233."""
    pairs = setting.traffic(SMALL.lengths, 0)
    assert len(pairs) == pytest.approx(16_522, abs=10)
    assert pairs.prompt_tokens.mean() == pytest.approx(754, abs=1)
    assert pairs.output_tokens.mean() == pytest.approx(233, abs=1)
    assert (pairs.prompt_tokens + pairs.output_tokens).max() <= 2048


def test_rival_misses_its_limit_alone_for_nearly_a_tenth_of_prompts():
    """Why colocated TP4 carries next to nothing at 400 ms, with any scheduler."""
    from plimsoll.cost.fits import published_fit

    prompts = setting.traffic(SMALL.lengths, 0).prompt_tokens
    clock = published_fit(
        "opt-66b", tp=4, engine="vllm", overhead_s=2e-3, overhead_token_s=1e-7
    ).clock
    late = sum(clock.step_s([(int(p), 0)], 0, 0) > 0.4 for p in prompts) / len(prompts)
    assert 0.08 < late < 0.10
