"""The catalog entry of FastGen: its checks, and the pilot numbers they were sized by."""

from dataclasses import replace

import pytest

from plimsoll.catalog import fastgen_setting as setting
from plimsoll.catalog.contract import Context
from plimsoll.catalog.fastgen import SYSTEM
from plimsoll.catalog.fastgen_setting import Case
from plimsoll.catalog.verdicts import run_system

SHORT = Case(policy="splitfuse", prompt=2600, output=60)


def test_every_quick_check_passes():
    rows = list(run_system(SYSTEM, Context(), quick=True, timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 16


@pytest.mark.slow
def test_every_check_passes():
    """Those on the real engine too."""
    rows = list(run_system(SYSTEM, Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) >= 16


def test_absolute_rates_need_the_labelled_parameters():
    """Printed: 1.42 and 0.63 requests/s (DeepSpeed blogs/deepspeed-fastgen)."""
    ours, _ = setting.best_rate(replace(SHORT, flop_efficiency=0.5), 4)
    rival = replace(SHORT, policy="prefill-first")
    slower, _ = setting.best_rate(replace(rival, prefill_speed=0.55), 4)
    assert ours == pytest.approx(1.42, rel=0.2)
    assert slower == pytest.approx(0.63, rel=0.2)
    equal, _ = setting.best_rate(rival, 4)
    assert equal != pytest.approx(0.63, rel=0.2)


def test_setting_is_the_stated_one():
    clock = setting.clock()
    assert clock.token_s == pytest.approx(0.204e-3, rel=1e-3)
    assert clock.weight_s == pytest.approx(140e9 / 4 / (0.8 * 2e12))
    lengths = setting.traffic(prompt=2600, output=60, clients=4, seed=1, requests=20_000)
    assert lengths.prompt_tokens.mean() == pytest.approx(2600, rel=0.01)
    assert lengths.prompt_tokens.std() == pytest.approx(780, rel=0.02)


def test_first_tokens_at_32_clients_are_late_by_littles_law():
    """Clients over rate is the time in the system; what decoding leaves is above the limit."""
    record = setting.serve(replace(SHORT, clients=32))
    rate = setting.raw_rate(record)
    spent_s = record.requests.e2e_s.mean()
    assert spent_s * rate == pytest.approx(32, rel=0.05)
    waited_s = record.requests.ttft_s.mean()
    assert waited_s > 1.3 * 2600 / 512
