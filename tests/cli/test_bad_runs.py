"""Bad tables of runs and bad laws through the command line: the code, one sentence, the line."""

import json
from pathlib import Path

import numpy as np
import pytest

from plimsoll.laws.forms import Chinchilla
from tests.command_line import Done, plimsoll

NAMED = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
SIZES, TOKENS = 2e7 * 3.0 ** np.arange(5), 1e9 * 3.0 ** np.arange(5)
N, D = (a.ravel() for a in np.meshgrid(SIZES, TOKENS, indexing="ij"))
NOISE = np.random.default_rng(0).normal(0, 1e-3, len(N))
X = {"params": N, "tokens": D}
LOSS = np.exp(Chinchilla().log_loss(Chinchilla().coordinates_of(NAMED), X) + NOISE)
HEAD = "params,tokens,loss"
BIT = 1 / np.log(2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(values, where, how):
    copy = values.copy()
    copy[where] = how(copy[where])
    return copy


def text(n=N, d=D, loss=LOSS, more=None, head=HEAD):
    cells = [n, d, loss] + ([more] if more is not None else [])
    rows = [
        ",".join(f"{c:.8g}" if not isinstance(c, str) else c for c in row)
        for row in zip(*cells, strict=True)
    ]
    return "\n".join([head, *rows]) + "\n"


def fit(*words: str) -> Done:
    return plimsoll("laws", "fit", *words, "--form", "chinchilla")


def assert_refused(done: Done, said: str, *, code: int = 2) -> None:
    """One sentence on stderr that says ``said``, nothing on stdout."""
    assert done.code == code
    assert done.out == "" and "Traceback" not in done.err
    first, *rest = done.err.splitlines()
    assert said in first, first
    assert not rest if code == 2 else rest


HALF = np.arange(len(N)) % 5 >= 3
REFUSED = {
    "negative": (text(loss=changed(LOSS, 4, lambda v: -3.0)), "runs.csv line 6: loss is -3"),
    "nan": (text(loss=changed(LOSS, 4, lambda v: np.nan)), "runs.csv line 6: loss is nan"),
    "infinite": (text(loss=changed(LOSS, 4, lambda v: np.inf)), "runs.csv line 6: loss is inf"),
    "zero tokens": (text(d=changed(D, 2, lambda v: 0.0)), "line 4: tokens is 0"),
    "infinite params": (text(n=changed(N, 2, lambda v: np.inf)), "line 4: params is inf"),
    "a word": (text().replace("\n20000000", "\nmany", 1), "line 2: params is 'many'"),
    "a blank": ("params,tokens,loss\n1e8,,3\n", "line 2: tokens is ''"),
    "billions": (text(n=N / 1e9, d=D / 1e9), "say params=params*1e9"),
    "tokens in billions": (text(d=D / 1e9), "say tokens=tokens*1e9"),
    "some tokens in billions": (
        text(d=changed(D, [3, 7, 9], lambda v: v / 1e9)),
        "runs.csv line 5, line 9, line 11: tokens is 27 where the median is 3e+09",
    ),
    "some params in billions": (
        text(n=changed(N, [3, 7], lambda v: v / 1e9)),
        "runs.csv line 5, line 9: params is 0.02",
    ),
    "some raw among billions": (
        text(d=changed(D / 1e9, [3], lambda v: v * 1e9)),
        "runs.csv line 5: tokens is 2.7e+10 where the median is 9",
    ),
    "a billion too many": (text(d=D * 1e9), "say tokens=tokens*1e-9"),
    "one of them too many": (
        text(d=changed(D, [6], lambda v: v * 1e9)),
        "runs.csv line 8: tokens is 3e+18",
    ),
    "units by row": (
        text(
            loss=np.where(HALF, LOSS * BIT, LOSS),
            more=np.where(HALF, "bits", "nats").tolist(),
            head="params,tokens,loss,unit",
        ),
        "runs.csv line 5: loss in bits, in nats on line 2",
    ),
    "no unit": (
        text(more=["furlongs"] * len(N), head="params,tokens,loss,Unit"),
        "line 2: unit is 'furlongs'; expected nats or bits",
    ),
    "other names": (
        text(head="N,Tokens,val_loss"),
        "as in --columns params=N,tokens=Tokens --loss val_loss",
    ),
    "a slip": (text(head="parms,tokens,los"), "as in --columns params=parms --loss los"),
    "semicolons": (text().replace(",", ";"), "Its separator looks like ';'"),
    "no rows": (HEAD + "\n", "found no row below the header"),
    "empty": ("", "the file is empty"),
    "ragged": (HEAD + "\n1e8,1e9\n", "line 2: has 2 cells"),
    "twice": ("params,params,tokens,loss\n1,1,1,1\n", "column 'params' is there twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_cannot_be_meant(folder: Path, name: str) -> None:
    content, said = REFUSED[name]
    (folder / "runs.csv").write_text(content)
    assert_refused(fit("runs.csv"), said)
    assert_refused(plimsoll("laws", "compare", "runs.csv"), said)


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "runs.csv").write_bytes(b"\x00\x01\xff" * 30)
    assert_refused(fit("runs.csv"), "is no text")
    assert_refused(fit("nowhere.csv"), "no such file")
    assert_refused(fit("."), "is a folder")


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (slice(0, 3), "needs 3 distinct params and 6 distinct points, runs.csv has 1 and 3"),
        (slice(0, 5), "needs 3 distinct params and 6 distinct points, runs.csv has 1 and 5"),
        (slice(0, 10), "needs 3 distinct params, runs.csv has 2"),
        (slice(0, None, 5), "needs 3 distinct tokens and 6 distinct points"),
    ],
)
def test_too_few_points_or_sizes(folder: Path, keep: slice, said: str) -> None:
    (folder / "runs.csv").write_text(text(N[keep], D[keep], LOSS[keep]))
    done = fit("runs.csv")
    assert_refused(done, said, code=3)
    assert "what binds: distinct " in done.err and "smallest change: " in done.err
    for words in (["fit", "runs.csv"], ["compare", "runs.csv"]):
        assert_refused(plimsoll("laws", *words), "no form can be fitted", code=3)


