"""``laws series``: planted runs give their exponents and the advice that follows."""

import json

import pytest

from plimsoll.api.laws_series import series_laws
from plimsoll.spec.errors import SpecError


def table(folder, *, alpha=0.3, beta=0.1, zero=-2.0):
    """Two architectures, five sizes, three seeds, and less data at the largest."""
    rows = ["arch,params,seed,data_tokens,seen_tokens,nll"]
    for arch, times in (("encoder", 1.0), ("decoder", 1.2)):
        for seed in range(3):
            for k in range(5):
                loss = (1e3 / (2e3 * 4**k)) ** (alpha * times) * (1 + 0.002 * seed)
                rows.append(f"{arch},{2000 * 4**k},{seed},64000,64000,{loss + zero}")
            for k in (1, 2, 3):
                less = loss * 4 ** (beta * k)
                rows.append(f"{arch},{2000 * 4**4},{seed},{64000 // 4**k},64000,{less + zero}")
    path = folder / "runs.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def answer(path, **changed):
    given = {"loss": "nll", "offset": -2.0, "target": "id-nll", "horizon": "fixed", **changed}
    return series_laws(path, **given)


def test_planted_exponents_and_advice(tmp_path):
    said = answer(table(tmp_path)).data()
    laws = {(law["arch"], law["axis"]): law for law in said["laws"]}
    assert laws["encoder", "params"]["alpha"] == pytest.approx(0.3, abs=0.01)
    assert laws["decoder", "params"]["alpha"] == pytest.approx(0.36, abs=0.01)
    assert laws["encoder", "tokens"]["alpha"] == pytest.approx(0.1, abs=0.01)
    assert (said["architecture"], said["first"]) == ("encoder", "params")
    json.dumps(said, allow_nan=False)


def test_steeper_data_comes_first_and_a_varying_horizon_takes_a_decoder(tmp_path):
    said = answer(table(tmp_path, alpha=0.05, beta=0.3), horizon="varying")
    assert (said.advice.architecture, said.advice.first) == ("decoder", "data")
    report = said.report()
    assert report.title == "Build a decoder; more data first"
    assert any(
        "less that of encoder, both without a floor: +0.010" in note for note in report.notes
    )
    assert len(report.tables[0].rows) == 4


def test_negative_losses_without_an_offset_are_refused(tmp_path):
    with pytest.raises(SpecError, match="runs.csv: nll is -1.*until an offset"):
        answer(table(tmp_path), offset=0.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target": "nll"}, "--target 'nll': expected one of id-nll"),
        ({"horizon": "-3"}, "--horizon '-3': expected one of fixed, varying"),
        ({"loss": "mape"}, "column mape missing"),
    ],
)
def test_options_that_are_none_are_refused(tmp_path, changed, words):
    with pytest.raises(SpecError, match=words):
        answer(table(tmp_path), **changed)
