"""``laws datastore`` as a user runs it: runs or a law in, a split and its reasons out."""

import json

import numpy as np
import pytest

from plimsoll.api.laws_datastore import weigh_datastore
from plimsoll.api.laws_fit import fit_law, read_runs
from plimsoll.laws.forms import DatastoreTerm
from plimsoll.spec.errors import InfeasibleError, SpecError
from tests.command_line import plimsoll

NAMED = {
    "E": 1.2, "A": 300.0, "B": 300.0, "C": 0.6,
    "alpha": 0.33, "beta": 0.29, "gamma": 0.12, "S0": 1e8,
}  # fmt: skip
COLUMNS = "params=N,tokens=D_b*1e9,datastore=S"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    n, d, s = (
        part.ravel()
        for part in np.meshgrid(
            1e8 * 4.0 ** np.arange(4), 2e9 * 4.0 ** np.arange(3), [0, 1e8, 1e9, 1e11], indexing="ij"
        )
    )
    form = DatastoreTerm()
    x = {"params": n, "tokens": d, "datastore": s}
    noise = np.random.default_rng(0).normal(0, 2e-3, len(n))
    loss = np.exp(form.log_loss(form.coordinates_of(NAMED), x) + noise)
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    rows = [f"{a:g},{b / 1e9:g},{c:g},{e:.6f}" for a, b, c, e in zip(n, d, s, loss, strict=True)]
    path.write_text("\n".join(["N,D_b,S,val", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def law(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("law") / "law.yaml"
    answer = fit_law(read_runs(runs, COLUMNS, "val", "nats"), form="datastore", out=out)
    assert "laws datastore" in answer.report().next_command
    return out


def test_a_law_from_a_file_answers(law):
    answer = weigh_datastore(law, 1e21)
    found = answer.data()
    chosen, alone = found["chosen"], found["model_alone"]
    assert chosen["loss"] < alone["loss"] and alone["datastore_tokens"] == 0
    assert chosen["store_fraction"] == pytest.approx(2 * 1.1e8 * chosen["datastore_tokens"] / 1e21)
    losses = [part["loss"] for part in found["parts"]]
    assert losses == sorted(losses, reverse=True)
    assert found["parts"][0]["datastore_tokens"] == 0
    assert [row["flops"] for row in found["frontier"]] == sorted(
        row["flops"] for row in found["frontier"]
    )
    json.dumps(found, allow_nan=False)


def test_the_page_says_what_is_assumed_and_where_it_ends(law):
    report = weigh_datastore(law, 1e21, most_tokens=1e10).report()
    assert "with a datastore of 10B tokens" in report.title
    text = " ".join((*report.assumptions, *report.notes))
    assert "the form of the datastore's term is ours" in text
    assert "the largest datastore allowed" in text
    assert "each answer also reads what is retrieved" in text
    assert "--store" in report.next_command
    bare = weigh_datastore(law, 1e21, most_tokens=0.0)
    assert "without a datastore" in bare.report().title and len(bare.parts) == 1


def test_a_dearer_retriever_buys_a_smaller_store(law):
    cheap, dear = (weigh_datastore(law, 1e21, retriever_params=n).found for n in (1e7, 7e9))
    assert dear.datastore < cheap.datastore and dear.loss > cheap.loss


def test_the_verb_fits_the_runs_and_prints_or_gives_json(runs):
    words = ("laws", "datastore", str(runs), "--flops", "1e21", "--columns", COLUMNS)
    done = plimsoll(*words, "--loss", "val", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["law"]["points"] == 48 and found["retriever_params"] == 1.1e8
    assert found["law"]["parameters"]["gamma"] == pytest.approx(0.12, rel=0.3)
    shown = plimsoll(*words, "--loss", "val")
    assert shown.code == 0 and "The budget with a datastore and without" in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 80


def test_predict_takes_a_datastore(law):
    words = ("laws", "predict", "--law", str(law), "--params", "1B", "--tokens", "20B")
    losses = [
        json.loads(plimsoll(*words, "--datastore", text, "--json").out)["loss"]
        for text in ("1B", "10B", "100B")
    ]
    assert losses == sorted(losses, reverse=True)


def test_bad_input_is_said_in_a_sentence(runs, law, tmp_path):
    with pytest.raises(SpecError, match="lacks datastore; expected as in"):
        weigh_datastore(runs, 1e21, columns="params=N,tokens=D_b*1e9", loss="val")
    text = runs.read_text().splitlines()
    stores = tmp_path / "stores.csv"
    stores.write_text("\n".join([text[0], *(t for t in text[1:] if ",0," not in t)]) + "\n")
    with pytest.raises(SpecError, match="every run has a datastore; expected some with 0"):
        weigh_datastore(stores, 1e21, columns=COLUMNS, loss="val")
    with pytest.raises(InfeasibleError, match="no size from"):
        weigh_datastore(law, 1e12)
    with pytest.raises(SpecError, match="stretch 0"):
        weigh_datastore(law, 1e21, stretch=0.5)
    file = tmp_path / "few.csv"
    file.write_text("params,tokens,datastore,loss\n1e8,1e9,0,3\n1e8,1e9,1e9,2.5\n")
    for words, code in (
        ((str(file), "--flops", "1e21"), 3),
        ((str(tmp_path / "none.csv"), "--flops", "1e21"), 2),
        ((str(law), "--flops", "1e21", "--retriever", "0"), 2),
        ((str(law), "--flops", "a lot"), 2),
        ((str(runs), "--flops", "1e21"), 2),
    ):
        done = plimsoll("laws", "datastore", *words)
        assert (done.code, done.out) == (code, ""), done.err
        assert len(done.err.strip().splitlines()) <= 6


def test_the_unit_is_the_one_that_the_header_says(runs, tmp_path):
    path = tmp_path / "bits.csv"
    path.write_text(runs.read_text().replace(",val\n", ",loss_bits\n"))
    asked = ("laws", "datastore", str(path), "--flops", "1e22", "--columns", COLUMNS)
    done = plimsoll(*asked, "--loss", "loss_bits", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["law"]["unit"] == "bits"


def test_a_law_with_a_datastore_is_split_elsewhere(law):
    done = plimsoll("laws", "allocate", "--flops", "1e22", "--law", str(law))
    assert done.code == 2
    assert "split it three ways with plimsoll laws datastore" in done.err