def test_a_form_without_its_columns_and_one_that_is_none(folder: Path) -> None:
    (folder / "runs.csv").write_text(text())
    assert_refused(
        plimsoll("laws", "fit", "runs.csv", "--form", "parscale"), "no column for streams"
    )
    assert_refused(
        plimsoll("laws", "fit", "runs.csv", "--form", "chinchila"), "Did you mean chinchilla"
    )
    assert_refused(fit("runs.csv", "--unit", "bit"), "Did you mean bits?")
    assert_refused(fit("runs.csv", "--seed", "-1"), "--seed")
    assert_refused(fit("runs.csv", "--columns", "params"), "expected as in params=N,tokens=D")


def test_files_in_two_units_are_refused_and_like_files_joined(folder: Path) -> None:
    first, second = slice(0, 15), slice(15, None)
    (folder / "a.csv").write_text(text(N[first], D[first], LOSS[first]))
    (folder / "b.csv").write_text(
        text(N[second], D[second], LOSS[second] * BIT, head="params,tokens,loss_bits")
    )
    assert_refused(fit("a.csv", "b.csv"), "no column loss")
    content = text(N[second], D[second], LOSS[second], ["bits"] * 10, head=HEAD + ",unit")
    (folder / "b.csv").write_text(content)
    assert_refused(fit("a.csv", "b.csv"), "b.csv: loss in bits, in nats in a.csv")
    assert_refused(fit("b.csv", "--unit", "nats"), "--unit says nats")
    (folder / "b.csv").write_text(text(N[second], D[second], LOSS[second]))
    (folder / "all.csv").write_text(text())
    both, whole = (
        json.loads(fit(*files, "--json").out) for files in (["a.csv", "b.csv"], ["all.csv"])
    )
    assert both["parameters"] == whole["parameters"] and both["points"] == 25
    spoiled = changed(LOSS, 20, lambda v: np.nan)
    (folder / "b.csv").write_text(text(N[second], D[second], spoiled[second]))
    assert_refused(fit("a.csv", "b.csv"), "b.csv line 7: loss is nan")


def test_a_unit_read_off_a_header_is_said(folder: Path) -> None:
    (folder / "runs.csv").write_text(text(head="params,tokens,bpb"))
    done = fit("runs.csv", "--loss", "bpb")
    assert done.code == 0
    assert "loss in bits, as its header bpb says" in done.out
    assert_refused(fit("runs.csv", "--loss", "bpb", "--unit", "nats"), "the header bpb says bits")


def test_points_measured_twice_are_averaged_and_said(folder: Path) -> None:
    again = [np.r_[a, a[:2]] for a in (N, D, LOSS)]
    (folder / "runs.csv").write_text(text(*again))
    done = fit("runs.csv")
    assert done.code == 0
    assert "2 points at inputs seen before: averaged with those" in done.out
    assert json.loads(fit("runs.csv", "--json").out)["points"] == 25


