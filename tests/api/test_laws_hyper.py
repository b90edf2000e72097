"""``laws hyper``: what it says of a run, and how it judges laws on a user's sweep."""

import json

import numpy as np
import pytest

from plimsoll.api.laws_hyper import hyper
from plimsoll.api.laws_sweep import judge_sweep, read_user_sweep
from plimsoll.catalog.step_law import made_sweep
from plimsoll.laws.hyper import STEP_LAW
from plimsoll.spec.errors import SpecError
from tests.command_line import plimsoll

COLUMNS = {"params": "N", "tokens": "D", "lr": "eta", "batch": "bs"}
OPTION = ",".join(f"{name}={header}" for name, header in COLUMNS.items())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    table = made_sweep(0)
    rows = ["N,D,eta,bs,loss"]
    values = [table.column(name) for name in COLUMNS]
    rows += [",".join(f"{v:.9g}" for v in row) for row in zip(*values, table.loss, strict=True)]
    path = tmp_path_factory.mktemp("sweep") / "sweep.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_published_values_and_the_box():
    """Figures worked out from the printed law; a 7 B run lies beyond its sweep."""
    data = hyper(7e9, 1.4e12, seq_len=4096).data()
    advice = data["advice"]
    assert advice["lr"] == pytest.approx(9.17e-4, rel=2e-3)
    assert advice["best_batch_tokens"] == pytest.approx(5.00e6, rel=2e-3)
    assert advice["batch_tokens"] == advice["batch_sequences"] * 4096
    assert not advice["in_box"] and advice["outside"]["tokens"] == pytest.approx(14)
    assert "extrapolated" in hyper(7e9, 1.4e12).report().notes[0]
    inside = hyper(1e9, 1e11, seq_len=2048, data_parallel=64, micro_batch=4)
    assert inside.data()["advice"]["in_box"]
    assert inside.data()["advice"]["batch_tokens"] % (2048 * 256) == 0


def test_a_sweep_gives_its_law_back_and_beats_a_constant(sweep):
    table = read_user_sweep(sweep, COLUMNS, "loss", "tokens", 4096)
    data = hyper(1e9, 1e11, sweep=table).data()
    assert data["law"]["lr_params"] == pytest.approx(STEP_LAW.lr_params, abs=0.06)
    assert data["law"]["batch_tokens"] == pytest.approx(STEP_LAW.batch_tokens, abs=0.06)
    assert data["advice"]["lr"] == pytest.approx(data["published_advice"]["lr"], rel=0.1)
    cells = data["sweep"]["cells"]
    assert len(cells) == 15 and all(cell["convex"] for cell in cells)
    costs = {
        rule: float(np.mean([cell["cost_fraction"][rule] for cell in cells]))
        for rule in cells[0]["cost_fraction"]
    }
    assert costs["refitted"] < 1e-3 and costs["cell_left_out"] < 1.5e-3
    assert costs["constant"] > 4 * costs["cell_left_out"]
    for cell in cells:
        here = (table.column("params") == cell["params"]) & (
            table.column("tokens") == cell["tokens"]
        )
        assert cell["loss"] == table.loss[here].min()


def test_a_cell_left_out_is_judged_by_the_others(sweep):
    """Spoil one cell so that its best is far off: the law fitted without it does not follow."""
    table = read_user_sweep(sweep, COLUMNS, "loss", "tokens", 4096)
    judged = judge_sweep(table)
    keep = np.ones(len(table), dtype=bool)
    first = judged.published[0]
    here = (table.column("params") == first.params) & (table.column("tokens") == first.tokens)
    keep[here & (table.column("lr") < 4e-3)] = False
    spoilt = judge_sweep(table.rows(keep))
    assert spoilt.found.at_edge > judged.found.at_edge
    assert spoilt.held_out[0] is not None and judged.held_out[0] is not None
    assert spoilt.best[0][0] > judged.best[0][0]


def test_batches_in_sequences_are_turned_into_tokens(sweep, tmp_path):
    text = sweep.read_text().splitlines()
    rows = [line.split(",") for line in text[1:]]
    path = tmp_path / "sequences.csv"
    shorter = [",".join([n, d, lr, f"{float(b) / 2048:.9g}", q]) for n, d, lr, b, q in rows]
    path.write_text("\n".join([text[0], *shorter]) + "\n")
    ours = read_user_sweep(path, COLUMNS, "loss", "sequences", 2048)
    theirs = read_user_sweep(sweep, COLUMNS, "loss", "tokens", 4096)
    assert np.allclose(ours.column("batch"), theirs.column("batch"), rtol=1e-6)
    with pytest.raises(SpecError, match="sequences"):
        read_user_sweep(path, COLUMNS, "loss", "tokens", 4096)


def test_the_command_line(sweep, tmp_path):
    page = tmp_path / "page.html"
    done = plimsoll(
        "laws", "hyper", "--params", "1B", "--tokens", "100B", "--sweep", str(sweep),
        "--columns", OPTION, "--report", str(page), "--json",
    )  # fmt: skip
    assert done.code == 0 and json.loads(done.out)["sweep"]["points"] == 1815
    assert "What each rule costs" in page.read_text()
    plain = plimsoll("laws", "hyper", "--params", "7B", "--tokens", "1.4T")
    assert plain.code == 0 and "next:  plimsoll laws predict" in plain.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "nothing to answer"),
        (["--params", "7B"], 2, "both --params and --tokens"),
        (["--params", "7B", "--tokens", "1T", "--seq-len", "0"], 2, "sequence length is 0"),
        (["--params", "7B", "--tokens", "1k"], 2, "the whole run has 1,000"),
        (["--params", "1B", "--tokens", "20B", "--data-parallel", "9999"], 3, "data-parallel"),
        (["--params", "1B", "--tokens", "20B", "--loss", "x"], 2, "give it with --sweep"),
        (["--sweep", "none.csv"], 2, "no such file"),
    ],
)
def test_bad_input(words, code, said):
    done = plimsoll("laws", "hyper", *words)
    assert done.code == code and said in done.err and done.out == ""


def test_a_sweep_of_one_cell_is_refused(sweep, tmp_path):
    lines = sweep.read_text().splitlines()
    path = tmp_path / "one.csv"
    path.write_text("\n".join(lines[:122]) + "\n")
    done = plimsoll("laws", "hyper", "--sweep", str(path), "--columns", OPTION)
    assert done.code == 3 and "vary" in done.err
    wrong = plimsoll("laws", "hyper", "--sweep", str(path), "--columns", f"{OPTION},x=y")
    assert wrong.code == 2 and "unknown 'x'" in wrong.err
    unit = plimsoll("laws", "hyper", "--sweep", str(path), "--batch-in", "rows")
    assert unit.code == 2 and "tokens or sequences" in unit.err
