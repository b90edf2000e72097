"""How public runs were set up: which entry speaks of a row, and that one always does."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.planning.run_setup import (
    LoadSetup,
    RunSettings,
    SpeculativeRun,
    load_of,
    run_settings,
    speculates,
)
from plimsoll.spec.deployment import DeploymentRow
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data, plain
from tests.deployments import aggregated, disaggregated

SETTINGS = run_settings()
LOAD: dict[str, Any] = {"length_spread": 0.2, "length_mean": 0.9, "rounds": 10}
ROW = aggregated(backend="trtllm", backend_version="1.2", precision="fp8", measured_on="2026-02-03")
rows = st.builds(
    aggregated,
    backend=st.sampled_from(["vllm", "sglang", "trtllm"]),
    backend_version=st.sampled_from(
        ["", "9.9", *(r for e in (*SETTINGS.load, *SETTINGS.speculative) for r in e.releases)]
    ),
    precision=st.sampled_from(["", "fp8", "fp4"]),
    measured_on=st.sampled_from(["", "2025-11-01", "2026-01-01", "2026-03-20"]),
    isl=st.sampled_from([128, 1024, 8192]),
    osl=st.sampled_from([128, 1024, 8192]),
)


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        ({}, True),
        ({"engine": "trtllm"}, True),
        ({"engine": "vllm"}, False),
        ({"releases": ["1.1", "1.2"]}, True),
        ({"releases": ["1.1"]}, False),
        ({"unnamed_precision": True}, False),
        ({"other_lengths_than": [[1024, 1024]]}, True),
        ({"other_lengths_than": [[1024, 1024], [1000, 500]]}, False),
        ({"engine": "trtllm", "releases": ["1.2"], "unnamed_precision": True}, False),
    ],
)
def test_every_field_of_a_load_must_fit(entry: dict[str, Any], fits: bool) -> None:
    assert from_data(LoadSetup, LOAD | entry, where="load").fits(ROW) is fits


def test_a_load_for_runs_that_name_no_precision() -> None:
    entry = from_data(LoadSetup, LOAD | {"unnamed_precision": True}, where="load")
    assert entry.fits(replace(ROW, precision=""))


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        ({}, True),
        ({"engine": "vllm"}, False),
        ({"releases": ["1.1"]}, False),
        ({"since": "2026-02-03"}, True),
        ({"since": "2026-02-04"}, False),
        ({"dates": ["2026-02-03", "2026-02-05"]}, True),
        ({"dates": ["2026-02-05"]}, False),
        ({"precision": "fp8"}, True),
        ({"precision": "fp4"}, False),
    ],
)
def test_every_field_of_a_speculative_run_must_fit(entry: dict[str, Any], fits: bool) -> None:
    data = {"engine": "trtllm", "releases": ["1.2"]} | entry
    assert from_data(SpeculativeRun, data, where="run").fits(ROW) is fits


def test_a_run_without_a_date_is_not_known_to_be_recent() -> None:
    data = {"engine": "trtllm", "releases": ["1.2"], "since": "2026-01"}
    assert not from_data(SpeculativeRun, data, where="run").fits(replace(ROW, measured_on=""))


@given(row=rows)
def test_the_first_load_that_fits_is_taken(row: DeploymentRow) -> None:
    chosen = load_of(row)
    before = SETTINGS.load[: SETTINGS.load.index(chosen)]
    assert chosen.fits(row)
    assert not any(entry.fits(row) for entry in before)


@given(row=rows, ttft_ms=st.floats(0.1, 1e6), tpot_ms=st.floats(0.1, 1e6))
def test_what_was_measured_and_how_it_was_cut_change_no_setup(
    row: DeploymentRow, ttft_ms: float, tpot_ms: float
) -> None:
    other = replace(
        row,
        id="another",
        concurrency=3,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        workers=None,
        model="org/none",
    )
    assert (load_of(other), speculates(other)) == (load_of(row), speculates(row))


def test_every_entry_speaks_of_some_row() -> None:
    """An entry that none before it leaves a row to would have no effect."""
    reached = set()
    for release in ("", *(r for entry in SETTINGS.load for r in entry.releases)):
        for engine in ("vllm", "sglang", "trtllm"):
            for precision in ("", "fp8"):
                for isl in (77, 1024):
                    row = replace(
                        ROW,
                        backend=engine,
                        backend_version=release,
                        precision=precision,
                        isl=isl,
                        osl=1024,
                    )
                    reached.add(SETTINGS.load.index(load_of(row)))
    assert reached == set(range(len(SETTINGS.load)))


def test_the_last_load_fits_every_row() -> None:
    assert SETTINGS.load[-1].fits(aggregated(backend="vllm", isl=1024, osl=1024))
    assert SETTINGS.load[-1].fits(disaggregated(backend="trtllm", precision=""))
    last = SETTINGS.load[-1]
    named = plain(last)
    assert {key for key, value in named.items() if value} <= set(LOAD)


def test_speculative_entries_are_each_reached_and_need_their_release() -> None:
    for entry in SETTINGS.speculative:
        for release in entry.releases:
            row = replace(
                ROW,
                backend=entry.engine,
                backend_version=release,
                measured_on=max((entry.since, *entry.dates)) or "2026-01-01",
                precision=entry.precision or "fp4",
            )
            assert speculates(row)
            assert not speculates(replace(row, backend_version="0.0"))


def test_lengths_lie_within_what_is_stated() -> None:
    """Draws are at most the stated length: mean and half the width together at most one."""
    for entry in SETTINGS.load:
        assert entry.length_mean * (1 + entry.length_spread / 2) <= 1 + 1e-9
        assert entry.rounds >= 1


def test_the_bundled_file_round_trips() -> None:
    assert from_data(RunSettings, plain(SETTINGS), where="settings") == SETTINGS
    assert SETTINGS.source and SETTINGS.as_of


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"load": []}, "load"),
        ({"luck": 1}, "luck"),
        ({"load": [LOAD | {"rounds": 0}]}, "rounds"),
        ({"load": [LOAD | {"length_mean": 0.0}]}, "length_mean"),
        ({"load": [LOAD | {"engine": "tgi"}]}, "engine"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        from_data(RunSettings, plain(SETTINGS) | change, where="settings")
