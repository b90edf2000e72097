"""200,000 chunks of made-up words, a thousand queries, and the searches that checks share.

Words follow a power law; a query is ten words of a chunk drawn at random among words of its own,
so that there is something to find. One chunk in twenty is a copy of another, as in any crawl, so
that scores tie. The store is cut into eight shards and also kept whole.
"""

import functools
from dataclasses import dataclass

import numpy as np

from plimsoll.data.datastore import Datastore, Hits, Shard, faiss_library
from plimsoll.data.embed import HashedEncoder

__all__ = ["CHUNKS", "QUERIES", "SHARDS", "WIDE", "Searched", "searched", "single_precision"]

CHUNKS = 200_000
SHARDS = 8
QUERIES = 1000
WIDE = 1000
_WORDS, _LENGTH, _DIM = 20_000, 16, 128
_FROM_CHUNK, _OWN = 10, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The store in shards and whole, queries [q, d], and what both gave."""

    store: Datastore
    whole: Datastore
    queries: np.ndarray
    sharded: Hits
    single: Hits


def _texts(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """(chunks, queries)."""
    chances = 1 / (10 + np.arange(_WORDS))
    drawn = rng.choice(_WORDS, (CHUNKS, _LENGTH), p=chances / chances.sum())
    copies, of = rng.choice(CHUNKS, (2, CHUNKS // 20), replace=False)
    drawn[copies] = drawn[of]
    names = np.array([f"w{n}" for n in range(_WORDS)])
    about = rng.choice(CHUNKS, QUERIES, replace=False)
    own = rng.choice(_WORDS, (QUERIES, _OWN), p=chances / chances.sum())
    asked = np.concatenate([drawn[about, :_FROM_CHUNK], own], axis=1)
    return [" ".join(row) for row in names[drawn]], [" ".join(row) for row in names[asked]]


@functools.cache
def searched(seed: int) -> Searched:
    """Everything of a seed, made once."""
    texts, queries = _texts(np.random.default_rng(seed))
    encoder = HashedEncoder(_DIM, seed=seed, pairs=False)
    vectors = encoder.encode(texts)
    ids = [f"chunk{n:06d}" for n in range(CHUNKS)]
    shards = [
        Shard(ids[at::SHARDS], texts[at::SHARDS], vectors[at::SHARDS], name=f"shard {at}")
        for at in range(SHARDS)
    ]
    store = Datastore(shards, encoder)
    whole = Datastore([Shard(ids, texts, vectors, name="whole")], encoder)
    asked = encoder.encode(queries)
    return Searched(
        store=store,
        whole=whole,
        queries=asked,
        sharded=store.search(asked, WIDE),
        single=whole.search(asked, WIDE),
    )


def single_precision(one: Searched) -> tuple[Hits, Hits]:
    """(shards merged, whole) as FAISS itself scores and orders."""
    found = []
    for store in (one.store, one.whole):
        parts = []
        number = {name: at for at, name in enumerate(store.ids)}
        for shard in store.shards:
            index = faiss_library().IndexFlatIP(shard.dim)
            index.add(shard.vectors)
            scores, rows = index.search(one.queries, WIDE)
            numbers = np.array([number[name] for name in shard.ids])
            parts.append((scores.astype(np.float64), numbers[rows]))
        scores = np.concatenate([part[0] for part in parts], axis=1)
        chunks = np.concatenate([part[1] for part in parts], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :WIDE]
        found.append(
            Hits(
                chunks=np.take_along_axis(chunks, order, axis=1),
                scores=np.take_along_axis(scores, order, axis=1),
                distances=len(one.queries) * CHUNKS,
            )
        )
    return found[0], found[1]
