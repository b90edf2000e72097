"""Exactness and cost of one wide retrieval: what the checks of MassiveDS measure on 200,000 chunks.

The store, its queries and its searches are those of ``catalog/massiveds_setting.py``.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.catalog.contract import Context, Measured
from plimsoll.catalog.massiveds_setting import (
    CHUNKS,
    QUERIES,
    SHARDS,
    WIDE,
    searched,
    single_precision,
)
from plimsoll.data.datastore import Datastore, Hits
from plimsoll.data.retrieve import Selected, Subsample, draws, postprocess, shortfall, sweep

__all__ = ["agreeing", "merged", "swept"]

Compute = Callable[[Context], Measured]

_K = 3
_SWEPT = (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
_SWEPT_QUERIES = 100


def merged(rescored: bool) -> Compute:
    """Share of queries whose top K, scores included, are the same bits in shards and whole."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        many, whole = (one.sharded, one.single) if rescored else single_precision(one)
        same = (many.chunks == whole.chunks).all(axis=1) & (
            many.scores.view(np.int64) == whole.scores.view(np.int64)
        ).all(axis=1)
        ties = int((np.diff(whole.scores, axis=1) == 0).sum())
        return Measured(
            value=float(same.mean()),
            detail=f"{CHUNKS:,} chunks, {SHARDS} shards, {QUERIES:,} queries, K = {WIDE:,}; "
            f"{ties:,} neighbors with equal scores",
        )

    return compute


def agreeing(fraction: float, what: str, how: str = "hash") -> Compute:
    """``what`` "same": share of queries that get what a rebuilt smaller store gives; "flags": share
    whose flag says whether they do. ``how``: "hash" of chunk ids, a "fresh" draw a query, or the
    "last" k filtered in place of the K."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        values, lines = [], []
        for seed in context.seeds:
            keep = draws(one.store.ids, seed) < fraction
            smaller = one.store.kept(keep)
            rebuilt = np.flatnonzero(keep)[smaller.search(one.queries, _K).chunks]
            found = _chosen(one.sharded, one.store, fraction, seed, how)
            same = np.array(
                [list(a) == b for a, b in zip(found.chunks, rebuilt.tolist(), strict=True)]
            )
            values.append(float((same != found.short).mean() if what == "flags" else same.mean()))
            lines.append(f"{int(found.short.sum())} flagged, {int((~same).sum())} differ")
        expected = QUERIES * shortfall(WIDE, fraction, _K)
        return Measured(
            value=float(np.mean(values)),
            values=tuple(values),
            detail=f"p = {fraction:g}, k = {_K} of K = {WIDE:,}, {QUERIES:,} queries a seed: "
            f"{'; '.join(lines)}; the binomial tail expects {expected:.3g}",
        )

    return compute


def _chosen(hits: Hits, store: Datastore, fraction: float, seed: int, how: str) -> Selected:
    if how == "hash":
        rule = Subsample(fraction=fraction, seed=seed)
        return postprocess(hits, store, subsample=rule, k=_K)
    if how == "last":
        last = Hits(chunks=hits.chunks[:, :_K], scores=hits.scores[:, :_K], distances=0)
        return postprocess(last, store, subsample=Subsample(fraction=fraction, seed=seed), k=_K)
    kept = np.random.default_rng(seed).random(hits.chunks.shape) < fraction
    chosen = tuple(
        tuple(row[mask][:_K].tolist()) for row, mask in zip(hits.chunks, kept, strict=True)
    )
    survivors = kept.sum(axis=1)
    return Selected(chunks=chosen, survivors=survivors, short=survivors < _K)


def swept(shared: bool) -> Compute:
    """Distances of a sweep over those of one retrieval, both for the same queries."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        queries = one.queries[:_SWEPT_QUERIES]
        wide = one.store.search(queries, WIDE)
        sweep(wide, one.store, _SWEPT, context.seeds, k=_K)
        rebuilt = 0
        for seed in context.seeds:
            drawn = draws(one.store.ids, seed)
            for fraction in _SWEPT:
                smaller = one.store.kept(drawn < fraction)
                rebuilt += smaller.search(queries, _K).distances
        once = _SWEPT_QUERIES * CHUNKS
        ours, naive = wide.distances / once, rebuilt / once
        return Measured(
            value=ours if shared else naive,
            detail=f"{len(_SWEPT)} fractions x {len(context.seeds)} seeds, {_SWEPT_QUERIES} "
            f"queries over {CHUNKS:,} chunks: {wide.distances:,} distances in one search of the "
            f"shards, {rebuilt:,} in stores rebuilt one by one, {naive / ours:.1f} times as many",
        )

    return compute
