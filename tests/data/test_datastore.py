"""Exact search over shards, and builds that stop half-way."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.data.datastore import Datastore, Hits, Shard, merge
from plimsoll.data.datastore_build import build, open_datastore
from plimsoll.data.documents import Document, chunks_of, read_documents
from plimsoll.data.embed import HashedEncoder
from plimsoll.spec.errors import SpecError, UnsupportedError

WORDS = [f"w{n}" for n in range(60)]


def texts_of(num, *, seed=0, length=8):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) for _ in range(num)]


def documents_of(num, **more):
    return [Document(id=f"d{n}", text=text) for n, text in enumerate(texts_of(num, **more))]


class Vectors:
    """An encoder for vectors made by hand."""

    def __init__(self, dim):
        self.dim = dim
        self.settings = {"kind": "by hand", "dim": dim}

    def encode(self, texts):
        return np.zeros((len(texts), self.dim), dtype=np.float32)


def split(vectors, num_shards, *, ids=None):
    ids = ids or [f"c{n:05d}" for n in range(len(vectors))]
    order = np.random.default_rng(1).permutation(len(vectors))
    parts = np.array_split(order, num_shards)
    shards = [
        Shard([ids[i] for i in part], ["" for _ in part], vectors[part], name=f"shard {n}")
        for n, part in enumerate(parts)
    ]
    return Datastore(shards, Vectors(vectors.shape[1]))


def by_definition(vectors, queries, num):
    """Top K of chunks numbered in id order, ties by number."""
    scores = np.stack([(vectors.astype(float) * q.astype(float)).sum(axis=1) for q in queries])
    order = np.stack([np.lexsort((np.arange(len(vectors)), -row)) for row in scores])[:, :num]
    return order, np.take_along_axis(scores, order, axis=1)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num=st.integers(1, 300),
    shards=st.integers(1, 7),
    wide=st.integers(1, 60),
    ties=st.booleans(),
)
def test_shards_give_what_one_index_and_the_definition_give(seed, num, shards, wide, ties):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num, 16)).astype(np.float32)
    if ties:
        vectors = vectors[rng.integers(0, min(num, 5), num)]
    queries = rng.normal(size=(9, 16)).astype(np.float32)
    one, many = (split(vectors, n).search(queries, wide) for n in (1, shards))
    assert np.array_equal(one.chunks, many.chunks)
    assert one.scores.tobytes() == many.scores.tobytes()
    chunks, scores = by_definition(vectors, queries, wide)
    assert np.array_equal(one.chunks[:, :num], chunks)
    assert np.array_equal(one.scores[:, :num], scores)
    assert (one.chunks[:, num:] == -1).all() and (one.scores[:, num:] == -np.inf).all()


def test_scores_closer_than_single_precision_are_told_apart():
    """Sums of 256 numbers that differ in the last bit: FAISS alone orders them by chance."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=256).astype(np.float32)
    vectors = np.repeat(base[None], 2000, axis=0)
    place = rng.integers(0, 256, 2000)
    vectors[np.arange(2000), place] = np.nextafter(base[place], np.float32(9))
    query = rng.normal(size=(1, 256)).astype(np.float32)
    found = split(vectors, 4).search(query, 50)
    chunks, scores = by_definition(vectors, query, 50)
    assert np.array_equal(found.chunks, chunks) and np.array_equal(found.scores, scores)
    assert found.distances > 4 * 500 + 4 * (50 + 64)  # the proposal was widened


def test_distances_are_counted():
    vectors = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    found = split(vectors, 2).search(vectors[:3], 10)
    assert found.distances == 3 * (1000 + 2 * (10 + 64))


def test_an_empty_shard_finds_nothing_and_harms_nothing():
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    empty = Shard([], [], np.empty((0, 8), dtype=np.float32), name="empty")
    full = Shard([f"c{n:02d}" for n in range(20)], [""] * 20, vectors)
    both = Datastore([empty, full], Vectors(8)).search(vectors[:2], 5)
    alone = Datastore([full], Vectors(8)).search(vectors[:2], 5)
    assert np.array_equal(both.chunks, alone.chunks)
    nothing = Datastore([empty], Vectors(8)).search(vectors[:2], 5)
    assert (nothing.chunks == -1).all() and nothing.distances == 0


