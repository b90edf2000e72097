"""Scripts that store runs: killed at any moment and started again, tables end up whole."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plimsoll.catalog.massiveds_runs import read_store_runs
from scripts import parscale_runs, write_series_runs, write_store_runs, write_tiny_runs
from scripts.run_rows import append, whole_text

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "plimsoll" / "library" / "laws"


def copied(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    return tmp_path


def test_a_row_cut_off_is_no_row(tmp_path):
    path = tmp_path / "runs.csv"
    append(path, "1,2\n", header="a,b\n")
    with path.open("a") as file:
        file.write("3,4")
    assert whole_text(path) == path.read_text() == "a,b\n1,2\n"
    with path.open("a") as file:
        file.write("3,")
    append(path, "5,6\n", header="a,b\n")
    assert path.read_text() == "a,b\n1,2\n5,6\n"


def test_a_series_run_cut_off_is_made_again(tmp_path):
    copied(tmp_path, "series_runs.csv")
    path = tmp_path / "series_runs.csv"
    assert write_series_runs.whole(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert not write_series_runs.whole(tmp_path)
    assert len(write_series_runs.rows_of(path)) == 47


def test_sorting_the_series_tables_leaves_them_whole_if_it_is_stopped(tmp_path, monkeypatch):
    copied(tmp_path, "series_runs.csv", "series_looks.csv", "series_rates.csv")
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.csv")}

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stopped)
        write_series_runs.finish(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    write_series_runs.finish(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert (tmp_path / "series_runs.yaml").is_file()


def test_a_stream_run_cut_off_is_made_again(tmp_path):
    copied(tmp_path, "parscale_tiny.csv")
    path = tmp_path / "parscale_tiny.csv"
    whole = parscale_runs.known(path)
    path.write_bytes(path.read_bytes()[:-3])  # a loss of fewer digits reads well
    assert len(parscale_runs.known(path)) == len(whole) - 1


def test_stream_runs_of_another_setting_are_not_mixed_in(tmp_path):
    path = tmp_path / "runs.csv"
    append(path, "", header=parscale_runs.header())
    parscale_runs.check_header(path)
    path.write_text(path.read_text().replace("Setting: ", "Setting: other, "))
    with pytest.raises(SystemExit, match="other settings"):
        parscale_runs.check_header(path)


def test_a_table_of_stores_is_joined_whole_or_not_at_all():
    runs = read_store_runs()
    parts = [
        replace(runs, rows=tuple(r for r in runs.rows if (r.width, r.seed) == run))
        for run in write_store_runs.planned()
    ]
    assert write_store_runs.joined(parts) == runs
    with pytest.raises(SystemExit, match="1 of 12 runs are missing"):
        write_store_runs.joined(parts[1:])
    with pytest.raises(SystemExit, match="different versions"):
        write_store_runs.joined([replace(parts[0], made_with="another torch"), *parts[1:]])


@pytest.mark.parametrize("script", [write_series_runs, write_store_runs, write_tiny_runs])
def test_whole_tables_stay_as_they_are(script, monkeypatch):
    before = {file.name: file.read_bytes() for file in SHIPPED.iterdir()}
    monkeypatch.setattr(sys, "argv", ["script"])
    try:
        script.main()
    except SystemExit as done:
        assert done.code is None
    assert {file.name: file.read_bytes() for file in SHIPPED.iterdir()} == before
