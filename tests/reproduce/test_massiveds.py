"""The catalog entry of MassiveDS; its store, choices and law are tested on their own."""

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.facts_world import CHUNK_WORDS, FactsWorld
from plimsoll.catalog.massiveds import SYSTEM
from plimsoll.catalog.massiveds_real import SIZES, STEPS, cell, models, prompts, world_of
from plimsoll.catalog.massiveds_runs import read_store_runs, table_of
from plimsoll.catalog.verdicts import run_system
from plimsoll.data.documents import chunks_of
from plimsoll.data.near_duplicates import grams
from plimsoll.data.retrieve import Decontaminate, postprocess


def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 5


def test_a_world_states_its_facts_a_chunk_each() -> None:
    world = FactsWorld(3)
    chunks = [c.text for d in world.documents for c in chunks_of(d, CHUNK_WORDS)]
    facts = {f"{t}: {p}." for p, t in zip(world.people, world.answers, strict=True)}
    assert {" ".join(text.split()[2:]) for text in chunks} <= facts
    assert 0.8 * len(facts) < len({" ".join(t.split()[2:]) for t in chunks}) < len(facts)
    assert len(set(world.names)) == 350 and len(world.learnable) == 30
    assert FactsWorld(3).documents == world.documents
    stated = {gram for text in chunks for gram in grams(text)}
    assert not any(grams(item) & stated for item in world.quiz)


def test_a_planted_quiz_item_is_found_and_taken_out() -> None:
    world = FactsWorld(0)
    store = world.store(leaks=0.2)
    leaked = [i for i, one in enumerate(store.ids) if one.startswith("quiz")]
    assert 30 < len(leaked) < 90
    people = [int(store.ids[i].removeprefix("quiz").removesuffix("#0")) for i in leaked]
    wide = store.search([world.people[p] for p in people], 40)
    rule = Decontaminate(held_out=[world.quiz[p] for p in people])
    found = {
        name: postprocess(wide, store, decontaminate=one, k=40).chunks
        for name, one in (("off", None), ("on", rule))
    }
    assert all(leak in row for leak, row in zip(leaked, found["off"], strict=True))
    assert not any(leak in row for leak, row in zip(leaked, found["on"], strict=True))
    assert all(len(a) == len(b) + 1 for a, b in zip(found["off"], found["on"], strict=True))


def test_prompts_are_the_chunks_and_the_question_with_the_best_chunk_last() -> None:
    world = world_of(0)
    store = world.store()
    row = tuple(range(3))
    (tokens, *_) = prompts(world, store, [row] * len(world.people))
    said = [world.tokens(store.texts[i]) for i in row]
    assert tokens == [*said[2], *said[1], *said[0], *world.tokens(world.questions[0])]
    assert prompts(world, None, [()] * len(world.people))[0] == world.tokens(world.questions[0])


def test_the_stored_table_is_whole_and_says_where_it_is_from() -> None:
    runs = read_store_runs()
    assert runs.script == "scripts/write_store_runs.py" and "torch" in runs.made_with
    assert len(runs.rows) == len(SIZES) * 3 * len(STEPS) * 6
    assert {r.seed for r in runs.rows} == {0, 1, 2} and {r.width for r in runs.rows} == set(SIZES)
    table = table_of(runs)
    assert len(table) == len(runs.rows) and (table.columns["datastore"] == 0).sum() == 36


def test_training_is_the_same_every_time_and_a_store_of_nothing_is_the_model_alone() -> None:
    first, again = (models.__wrapped__(32, 0, (4,))[0] for _ in range(2))
    one, two = cell(first, 0, 0.0), cell(again, 0, 0.0)
    assert one.loss == two.loss and (one.right == two.right).all()
    assert one.prompt_tokens == 2.0


@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context()))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
