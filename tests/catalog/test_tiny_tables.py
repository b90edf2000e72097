"""Tiny training runs and the tables they fill: repeatable, resumable, whole."""

from dataclasses import replace

import pytest
import yaml

from plimsoll.catalog.tiny_runs import TinyResult, TinyRun, run_tiny, size_of
from plimsoll.catalog.tiny_tables import (
    COLUMNS,
    GRID,
    PROVENANCE,
    SWEEP,
    grid_runs,
    read_rows,
    row_of,
    sweep_runs,
)
from scripts.write_tiny_runs import check_provenance, put_in_order, stored, train

SHORT = TinyRun(hidden=16, tokens=4096, batch=64, seed=0, lr=6e-3)
PLANNED = [replace(SHORT, batch=batch, lr=lr) for batch in (32, 64, 96) for lr in (1e-3, 2e-3)]


def pretended(runs):
    return [TinyResult(loss=1 + run.lr, smooth_loss=2 + 1 / run.batch) for run in runs]


def test_a_run_repeats_to_the_last_bit_and_does_not_see_its_companions():
    other = replace(SHORT, lr=1e-3)
    (alone,) = run_tiny([SHORT])
    assert run_tiny([SHORT]) == [alone]
    together = run_tiny([other, SHORT])
    assert together[1].loss == pytest.approx(alone.loss, rel=1e-3)
    assert together[0].loss == pytest.approx(run_tiny([other])[0].loss, rel=1e-3)
    assert together[0].loss != pytest.approx(alone.loss, rel=1e-2)


def test_more_text_and_another_seed_tell():
    (short,), (longer,) = run_tiny([SHORT]), run_tiny([replace(SHORT, tokens=16384)])
    assert longer.loss < short.loss < 4.86  # ln 128 and nothing learned
    assert longer.smooth_loss < short.smooth_loss
    assert run_tiny([replace(SHORT, seed=1)])[0] != short
    assert size_of(16) == 2 * 12 * 16**2


def test_a_last_batch_that_is_not_full_is_a_step():
    assert replace(SHORT, batch=96).steps == 43 and SHORT.steps == 64
    assert run_tiny([replace(SHORT, tokens=128, batch=96)])[0].loss > 0


def test_killed_and_run_again_nothing_is_lost_or_there_twice(tmp_path):
    path = tmp_path / "runs.csv"
    trained = []

    def dies(runs):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(runs)
        return pretended(runs)

    with pytest.raises(KeyboardInterrupt):
        train(path, PLANNED, 0, 1, dies)
    assert len(stored(path)) == 4
    with path.open("a") as file:
        file.write("6144,4096,1.0")  # a row cut off by the end of the process
    train(path, PLANNED, 0, 1, pretended)
    put_in_order(path, PLANNED)
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == len(set(lines)) == 1 + len(PLANNED)
    assert read_rows(path) == dict(zip(PLANNED, pretended(PLANNED), strict=True))
    before = path.read_bytes()
    train(path, PLANNED, 0, 1, dies)
    put_in_order(path, PLANNED)
    assert path.read_bytes() == before


def test_parts_share_the_work(tmp_path):
    path = tmp_path / "runs.csv"
    train(path, PLANNED, 1, 2, pretended)
    one = set(stored(path))
    train(path, PLANNED, 0, 2, pretended)
    assert one and one < set(stored(path)) == set(PLANNED)


def test_rows_of_another_text_are_not_mixed_in(tmp_path):
    path = tmp_path / "made.yaml"
    now = {"text_sha256": "a", "torch": "2", "machine": "m", "python": "3.11.7"}
    check_provenance(path, now)
    check_provenance(path, now | {"python": "3.11.8"})
    assert yaml.safe_load(path.read_text()) == now
    with pytest.raises(SystemExit, match="made with text_sha256 a, here it is b"):
        check_provenance(path, now | {"text_sha256": "b"})


def test_a_row_reads_back_exactly(tmp_path):
    path = tmp_path / "runs.csv"
    result = TinyResult(loss=0.1 + 0.2, smooth_loss=1 / 3)
    path.write_text(",".join(COLUMNS) + "\n" + row_of(SHORT, result))
    assert read_rows(path) == {SHORT: result}


def test_the_stored_tables_hold_what_they_should():
    assert set(read_rows(SWEEP)) >= set(sweep_runs(0))
    grid = read_rows(GRID)
    planned = set(grid_runs(0))
    assert set(grid) >= planned
    assert len({run.hidden for run in planned}) == 10
    assert len({run.tokens for run in planned}) == 6
    assert set(yaml.safe_load(PROVENANCE.read_text())) >= {"source", "text_sha256", "torch"}
