"""The bundled grid of tiny models as a table for fits: forms, extrapolation, the name it has."""

from pathlib import Path

import numpy as np
import pytest

from plimsoll.api.laws import list_laws
from plimsoll.api.laws_fit import compare_laws, fit_law, read_runs
from plimsoll.catalog.farseer_real import error_over_best, held_out, selected
from plimsoll.catalog.step_law_real import left_out
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.fit import fit, form_of
from plimsoll.spec.errors import InfeasibleError, SpecError

COLUMNS = "params=params,tokens=tokens"
NAME = Path("tiny-grid")


@pytest.fixture(scope="module")
def grid():
    return read_runs(NAME, COLUMNS, "loss", "nats")


def test_the_grid_is_whole_and_falls_with_tokens(grid):
    assert grid.name == "tiny-grid" and len(grid) >= 60
    table = grid.averaged()
    for size in np.unique(table.column("params")):
        mine = table.column("params") == size
        losses = table.loss[mine][np.argsort(table.column("tokens")[mine])]
        assert len(losses) >= 6 and (np.diff(losses) < 0).all()


@pytest.mark.parametrize("name", ["chinchilla", "chinchilla-q", "kaplan"])
def test_forms_fit_it(grid, name):
    law = fit(form_of(name), grid)
    assert law.rmse < 0.02 and law.r2 > 0.94


def test_farseer_refuses_where_its_stages_describe_nothing(grid):
    with pytest.raises(InfeasibleError, match=r"tiny-grid worse than one loss .*too noisy"):
        fit(form_of("farseer"), grid)
    errors = {one.form: one for one in held_out()}
    assert errors["farseer"].rmse < 0.01  # it does describe the runs of less compute


def test_what_is_chosen_is_nearly_the_best_on_what_was_held_out():
    errors = {one.form: one.error for one in held_out()}
    assert errors[selected(blind=False)] <= 1.1 * min(errors.values())
    assert errors[selected(blind=True)] <= 1.1 * min(errors.values())
    assert error_over_best(lambda: "farseer")(None).value > 1.1


def test_a_law_of_three_cells_serves_the_fourth():
    cells = left_out()
    assert len(cells) == 4
    assert max(cell.law for cell in cells) <= 0.005
    assert np.mean([c.constant for c in cells]) > 2 * np.mean([c.law for c in cells])
    assert all(cell.published > cell.law for cell in cells)


def test_a_bundled_name_works_where_a_file_does(grid):
    answer = fit_law(grid, form="chinchilla")
    assert answer.source == "tiny-grid" and "tiny-grid" in answer.report().command
    assert len(compare_laws(grid).found) == 4
    assert "tiny-grid" in BUNDLED_RUNS
    assert list_laws().data()["bundled_runs"][0]["name"] == "tiny-grid"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny-grid").write_text("params,tokens,loss\n1000000,1000000,3.5\n")
    assert len(read_runs(NAME, COLUMNS, "loss", "nats")) == 1
    with pytest.raises(SpecError, match="tiny-gird: no such file"):
        read_runs(Path("tiny-gird"), COLUMNS, "loss", "nats")
