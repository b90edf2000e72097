"""Saturation of a user's pilot: forms, prices, rounds, boundaries, and what is refused."""

import json

import numpy as np
import pytest

from plimsoll.api.laws_saturate import saturate
from plimsoll.laws.saturation import TTSPM, BetaTTSPM, TwoRate
from plimsoll.spec.errors import InfeasibleError, SpecError
from tests.command_line import plimsoll


def pilot(tmp_path, right, *, rounds=False):
    path = tmp_path / "outcomes.csv"
    head = "question,round,correct" if rounds else "question,correct"
    rows = [
        f"q{i},{r + 1},{int(grade)}" if rounds else f"q{i},{int(grade)}"
        for i, grades in enumerate(right)
        for r, grade in enumerate(grades)
    ]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def drawn(p, samples, seed):
    return np.random.default_rng(seed).random((len(p), samples)) < np.asarray(p)[:, None]


def chain(num, p, q, able, rounds, seed):
    rng = np.random.default_rng(seed)
    solvable = rng.random(num) < able
    state, found = np.zeros(num, dtype=bool), []
    for _ in range(rounds):
        state = solvable & (rng.random(num) < np.where(state, 1 - q, p))
        found.append(state)
    return np.stack(found, axis=1)


def test_mixed_questions_take_the_beta_form_and_their_tail(tmp_path):
    p = np.random.default_rng(0).beta(0.5, 2.0, 400)
    answer = saturate(pilot(tmp_path, drawn(p, 8, 1)), epsilon=0.005)
    assert isinstance(answer.model, BetaTTSPM)
    assert answer.held_out["beta"] > answer.held_out["one p"]
    one_p = answer.forms["one p"].saturation(0.005)
    truth = next(n for n in range(500) if (p * (1 - p) ** n).mean() <= 0.005)
    assert abs(answer.saturates - truth) < abs(one_p - truth)
    assert answer.saturates == pytest.approx(truth, rel=0.25)


def test_equal_questions_take_one_p(tmp_path):
    p = np.where(np.random.default_rng(3).random(400) < 0.7, 0.3, 0.0)
    answer = saturate(pilot(tmp_path, drawn(p, 8, 4)), epsilon=0.01)
    assert float(answer.model.curve(32)) == pytest.approx(0.7, abs=0.05)
    assert answer.saturates == pytest.approx(TTSPM(p=0.3, f_max=0.7).saturation(0.01), abs=2)
    assert answer.stop_after is not None


def test_dearer_samples_are_bought_less_and_given_up_earlier(tmp_path):
    p = np.random.default_rng(0).beta(0.5, 2.0, 300)
    path = pilot(tmp_path, drawn(p, 8, 1))
    cheap = saturate(path, value=1.0, price=0.01)
    dear = saturate(path, value=1.0, price=0.05)
    assert dear.worth < cheap.worth and dear.stop_after < cheap.stop_after
    assert cheap.worth == pytest.approx(cheap.saturates, abs=1), "epsilon is price over value"


def test_rounds_that_turn_answers_wrong_are_a_chain_of_two_rates(tmp_path):
    answer = saturate(pilot(tmp_path, chain(300, 0.3, 0.15, 0.8, 6, 0), rounds=True))
    assert isinstance(answer.model, TwoRate)
    assert answer.model.q == pytest.approx(0.15, abs=0.04)
    assert "likelihood ratio" in answer.report().tables[0].notes[-1]
    assert answer.stop_after is None, "rounds have no rule of wrong samples"


def test_rounds_that_keep_answers_are_not(tmp_path):
    answer = saturate(pilot(tmp_path, chain(300, 0.3, 0.0, 0.8, 6, 1), rounds=True))
    assert isinstance(answer.model, TTSPM) and answer.chain.flips == 0
    assert answer.model.p == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(("grade", "why"), [(0, "no sample of 80 is right"), (1, "every sample")])
def test_all_wrong_or_all_right_is_an_interval(tmp_path, grade, why):
    answer = saturate(pilot(tmp_path, np.full((20, 4), grade)))
    assert answer.model is None and answer.saturates is None and why in answer.notes[0]
    low, high = answer.data()["one_p_intervals"]["solved_fraction"]
    assert (low, high) == (0, pytest.approx(0.168, abs=1e-3)) if not grade else high == 1
    assert "gives no point" in answer.report().title


def test_few_questions_are_not_used_to_choose(tmp_path):
    answer = saturate(pilot(tmp_path, drawn([0.5] * 6, 6, 0)))
    assert list(answer.forms) == ["one p"] and "one p only: 6 questions" in answer.notes[0]


def test_samples_that_agree_are_pointed_out(tmp_path):
    right = np.repeat(np.random.default_rng(0).random(60) < 0.5, 4).reshape(60, 4)
    right[0] = [True, False, True, True]
    answer = saturate(pilot(tmp_path, right))
    assert any("temperature of 0?" in note for note in answer.notes)


def test_what_cannot_be_is_refused(tmp_path):
    path = pilot(tmp_path, drawn([0.5] * 20, 4, 0))
    for options, why in (
        ({"epsilon": 0.0}, "--epsilon 0"),
        ({"epsilon": -1.0}, "--epsilon -1"),
        ({"value": 1.0}, "expected both above 0"),
        ({"value": 1.0, "price": -2.0}, "expected both above 0"),
    ):
        with pytest.raises(SpecError, match=why):
            saturate(path, **options)
    with pytest.raises(InfeasibleError, match="a pilot of one"):
        saturate(pilot(tmp_path, drawn([0.5] * 20, 1, 0)))


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pilot(tmp_path, drawn(np.random.default_rng(0).beta(0.5, 2.0, 60), 8, 1))
    done = plimsoll("laws", "saturate", path.name, "--value", "1", "--price", "0.02", "--json")
    assert done.code == 0 and json.loads(done.out)["worth_buying"] >= 1
    text = plimsoll("laws", "saturate", path.name).out
    assert "Give up after" in text and max(map(len, text.splitlines())) <= 80
    path.write_text("question,correct\na,1\na,\n")
    bad = plimsoll("laws", "saturate", path.name)
    assert bad.code == 2 and "line 3: correct is ''" in bad.err and bad.err.count("\n") == 1
