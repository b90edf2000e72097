"""The catalog entry of Llumnix: its checks, and that its setting is the stated one."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.catalog import llumnix_setting as setting
from plimsoll.catalog.contract import Context, Report
from plimsoll.catalog.llumnix import SYSTEM
from plimsoll.catalog.verdicts import run_system


@pytest.mark.slow
def test_every_judged_check_passes():
    judged = tuple(check for check in SYSTEM.checks if not isinstance(check.band, Report))
    rows = list(run_system(replace(SYSTEM, checks=judged), Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) >= 15


def test_setting_is_the_stated_one():
    lengths = setting.lengths_of("L", 20_000, np.random.default_rng(0))
    assert lengths.mean() == pytest.approx(512, rel=0.03)
    found = np.quantile(lengths, (0.5, 0.8, 0.95, 0.99))
    assert found == pytest.approx(setting.LENGTHS["L"], rel=0.02)
    assert setting.NUM_BLOCKS * setting.BLOCK_TOKENS == 13_616
    clock = setting.CLOCK
    assert clock.step_s((), 1, 1000) == pytest.approx(23.5e-3 + 0.87e-3 + 20e-6)
    assert clock.step_s(((1000, 0),), 0, 0) == pytest.approx(22.5e-3 + 0.216)


@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_arrivals_have_the_rate_and_the_bursts(cv: float) -> None:
    gaps = np.diff(setting.traffic("M", 8.0, 0, num=40_000, cv=cv).arrival_s)
    assert 1 / gaps.mean() == pytest.approx(8.0, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_scaled_alike_the_side_with_moves_takes_fewer_instance_hours():
    """On a part of the catalog's traffic: fewer hours, and a better tail."""
    from plimsoll.serving.routers import AutoscaledPolicy

    load = setting.traffic("L", 1.0, 0, num=1500, cv=4.0)
    found = {}
    for name in ("freeness", "least-demand"):
        router = AutoscaledPolicy(setting_router(name), low_steps=300, high_steps=1200)
        run = setting.serve(load, router, start_s=20.0)
        assert run.requests.ok.all()
        hours = sum(stop - start for _, start, stop in run.meta["up_spans"]) / 3600
        found[name] = hours, np.quantile(run.requests.ttft_s, 0.99)
    assert found["freeness"][0] < 0.9 * found["least-demand"][0]
    assert found["freeness"][1] < found["least-demand"][1]


def test_a_light_load_needs_no_moves():
    """Where nothing is short the two dispatchers give the same service."""
    load = setting.traffic("S", 4.0, 0, num=400)
    ours, theirs = (
        setting.figures([setting.serve(load, router)])
        for router in (setting_router("freeness"), setting_router("least-demand"))
    )
    assert ours.loss_s == theirs.loss_s == 0
    assert ours.ttft_p99_s == pytest.approx(theirs.ttft_p99_s, rel=0.25)


def setting_router(name):
    from plimsoll.serving.routers import ROUTERS

    return ROUTERS[name]()
