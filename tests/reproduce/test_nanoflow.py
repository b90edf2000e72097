"""The catalog entry of NanoFlow: its checks, and the traps around them."""

from pathlib import Path

import pytest

from plimsoll.catalog.contract import Context, Report
from plimsoll.catalog.nanoflow import SYSTEM, hand_made, searched
from plimsoll.catalog.nanoflow_setting import (
    BATCH_TOKENS,
    CURVES,
    DEVICES,
    MEASURED_MS,
    Network,
    dependencies,
    operators,
)
from plimsoll.catalog.verdicts import run_system
from plimsoll.cost.overlap_plan import check_pieces, hand_made_plan, in_turn_s, sequential_s

NETWORKS: tuple[Network, ...] = ("gathers", "reduces")
DATA = Path(__file__).resolve().parents[2] / "../shared/data"


def test_quick_checks_pass() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 12


@pytest.mark.slow
def test_every_check_passes() -> None:
    data = DATA if DATA.is_dir() else None
    rows = list(run_system(SYSTEM, Context(data=data), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    left = {r.detail for r in rows if r.verdict == "not run"}
    if data is None:
        left = {detail for detail in left if "measured data file" not in detail}
    assert left == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) >= 30
    free = next(r.ours for r in rows if r.what == "overlap and cutting both taken as free")
    assert free is not None and free > 1.5


def test_every_simulated_claim_that_is_judged_has_an_ablation() -> None:
    for check in SYSTEM.checks:
        if check.how == "simulated" and not isinstance(check.band, Report):
            assert check.ablation is not None, check.title


def test_the_whole_table_is_shown_as_not_reproduced() -> None:
    assert SYSTEM.not_reproduced == {"best-rival": "needs the rival's kernels"}
    assert SYSTEM.waiting == ()


@pytest.mark.parametrize("network", NETWORKS)
def test_operators_add_up_to_the_measured_rows(network: Network) -> None:
    whole_s = sequential_s(operators(network), layers=80)
    assert whole_s * 1e3 == pytest.approx(sum(MEASURED_MS.values()))
    assert BATCH_TOKENS / whole_s / DEVICES == pytest.approx(1137, rel=1e-3)


def test_the_plan_is_sound_and_below_the_fractional_bound() -> None:
    """No plan can beat every kernel running at its cheapest share, about 1,460 tokens/s/GPU."""
    network, plan = searched()
    table = operators(network)
    check_pieces(plan.pieces, table)
    assert all(piece.first_token % 128 == 0 for piece in plan.pieces)
    bound_s = 80 * sum(op.best_s * CURVES[op.lane].cheapest() for op in table)
    assert BATCH_TOKENS / bound_s / DEVICES == pytest.approx(1460, rel=2e-3)
    assert plan.iteration_s > bound_s
    assert plan.warnings == ()


@pytest.mark.parametrize("network", NETWORKS)
def test_plans_by_hand_lose(network: Network) -> None:
    """Two halves, and the cuts of the printed pipeline, in the order of the layer."""
    _, plan = searched()
    assert hand_made(network).iteration_s > plan.iteration_s
    table = operators(network)
    four = ("kqv", "decode attention")
    printed = hand_made_plan(
        table,
        dependencies(network),
        CURVES,
        cuts={op.name: (256, 640, 1408) if op.name in four else (640,) for op in table},
        shares={
            op.name: 0.4 if op.lane == "memory" else 0.2 for op in table if op.lane != "compute"
        },
        batch_tokens=BATCH_TOKENS,
        layers=80,
    )
    assert plan.iteration_s < printed.iteration_s


@pytest.mark.parametrize("network", NETWORKS)
def test_cutting_costs_only_if_the_second_read_is_priced(network: Network) -> None:
    pieces = hand_made(network).pieces
    whole_s = sequential_s(operators(network), layers=80)
    assert in_turn_s(pieces, operators(network), layers=80) > 1.05 * whole_s
    forgotten = operators(network, priced=False)
    assert in_turn_s(pieces, forgotten, layers=80) == pytest.approx(whole_s)
