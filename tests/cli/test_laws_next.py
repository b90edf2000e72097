"""What an answer of ``laws`` offers next can be run as printed, and options are never dropped."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from plimsoll.laws.forms import Chinchilla
from tests.command_line import plimsoll

SIZES, TOKENS = 2e7 * 2.0 ** np.arange(5), 5e8 * 2.0 ** np.arange(5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(words: list[str]) -> list[str]:
    """The words of the command printed last."""
    done = plimsoll(*words)
    assert done.code == 0, done.err
    text = done.out.split("\nnext:", 1)[1]
    name, *rest = shlex.split(re.sub(r"\\\n", " ", text))
    assert name == "plimsoll"
    return rest


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_what_a_fit_of_small_or_large_runs_offers_next_is_in_reach(
    folder: Path, scale: float
) -> None:
    form = Chinchilla()
    n, d = (scale * a.ravel() for a in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    named = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    noise = np.random.default_rng(0).normal(0, 1e-3, len(n))
    losses = np.exp(form.log_loss(form.coordinates_of(named), {"params": n, "tokens": d}) + noise)
    rows = [f"{a:.8g},{b:.8g},{c:.8g}" for a, b, c in zip(n, d, losses, strict=True)]
    (folder / "runs.csv").write_text("\n".join(["params,tokens,loss", *rows]) + "\n")
    split = offered(["laws", "fit", "runs.csv", "--form", "chinchilla", "--out", "law.yaml"])
    assert split[:2] == ["laws", "allocate"]
    loss = offered(split)
    assert loss[:2] == ["laws", "predict"]
    again = offered(loss)
    assert again[:2] == ["laws", "allocate"] and plimsoll(*again).code == 0
    run = 6 * float(loss[loss.index("--params") + 1]) * float(loss[loss.index("--tokens") + 1])
    assert float(again[again.index("--flops") + 1]) == pytest.approx(run, rel=0.05)


def test_the_base_offered_for_streams_is_the_size_that_was_asked_for() -> None:
    asked = ["laws", "predict", "--law", "parscale-stack", "--params", "2.5B", "--streams", "4"]
    assert offered(asked)[:3] == ["laws", "streams", "2.5B"]


def test_advice_with_a_serving_load_offers_the_same_split() -> None:
    load = ["--serve", "1e12tokens", "--on", "64xH100-SXM"]
    advised = plimsoll("laws", "advise", "--flops", "1e22", *load)
    split = offered(["laws", "advise", "--flops", "1e22", *load])
    title = plimsoll(*split).out.splitlines()[0]
    assert split[:2] == ["laws", "allocate"]
    assert advised.out.splitlines()[0] == f"Train {title}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--flops", "5usd"], "--flops: '5usd' is not an amount of compute; write for example"),
        (["--flops", "0"], "--flops: '0' is not an amount of compute"),
        (["--flops", "1e22", "--stretch", "0"], "--stretch is 0; expected 1 or more"),
        (["--flops", "1e22", "--on", "8xH100-SXM"], "--on prices the tokens to be served"),
        (
            ["--flops", "1e22", "--serve", "1e12", "--on", "8xH100-SXM+8xL40S"],
            "expected devices of one kind to price serving on",
        ),
        (["--flops", "1e22", "--law", "runs.csv"], "runs.csv: a table, no law; fit one first"),
    ],
)
def test_what_allocate_refuses_it_says_in_a_sentence(words: list[str], says: str) -> None:
    done = plimsoll("laws", "allocate", *words)
    assert done.code == 2 and done.out == ""
    assert says in done.err and done.err.count("\n") == 1


def test_a_table_of_runs_is_not_overwritten_with_a_law(folder: Path) -> None:
    (folder / "runs.csv").write_text("params,tokens,loss\n1e9,2e10,2.5\n")
    done = plimsoll("laws", "fit", "runs.csv", "--out", "runs.csv")
    assert done.code == 2 and "--out runs.csv: expected a name in .yaml or .json" in done.err
    assert (folder / "runs.csv").read_text().endswith("1e9,2e10,2.5\n")


def test_no_interval_is_called_widened_where_there_is_none() -> None:
    done = plimsoll("laws", "predict", "--params", "7B", "--tokens", "2T")
    assert "tokens is 4 times above the fit's range" in done.out and "widened" not in done.out
    assert "Loss  2.065 nats  interval not known" in done.out
