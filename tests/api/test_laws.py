"""The verbs of laws, as a user runs them: answers, files, the next command, and bad input."""

import json

import numpy as np
import pytest

from plimsoll.api.laws import list_laws
from plimsoll.api.laws_advise import advise
from plimsoll.api.laws_budget import allocate, predict_loss
from plimsoll.api.laws_fit import compare_laws, fit_law, parse_columns, read_runs
from plimsoll.laws.forms import Chinchilla
from plimsoll.laws.law import law_of
from plimsoll.spec.errors import InfeasibleError, SpecError
from tests.command_line import plimsoll

NAMED = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


@pytest.fixture
def runs(tmp_path):
    sizes, tokens = 2e7 * 3.0 ** np.arange(6), 1e9 * 3.0 ** np.arange(6)
    n, d = (a.ravel() for a in np.meshgrid(sizes, tokens, indexing="ij"))
    form = Chinchilla()
    noise = np.random.default_rng(0).normal(0, 1e-3, len(n))
    loss = np.exp(form.log_loss(form.coordinates_of(NAMED), {"params": n, "tokens": d}) + noise)
    path = tmp_path / "runs.csv"
    rows = [f"{a:.6g},{b / 1e9:.6g},{c:.6f}" for a, b, c in zip(n, d, loss, strict=True)]
    path.write_text("\n".join(["N,D_b,val", *rows]) + "\n")
    return path


def table(path):
    return read_runs(path, "params=N,tokens=D_b*1e9", "val", "nats")


def test_a_fit_recovers_and_its_file_predicts(runs, tmp_path):
    out = tmp_path / "law.yaml"
    answer = fit_law(table(runs), out=out)
    assert answer.found.form.name == "chinchilla"
    assert answer.found.named["alpha"] == pytest.approx(0.34, abs=0.02)
    data = answer.data()
    low, high = data["intervals_90"]["alpha"]
    assert low < 0.34 < high
    found = predict_loss(str(out), {"params": 1e9, "tokens": 1e11})
    truth = 1.7 + 400 / 1e9**0.34 + 410 / 1e11**0.28
    assert found.found.loss == pytest.approx(truth, rel=0.002)
    assert found.found.low < truth < found.found.high
    assert law_of(str(out)).points == 36


def test_commands_proposed_for_a_law_of_a_file_name_the_file(runs, tmp_path):
    out = tmp_path / "law.yaml"
    fit_law(table(runs), form="chinchilla", out=out)
    assert str(out) in allocate(str(out), 1e21).report().next_command
    assert str(out) in predict_loss(str(out), {"params": 1e9, "tokens": 1e11}).report().command


def test_a_law_of_repeats_is_fitted_and_spent_as_any_other(tmp_path):
    """Runs made with known rates, their column of different tokens, and the split by the file."""
    law = law_of("repeats")
    n, u, e = (
        a.ravel() for a in np.meshgrid((1e8, 5e8, 2e9, 8e9), (1e9, 5e9, 2e10, 8e10), (1, 3, 10, 30))
    )
    loss = law.predict({"params": n, "tokens": u * e, "unique": u})
    path, out = tmp_path / "repeated.csv", tmp_path / "law.yaml"
    rows = [f"{a},{b},{c},{d:.7f}" for a, b, c, d in zip(n, u * e, u, loss, strict=True)]
    path.write_text("\n".join(["N,D,U,loss", *rows]) + "\n")
    found = fit_law(
        read_runs(path, "params=N,tokens=D,unique=U", "loss", "nats"), form="repeats", out=out
    )
    assert "--unique" in found.report().next_command
    ours = allocate(str(out), 1e22, unique=2e10).found
    theirs = allocate("repeats", 1e22, unique=2e10).found
    assert ours.params == pytest.approx(theirs.params, rel=0.02)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


def test_the_law_that_made_the_points_wins(runs):
    answer = compare_laws(table(runs))
    assert answer.data()["forms"][0]["form"] in ("chinchilla", "chinchilla-q")
    assert "extrapolates best" in answer.report().title
    refused = {one["form"]: one["why_not"] for one in answer.data()["forms"]}
    assert "needs 8 distinct params" in refused["farseer"]


def test_serving_on_dearer_devices_asks_for_smaller_models():
    alone = allocate("chinchilla", 1e23)
    h100 = allocate("chinchilla", 1e23, serve_tokens=2e11, on="8xH100-SXM")
    l40s = allocate("chinchilla", 1e23, serve_tokens=2e11, on="8xL40S")
    sizes = [one.found.params for one in (l40s, h100, alone)]
    assert sizes == sorted(sizes)
    assert h100.weight < l40s.weight
    assert h100.alone is not None and h100.alone.params == alone.found.params


def test_every_answer_says_what_to_do_next(runs):
    answers = [
        list_laws(),
        fit_law(table(runs), form="chinchilla"),
        compare_laws(table(runs)),
        predict_loss("chinchilla", {"params": 7e9, "tokens": 2e12}),
        allocate("chinchilla", 1e22),
    ]
    for answer in answers:
        report = answer.report()
        assert report.next_command.startswith("plimsoll laws ")
        json.dumps(answer.data(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "why"), [("params", "expected as in"), ("params=N,params=M", "each once")]
)
def test_columns_that_cannot_be_read(text, why):
    with pytest.raises(SpecError, match=why):
        parse_columns(text)


def test_bad_input_has_its_exit_codes(runs, tmp_path):
    assert plimsoll("laws", "list").code == 0
    missing = plimsoll("laws", "fit", str(tmp_path / "none.csv"))
    assert missing.code == 2 and "none.csv" in missing.err
    unknown = plimsoll("laws", "fit", str(runs), "--columns", "params=size,tokens=D_b*1e9")
    assert unknown.code == 2 and "size" in unknown.err
    few = tmp_path / "few.csv"
    few.write_text("params,tokens,loss\n1e8,2e9,3.0\n2e8,4e9,2.9\n4e8,8e9,2.8\n")
    refused = plimsoll("laws", "fit", str(few))
    assert refused.code == 3 and "no form can be fitted" in refused.err
    with pytest.raises(InfeasibleError):
        allocate("farseer", 1e25)


def test_advice_adds_up():
    """Time and money are those of the FLOPs on the fleet; half the devices take twice as long."""
    answer = advise("chinchilla", 1e23, on="64xH100-SXM", serve_tokens=1e12)
    data = answer.data()
    assert 6 * data["params"] * data["tokens"] + 2 * data[
        "params"
    ] * 1e12 * answer.split.weight == (pytest.approx(1e23, rel=1e-6))
    half = advise("chinchilla", 1e23, on="32xH100-SXM", serve_tokens=1e12).data()
    assert half["train_s"] == pytest.approx(2 * data["train_s"])
    assert half["train_usd"] == pytest.approx(data["train_usd"])
    low, high = data["lr_range"]
    assert low < data["lr"] < high
    assert {row[0] for row in data["others"]} >= {"nothing to serve", "ten times the compute"}
    json.dumps(data, allow_nan=False)
    report = answer.report()
    assert report.next_command.startswith("plimsoll laws ") and len(report.tables) == 3