def test_what_cannot_be_searched_is_said():
    vectors = np.eye(8, dtype=np.float32)
    shard = Shard(list("abcdefgh"), [""] * 8, vectors, name="one")
    with pytest.raises(SpecError, match=r"one: queries of shape \(1, 9\), chunks of 8 numbers"):
        shard.search(np.zeros((1, 9), dtype=np.float32), 3)
    with pytest.raises(SpecError, match="0 chunks asked for"):
        shard.search(vectors, 0)
    with pytest.raises(SpecError, match="queries hold values that are no numbers"):
        shard.search(np.full((1, 8), np.nan, dtype=np.float32), 1)
    with pytest.raises(SpecError, match="embeddings hold values that are no numbers"):
        Shard(["a"], [""], np.full((1, 8), np.inf, dtype=np.float32))
    with pytest.raises(SpecError, match=r"embeddings of 2 chunks"):
        Shard(["a", "b"], ["", ""], np.zeros((1, 8), dtype=np.float32))
    with pytest.raises(SpecError, match="chunk a is there twice"):
        Shard(["a", "a"], ["", ""], np.zeros((2, 8), dtype=np.float32))


def test_shards_that_do_not_belong_together():
    eight = Shard(["a", "b"], ["", ""], np.zeros((2, 8), dtype=np.float32), name="first")
    again = Shard(["b"], [""], np.zeros((1, 8), dtype=np.float32), name="second")
    with pytest.raises(SpecError, match="chunk b is in first and in second"):
        Datastore([eight, again], Vectors(8))
    wide = Shard(["c"], [""], np.zeros((1, 16), dtype=np.float32), name="wide")
    with pytest.raises(SpecError, match="wide: embeddings of 16 numbers, the encoder gives 8"):
        Datastore([eight, wide], Vectors(8))
    with pytest.raises(SpecError, match="without shards"):
        Datastore([], Vectors(8))
    with pytest.raises(SpecError, match="different numbers of queries"):
        merge(
            [
                Hits(chunks=np.zeros((n, 1), dtype=np.int64), scores=np.zeros((n, 1)), distances=0)
                for n in (1, 2)
            ],
            1,
        )


def test_faiss_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    shard = Shard(["a"], [""], np.ones((1, 8), dtype=np.float32))
    with pytest.raises(UnsupportedError, match=r"plimsoll\[retrieval\]"):
        shard.search(np.ones((1, 8), dtype=np.float32), 1)


def test_chunks_hold_every_word_once():
    text = "  one two\nthree  four five "
    found = chunks_of(Document(id="d", text=text), 2)
    assert [(c.id, c.text) for c in found] == [
        ("d#0", "one two"),
        ("d#1", "three four"),
        ("d#2", "five"),
    ]
    assert chunks_of(Document(id="d", text=" \n")) == []
    long = Document(id="d", text=" ".join(texts_of(100)))
    assert [len(c.text.split()) for c in chunks_of(long)] == [256, 256, 256, 32]


class Failing:
    """An encoder that breaks after so many shards, and counts what it embeds."""

    def __init__(self, shards):
        self.inner, self.left, self.done = HashedEncoder(32), shards, 0
        self.dim, self.settings = 32, self.inner.settings

    def encode(self, texts):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.done += len(texts)
        return self.inner.encode(texts)


def test_a_build_goes_on_where_it_stopped_without_doing_anything_twice(tmp_path):
    documents = [*documents_of(50), Document(id="blank", text=" ")]
    first = Failing(2)
    with pytest.raises(KeyboardInterrupt):
        build(documents, tmp_path / "a", first, shard_chunks=12)
    (tmp_path / "a" / "shard-00002.partial").mkdir()  # cut off while writing
    with pytest.raises(SpecError, match="its build was interrupted"):
        open_datastore(tmp_path / "a", HashedEncoder(32))
    second = Failing(99)
    done = build(documents, tmp_path / "a", second, shard_chunks=12)
    assert (done.shards, done.chunks, done.resumed, done.empty_documents) == (5, 50, 2, 1)
    assert second.done == 50 - first.done == 26
    build(documents, tmp_path / "b", HashedEncoder(32), shard_chunks=12)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*"))
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*"))
    for name in files:
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = open_datastore(tmp_path / "a", HashedEncoder(32))
    assert sorted(found.ids) == sorted(f"d{n}#0" for n in range(50))
    assert found.search([documents[7].text], 1).chunks[0, 0] == found.ids.index("d7#0")


