"""The catalog entry of ParScale; its law and its costs are tested on their own."""

from typing import Any

import pytest
import torch

from plimsoll.catalog.contract import Context
from plimsoll.catalog.parscale import SYSTEM
from plimsoll.catalog.parscale_real import StreamCell, cells, stored_runs, train_cell, worth
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 25


def test_the_stored_runs_are_three_seeds_of_the_models_trained_now() -> None:
    runs = stored_runs()
    assert sorted(runs) == [0, 1, 2]
    for one in runs.values():
        assert tuple(run.cell for run in one) == cells()
        assert all(1.5 < run.loss < 3 for run in one)
        by_name = {run.name: run for run in one}
        four, matched = by_name["streams 4"], by_name["matched 1"]
        assert matched.params == pytest.approx(four.params, rel=0.01)
        assert worth(one) > 0


def test_a_cell_starts_from_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights whatever was drawn before, biases among them."""

    def start(model: Any, logits: Any, **_: Any) -> float:
        return sum(float(part.detach().double().sum()) for part in model.parameters())

    monkeypatch.setattr("plimsoll.catalog.parscale_real.train_text", start)
    cell = StreamCell(kind="streams", width=32, streams=2, prefix=4)
    first = train_cell(cell, 3)
    torch.randn(17)
    assert train_cell(cell, 3) == first
    assert train_cell(cell, 4).loss != first.loss
