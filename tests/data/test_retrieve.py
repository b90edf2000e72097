"""Choosing from one wide retrieval: the same as searching the smaller store, and what is hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.data.datastore import Datastore, Shard
from plimsoll.data.embed import HashedEncoder
from plimsoll.data.near_duplicates import grams, jaccard, representatives
from plimsoll.data.retrieve import (
    AmongResults,
    Decontaminate,
    Lexical,
    Representatives,
    Subsample,
    draws,
    postprocess,
    prompt,
    shortfall,
    sweep,
)
from plimsoll.spec.errors import SpecError

RNG = np.random.default_rng(0)
WORDS = [f"w{n}" for n in range(80)]
LONG = [" ".join(RNG.choice(WORDS, 40)) for _ in range(40)]


def store_of(texts, *, num_shards=3):
    encoder = HashedEncoder(64)
    vectors = encoder.encode(texts)
    ids = [f"c{n:04d}" for n in range(len(texts))]
    parts = np.array_split(np.arange(len(texts)), num_shards)
    shards = [
        Shard([ids[i] for i in p], [texts[i] for i in p], vectors[p], name=str(n))
        for n, p in enumerate(parts)
    ]
    return Datastore(shards, encoder)


def named(store, selected):
    return [[store.ids[c] for c in row] for row in selected.chunks]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), fraction=st.sampled_from([0.03, 0.1, 0.3, 0.7, 1.0]))
def test_subsampling_results_is_subsampling_the_store_unless_flagged(seed, fraction):
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 6)) for n in range(400)]
    store = store_of(texts)
    queries = texts[seed : seed + 12]
    wide = store.search(queries, 60)
    found = postprocess(wide, store, subsample=Subsample(fraction=fraction, seed=seed), k=3)
    smaller = store.kept(draws(store.ids, seed) < fraction)
    searched = smaller.search(queries, 3).chunks
    for ours, row, short in zip(named(store, found), searched, found.short, strict=True):
        theirs = [smaller.ids[c] for c in row if c >= 0]
        assert ours == theirs or short
        assert ours == theirs[: len(ours)]


def test_a_chunk_is_in_the_smaller_store_for_every_query_or_for_none():
    store = store_of(LONG)
    wide = store.search(LONG, 40)
    for fraction in (0.2, 0.5):
        found = postprocess(wide, store, subsample=Subsample(fraction=fraction, seed=1), k=40)
        assert len({frozenset(row) for row in found.chunks}) == 1
    small, large = (
        set(postprocess(wide, store, subsample=Subsample(fraction=f, seed=1), k=40).chunks[0])
        for f in (0.2, 0.5)
    )
    assert small < large
    other = postprocess(wide, store, subsample=Subsample(fraction=0.5, seed=2), k=40)
    assert set(other.chunks[0]) != large


def test_draws_are_even_and_belong_to_the_id():
    ids = [f"chunk{n}" for n in range(20_000)]
    found = draws(ids, 0)
    assert (found >= 0).all() and (found < 1).all()
    assert abs((found < 0.1).mean() - 0.1) < 0.01
    assert np.array_equal(draws(ids[::-1], 0), found[::-1])
    assert abs(np.corrcoef(found, draws(ids, 1))[0, 1]) < 0.03


def test_shortfall_is_the_binomial_tail():
    assert shortfall(1000, 0.01, 3) == pytest.approx(2.7e-3, rel=0.03)
    assert shortfall(1000, 0.005, 3) == pytest.approx(0.12, rel=0.05)
    assert shortfall(1000, 0.003, 3) == pytest.approx(0.42, rel=0.02)
    assert 0 < shortfall(1000, 0.1, 3) < 1e-40


def test_too_few_survivors_are_flagged_counted_and_used():
    store = store_of(LONG[:5])
    found = postprocess(
        store.search(LONG[:4], 5), store, subsample=Subsample(fraction=0.3, seed=2), k=3
    )
    left = (draws(store.ids, 2) < 0.3).sum()
    assert 0 < left < 3
    assert found.short.all() and (found.survivors == left).all()
    assert all(len(row) == left for row in found.chunks)
    whole = postprocess(store.search(LONG[:4], 5), store, k=3)
    assert not whole.short.any() and (whole.survivors == 5).all()


def test_filters_work_on_all_results_and_not_on_the_last_k():
    """Three copies on top: k is taken after they are gone."""
    texts = [LONG[0]] * 4 + LONG[1:20]
    store = store_of(texts)
    wide = store.search([LONG[0]], 20)
    assert set(wide.chunks[0, :4]) == {0, 1, 2, 3}
    stands = representatives(store.texts)
    for rule in (Representatives(stands=stands), AmongResults()):
        found = postprocess(wide, store, dedupe=rule, k=3)
        assert len(found.chunks[0]) == 3 and found.chunks[0][0] == 0
        assert not set(found.chunks[0]) & {1, 2, 3}
        assert not found.short.any()
    hidden = postprocess(wide, store, decontaminate=Decontaminate(held_out=[LONG[0]]), k=3)
    assert len(hidden.chunks[0]) == 3 and not set(hidden.chunks[0]) & {0, 1, 2, 3}


def test_representatives_commute_with_subsampling_and_copies_among_results_do_not():
    texts = [text for text in LONG[:20] for _ in range(3)]
    store = store_of(texts)
    stands = representatives(store.texts)
    wide = store.search(LONG[:20], 60)
    differ = {"store": 0, "results": 0}
    for seed in range(5):
        rule = Subsample(fraction=0.5, seed=seed)
        drawn = draws(store.ids, seed) < 0.5
        for name, dedupe, keep in (
            ("store", Representatives(stands=stands), drawn & (stands == np.arange(60))),
            ("results", AmongResults(), drawn),
        ):
            found = named(store, postprocess(wide, store, dedupe=dedupe, subsample=rule, k=3))
            smaller = store.kept(keep)
            again = postprocess(
                smaller.search(LONG[:20], 60),
                smaller,
                dedupe=AmongResults() if name == "results" else None,
                k=3,
            )
            differ[name] += sum(a != b for a, b in zip(found, named(smaller, again), strict=True))
    assert differ["store"] == 0
    assert differ["results"] > 0


def test_the_answer_is_hidden_and_not_only_the_question():
    question, answer = " ".join(WORDS[:20]), " ".join(WORDS[30:64])
    texts = [f"so it goes {answer} and on", f"they ask {question} at times", *LONG[:8]]
    store = store_of(texts)
    wide = store.search([question + " " + answer], 10)
    both = postprocess(
        wide, store, decontaminate=Decontaminate(held_out=[f"{question} {answer}"]), k=10
    )
    only = postprocess(wide, store, decontaminate=Decontaminate(held_out=[question]), k=10)
    assert 0 not in both.chunks[0]
    assert 0 in only.chunks[0]


def test_runs_and_similarity_decide_what_is_a_leak():
    item = " ".join(WORDS[:40])
    texts = [
        "before " + " ".join(WORDS[3:35]) + " " + " ".join(WORDS[60:80]),  # a run of 32
        "before " + " ".join(WORDS[3:34]) + " " + " ".join(WORDS[60:80]),  # of 31
        " ".join(WORDS[:20]) + " oh " + " ".join(WORDS[20:40]),  # no run, similarity 16/40
    ]
    store = store_of(texts, num_shards=1)
    wide = store.search([item], 3)
    found = postprocess(wide, store, decontaminate=Decontaminate(held_out=[item]), k=3)
    assert sorted(found.chunks[0]) == [1, 2]
    strict = Decontaminate(held_out=[item], similar=0.2)
    assert sorted(postprocess(wide, store, decontaminate=strict, k=3).chunks[0]) == []
    short = Decontaminate(held_out=["w3 w4 w5 w6 w7 w8"])  # as a whole, wherever it stands
    assert postprocess(wide, store, decontaminate=short, k=3).chunks[0] == ()


def test_decontamination_commutes_with_subsampling():
    store = store_of(LONG)
    wide = store.search(LONG[:10], 40)
    rule = Decontaminate(held_out=LONG[:10])
    keep = draws(store.ids, 4) < 0.5
    found = postprocess(
        wide, store, decontaminate=rule, subsample=Subsample(fraction=0.5, seed=4), k=3
    )
    smaller = store.kept(keep)
    again = postprocess(smaller.search(LONG[:10], 40), smaller, decontaminate=rule, k=3)
    assert named(store, found) == named(smaller, again)


def test_a_reranker_sees_all_survivors():
    store = store_of(LONG)
    wide = store.search(LONG[:1], 40)
    last = int(wide.chunks[0, -1])
    target = store.texts[last]
    found = postprocess(wide, store, rerank=Lexical(targets=[target]), k=3)
    assert found.chunks[0][0] == last
    plain = postprocess(wide, store, k=3)
    assert plain.chunks[0] == tuple(wide.chunks[0, :3])


def test_a_sweep_is_postprocess_at_every_fraction_and_seed():
    store = store_of([*LONG, *LONG[:5]])
    wide = store.search(LONG[:6], 45)
    filters = {
        "dedupe": Representatives(stands=representatives(store.texts)),
        "decontaminate": Decontaminate(held_out=LONG[:6]),
    }
    found = sweep(wide, store, (0.2, 0.6, 1.0), (0, 1), k=3, **filters)
    assert len(found) == 6
    for (fraction, seed), one in found.items():
        rule = Subsample(fraction=fraction, seed=seed)
        assert one.chunks == postprocess(wide, store, subsample=rule, k=3, **filters).chunks


def test_the_best_chunk_stands_nearest_to_the_question():
    assert prompt("q", ["best", "second", "worst"]) == "worst\nsecond\nbest\nq"


def test_what_cannot_be_chosen_is_said():
    store = store_of(LONG)
    wide = store.search(LONG[:2], 5)
    with pytest.raises(SpecError, match="6 chunks of 5 results"):
        postprocess(wide, store, k=6)
    with pytest.raises(SpecError, match="a fraction of 0"):
        postprocess(wide, store, subsample=Subsample(fraction=0))
    with pytest.raises(SpecError, match="1 held-out texts of 2 queries"):
        postprocess(wide, store, decontaminate=Decontaminate(held_out=["x"]))
    with pytest.raises(SpecError, match="a held-out text without words"):
        postprocess(wide, store, decontaminate=Decontaminate(held_out=["x", "?!"]))
    with pytest.raises(SpecError, match="3 texts to rerank by of 2 queries"):
        postprocess(wide, store, rerank=Lexical(targets=["a", "b", "c"]))
    with pytest.raises(SpecError, match="representatives of 3 chunks, a store of 40"):
        postprocess(wide, store, dedupe=Representatives(stands=np.arange(3)))


def test_an_empty_store_gives_nothing_and_flags_it():
    empty = Datastore([Shard([], [], np.empty((0, 64), dtype=np.float32))], HashedEncoder(64))
    found = postprocess(
        empty.search(["w1"], 4),
        empty,
        dedupe=Representatives(stands=np.empty(0, dtype=np.int64)),
        subsample=Subsample(fraction=0.5),
    )
    assert found.chunks == ((),) and found.short.all()


@settings(max_examples=25, deadline=None)
@given(swaps=st.integers(0, 30), seed=st.integers(0, 50))
def test_near_duplicates_are_those_above_the_similarity(swaps, seed):
    rng = np.random.default_rng(seed)
    base = list(rng.choice(WORDS, 200))
    other = list(base)
    for at in rng.choice(200, swaps, replace=False):
        other[at] = "zz"
    pair = [" ".join(base), " ".join(other)]
    similar = jaccard(grams(pair[0]), grams(pair[1]))
    assert representatives(pair)[1] == (0 if similar > 0.8 else 1)


def test_grams_are_runs_of_words():
    assert len(grams(" ".join(WORDS[:15]))) == 3
    assert grams("One, two") == grams("one two") and len(grams("one")) == 1
    assert grams(" ") == frozenset() and jaccard(frozenset(), frozenset()) == 0