def test_losses_that_rise_with_tokens_are_listed_and_stay(folder: Path) -> None:
    loss = changed(LOSS, 3, lambda v: LOSS[2] * 1.02)
    (folder / "runs.csv").write_text(text(loss=loss))
    done = fit("runs.csv")
    assert done.code == 0
    assert "Loss that rises with tokens" in done.out
    assert "line 4 to line 5  9e+09 to 2.7e+10  +2.00 %" in done.out
    assert "from nats to bits" not in done.out
    data = json.loads(fit("runs.csv", "--json").out)
    assert [one["lines"] for one in data["rises"]] == [[4, 5]] and data["points"] == 25
    compared = plimsoll("laws", "compare", "runs.csv")
    assert compared.code == 0 and "line 4 to line 5" in compared.out


def test_bits_among_nats_without_a_column_are_suspected(folder: Path) -> None:
    (folder / "runs.csv").write_text(text(loss=np.where(HALF, LOSS * BIT, LOSS)))
    done = fit("runs.csv")
    assert done.code == 0
    assert "are all losses in one unit?" in done.out


def test_stray_points_are_shown_and_stay(folder: Path) -> None:
    (folder / "runs.csv").write_text(text(loss=changed(LOSS, 7, lambda v: v * 1.2)))
    done = fit("runs.csv")
    assert done.code == 0
    assert "Points far from the fit" in done.out
    assert "line 9  params 6e+07, tokens 9e+09" in done.out
    data = json.loads(fit("runs.csv", "--json").out)
    assert data["outlier_lines"] == [9] and data["points"] == 25


def test_beyond_the_box_there_is_an_answer_a_wider_interval_and_a_warning(folder: Path) -> None:
    (folder / "runs.csv").write_text(text())
    assert fit("runs.csv", "--out", "law.yaml").code == 0

    def at(params: str, tokens: str) -> dict:
        words = ["laws", "predict", "--law", "law.yaml", "--params", params, "--tokens", tokens]
        done = plimsoll(*words, "--json")
        assert done.code == 0
        return json.loads(done.out)

    inside, outside = at("1B", "20B"), at("100B", "20T")
    assert inside["warning"] == "" and inside["outside"] == {}
    assert set(outside["outside"]) == {"params", "tokens"}
    assert "the interval is widened for it" in outside["warning"]
    widths = [np.log(one["high"] / one["low"]) for one in (inside, outside)]
    assert widths[1] > 5 * widths[0]
    split = plimsoll("laws", "allocate", "--flops", "3e21", "--law", "law.yaml")
    assert split.code == 0 and "extrapolated: " in split.out and "--law law.yaml" in split.out
    far = plimsoll("laws", "allocate", "--flops", "1e30", "--law", "law.yaml")
    assert_refused(far, "no size from", code=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--params", "7B"], "tokens is missing; chinchilla needs params and tokens"),
        (["--params", "7B", "--tokens", "0"], "tokens is 0"),
        (["--params", "-7", "--tokens", "1T"], "--params"),
        (["--params", "inf", "--tokens", "1T"], "is not a count"),
        (
            ["--params", "7B", "--tokens", "1T", "--streams", "2"],
            "chinchilla is a law of params and tokens",
        ),
        (["--params", "7B", "--tokens", "1T", "--level", "0.7"], "expected one of"),
        (["--params", "7B", "--tokens", "1T", "--law", "farsear"], "Did you mean farseer"),
        (["--params", "7B", "--tokens", "1T", "--law", "no.yaml"], "no such file"),
    ],
)
def test_options_of_predict(words: list[str], said: str) -> None:
    assert_refused(plimsoll("laws", "predict", *words), said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("form: chinchilla", "form: chinchila", "law.yaml: no form 'chinchila'. Did you mean"),
        ("  E: 1.7", "  E: -1.7", "law.yaml: E is -1.7; chinchilla needs it above zero"),
        ("  E: 1.7", "  E: .nan", "parameters.E"),
        ("  alpha:", "  alfa:", "parameters are E, A, B, alfa, beta; chinchilla has E, A, B"),
        ("  tokens:", "  token:", "box.tokens is missing"),
        ("form:", "fom:", "fom"),
        ("parameters:", "parameters: [", "not valid YAML"),
    ],
)
def test_a_law_file_that_was_changed_by_hand(folder: Path, old: str, new: str, said: str) -> None:
    content = """\
format_version: 1
kind: law
form: chinchilla
parameters:
  E: 1.7
  A: 400.0
  B: 410.0
  alpha: 0.34
  beta: 0.28
box:
  params: [2.0e+7, 1.62e+9]
  tokens: [1.0e+9, 8.1e+10]
"""
    (folder / "law.yaml").write_text(content)
    words = ["laws", "predict", "--law", "law.yaml", "--params", "1B", "--tokens", "20B"]
    assert plimsoll(*words).code == 0
    (folder / "law.yaml").write_text(content.replace(old, new, 1))
    assert_refused(plimsoll(*words), said)
