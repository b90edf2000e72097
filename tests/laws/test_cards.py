"""Cards: whole, true to their forms, to the catalog and to the command line; examples run."""

import dataclasses
import json
import shlex

import numpy as np
import pytest

from plimsoll.api.laws import list_laws, show_law
from plimsoll.catalog import SYSTEMS
from plimsoll.laws.cards import CARDS, card_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.hyper import STEP_LAW, suggest
from plimsoll.laws.law import PUBLISHED
from plimsoll.spec.errors import SpecError
from scripts.check_docs import ROOT, problem
from tests.command_line import plimsoll

WIDEST = 80


@pytest.mark.parametrize("name", CARDS)
def test_nothing_is_left_open(name):
    card = CARDS[name]
    for part in dataclasses.fields(card):
        if part.type is str or part.type == "str":
            value = getattr(card, part.name)
            assert value.rstrip("\n") == value.strip()
            assert value or part.name in ("command", "example")
    assert card.inputs
    assert all(one.meaning for one in (*card.inputs, *card.parameters))
    symbols = [one.name for one in (*card.inputs, *card.parameters)]
    assert len(set(symbols)) == len(symbols)


@pytest.mark.parametrize("name", CARDS)
def test_modules_and_systems_exist(name):
    card = CARDS[name]
    assert (ROOT / "plimsoll" / card.module).is_file()
    for system, claims in card.evidence.items():
        assert set(claims) <= {claim.id for claim in SYSTEMS[system].claims}


@pytest.mark.parametrize("name", [n for n, card in CARDS.items() if card.command])
def test_commands_exist(name):
    words = shlex.split(CARDS[name].command)
    assert words[0] == "plimsoll"
    assert not problem(words[1:])


@pytest.mark.parametrize("name", [n for n, card in CARDS.items() if card.example])
def test_examples_run(name, capsys):
    exec(compile(CARDS[name].example, name, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_form_and_every_published_law_has_a_card():
    assert set(FORMS) < set(CARDS)
    for name, law in PUBLISHED.items():
        card = card_of(name)
        assert card.name == law.form.name and card.formula == law.form.formula
        assert name in {one.name for one in card.published}
    for name, form in FORMS.items():
        card = CARDS[name]
        assert card.not_for == form.leaves_out and card.source == form.source
        theta = np.array([c.high for c in form.coordinates])
        assert {one.name for one in card.parameters} == set(form.named(theta))
        assert [(one.low, one.high) for one in card.parameters] == [
            (c.low, c.high) for c in form.coordinates
        ]


def test_the_constants_of_step_law_give_its_advice():
    values = card_of("step-law").published[0].values
    n, d = 1e9, 1e11
    assert suggest(n, d, seq_len=2048).lr == pytest.approx(
        values["a"] * n ** values["b"] * d ** values["c"]
    )
    batch = values["d"] * n ** values["f"] * d ** values["e"]
    assert STEP_LAW.batch(n, d) == pytest.approx(batch)


def test_an_unknown_law_is_refused_with_the_nearest_names():
    with pytest.raises(SpecError, match="Did you mean farseer"):
        card_of("farsear")


def test_the_list_names_all_of_them_within_the_page():
    done = plimsoll("laws", "list")
    assert done.code == 0
    for name in (*CARDS, *PUBLISHED):
        assert any(line.startswith(f"{name} ") for line in done.out.splitlines()), name
    assert max(map(len, done.out.splitlines())) <= WIDEST
    data = json.loads(plimsoll("laws", "list", "--json").out)
    assert data == list_laws().data()
    assert [law["name"] for law in data["laws"]] == list(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_shown_whole_within_the_page(name):
    done = plimsoll("laws", "list", name)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= WIDEST
    card = CARDS[name]
    shown = " ".join(done.out.split())
    assert card.title in shown
    assert all(" ".join(line.split()) in shown for line in card.formulas)
    for words in ("predicts", "gradient", "fitted on", "not for", "source", card.module):
        assert words in shown
    assert json.loads(plimsoll("laws", "list", name, "--json").out) == show_law(name).data()


def test_a_published_law_shows_the_card_of_its_form():
    assert plimsoll("laws", "list", "chinchilla-original").out == (
        plimsoll("laws", "list", "chinchilla").out
    )
    refused = plimsoll("laws", "list", "chinchila")
    assert refused.code == 2 and "Did you mean chinchilla" in refused.err
    assert "Traceback" not in refused.err and refused.err.count("\n") == 1