def test_a_build_is_not_resumed_with_something_else(tmp_path):
    documents = documents_of(20)
    build(documents, tmp_path / "a", HashedEncoder(32), shard_chunks=8)
    with pytest.raises(SpecError, match="begun with another shard_chunks"):
        build(documents, tmp_path / "a", HashedEncoder(32), shard_chunks=9)
    with pytest.raises(SpecError, match="begun with another encoder"):
        build(documents, tmp_path / "a", HashedEncoder(32, seed=1), shard_chunks=8)
    with pytest.raises(SpecError, match="shard-00000: was built from other documents"):
        build(documents_of(20, seed=3), tmp_path / "a", HashedEncoder(32), shard_chunks=8)
    with pytest.raises(SpecError, match="shard-00002: was built from other documents"):
        build(documents[:16], tmp_path / "a", HashedEncoder(32), shard_chunks=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("")
    with pytest.raises(SpecError, match="holds other files"):
        build(documents, tmp_path / "full", HashedEncoder(32), shard_chunks=8)


def test_a_store_is_opened_whole_and_with_its_encoder(tmp_path):
    build(documents_of(9), tmp_path / "a", HashedEncoder(32), shard_chunks=5)
    with pytest.raises(SpecError, match="built with another encoder"):
        open_datastore(tmp_path / "a", HashedEncoder(64))
    with pytest.raises(SpecError, match=r"no build\.json"):
        open_datastore(tmp_path, HashedEncoder(32))
    chunks = tmp_path / "a" / "shard-00001" / "chunks.jsonl"
    chunks.write_text(chunks.read_text().replace("w1", "w2"))
    with pytest.raises(SpecError, match=r"shard-00001/chunks\.jsonl: is not as written"):
        open_datastore(tmp_path / "a", HashedEncoder(32))


@pytest.mark.parametrize(
    ("name", "says"),
    [("build.json", "built with another encoder"), ("datastore.json", "shards is None; expected")],
)
def test_a_store_whose_own_files_lack_something_is_refused(tmp_path, name, says):
    build(documents_of(9), tmp_path / "a", HashedEncoder(32), shard_chunks=5)
    (tmp_path / "a" / name).write_text("{}")
    with pytest.raises(SpecError, match=says):
        open_datastore(tmp_path / "a", HashedEncoder(32))


def test_documents_that_cannot_be_built(tmp_path):
    twice = [Document(id="a", text="x", where="f line 1"), Document(id="a", text="y", where="g")]
    with pytest.raises(SpecError, match="g: id a stands at f line 1 too"):
        build(twice, tmp_path / "a", HashedEncoder(32), shard_chunks=5)
    with pytest.raises(SpecError, match="0 documents and no word in them"):
        build([], tmp_path / "b", HashedEncoder(32), shard_chunks=5)
    with pytest.raises(SpecError, match="shard_chunks is 0"):
        build(documents_of(2), tmp_path / "c", HashedEncoder(32), shard_chunks=0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": "b"', "is no JSON"),
        (b'["b"]', "has no text"),
        (b'{"id": "x"}', "has no text"),
        (b'{"id": [], "text": "b"}', "id is "),
        (b'{"text": "\xff"}', "byte 10 is not UTF-8"),
    ],
)
def test_an_unreadable_line_is_named_by_file_and_line(tmp_path, line, says):
    file = tmp_path / "part.jsonl"
    file.write_bytes(b'{"id": "a", "text": "one"}\n\n' + line + b"\n")
    with pytest.raises(SpecError, match=rf"part\.jsonl line 3: {says}"):
        list(read_documents([file]))


def test_documents_are_read_in_order(tmp_path):
    file = tmp_path / "part.jsonl"
    file.write_text("".join(json.dumps(d) + "\n" for d in ({"id": 7, "text": "é"}, {"text": "b"})))
    assert [(d.id, d.text) for d in read_documents([file])] == [("7", "é"), ("part.jsonl:2", "b")]
    with pytest.raises(SpecError, match="cannot be read"):
        list(read_documents([tmp_path / "none.jsonl"]))
