"""What a language model is shown, out of one wide retrieval: everything after the search.

Retrieve a large K once, then choose: drop near-duplicates, drop chunks that give away what the
model is tested on, keep each chunk with probability p by a hash of (its id, a seed), rerank, take
the k best of what is left. All but the last work on the K, so that smaller stores, other seeds and
other filters cost no search. Choosing from the K is the same as searching the smaller store
whenever k of the K are left; queries with fewer are flagged and get what there is.

Duplicates are judged on the whole store, once (``near_duplicates.representatives``), and a smaller
store is a part of the representatives. Judged among the results instead, as ``AmongResults`` does,
a copy goes because of a representative that the smaller store does not have: the two orders differ.
A test text is hidden whole, question with answer or continuation: a chunk that holds only the
answer's part gives it away as well.
Left out: rerankers that are models of their own.
Source: arXiv 2407.12854, section 3 and appendix A.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from plimsoll.data.datastore import Datastore, Hits
from plimsoll.data.embed import words_of
from plimsoll.data.near_duplicates import GRAM_WORDS, SIMILAR, Grams, grams, jaccard
from plimsoll.spec.errors import SpecError

__all__ = [
    "AmongResults",
    "Decontaminate",
    "Lexical",
    "Representatives",
    "Selected",
    "Subsample",
    "draws",
    "postprocess",
    "prompt",
    "shortfall",
    "sweep",
]

RUN_WORDS = 32
Mask = npt.NDArray[np.bool_]
Draws = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Representatives:
    """Keep chunks that stand for themselves. ``stands`` [n]: by number, from the whole store."""

    stands: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AmongResults:
    """Keep of near-duplicates among a query's results the best-scored one."""

    similar: float = SIMILAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontaminate:
    """Drop chunks that share with a query's ``held_out`` text a run of ``run_words`` words, or
    13-word grams with a similarity above ``similar``. A text of fewer words is a run as a whole,
    so it has to be more than an answer of a word or two: question and answer together."""

    held_out: Sequence[str]
    run_words: int = RUN_WORDS
    similar: float = SIMILAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsample:
    """Keep a chunk if its draw is below ``fraction``: the same for every query, and smaller
    fractions of one seed are parts of larger ones."""

    fraction: float
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexical:
    """Order by the share of the words of a query's ``targets`` text that a chunk has. The question
    as target is an ordinary reranker, the answer an oracle."""

    targets: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """``chunks``: numbers of at most k chunks a query, best first. ``survivors`` [q] of the K;
    ``short`` [q]: fewer than k, so a search of the smaller store might have found others."""

    chunks: tuple[tuple[int, ...], ...]
    survivors: npt.NDArray[np.int64]
    short: Mask


def draws(ids: Sequence[str], seed: int) -> Draws:
    """A number in [0, 1) for each id, by hash: independent of queries, stores and order."""
    key = seed.to_bytes(8, "little", signed=True)
    raw = b"".join(hashlib.blake2b(one.encode(), digest_size=8, key=key).digest() for one in ids)
    return np.asarray((np.frombuffer(raw, dtype="<u8") >> np.uint64(11)) * 2.0**-53)


def shortfall(num: int, fraction: float, k: int) -> float:
    """Probability that fewer than ``k`` of ``num`` results are kept: the binomial tail."""
    return float(binom.cdf(k - 1, num, fraction))


def postprocess(
    results: Hits,
    store: Datastore,
    *,
    dedupe: Representatives | AmongResults | None = None,
    decontaminate: Decontaminate | None = None,
    subsample: Subsample | None = None,
    rerank: Lexical | None = None,
    k: int = 3,
) -> Selected:
    """Choose from the results of ``store.search``, in the order of the parameters.

    Raises:
        SpecError: texts or representatives of another number than queries or chunks, a fraction
            outside (0, 1], k outside 1 to K.
    """
    kept = _kept(results, store, dedupe, decontaminate, k)
    if subsample is not None:
        kept &= _sampled(results, store, subsample, draws(store.ids, subsample.seed))
    return _chosen(results, store, kept, rerank, k)


def sweep(
    results: Hits,
    store: Datastore,
    fractions: Sequence[float],
    seeds: Sequence[int],
    *,
    dedupe: Representatives | AmongResults | None = None,
    decontaminate: Decontaminate | None = None,
    rerank: Lexical | None = None,
    k: int = 3,
) -> dict[tuple[float, int], Selected]:
    """``postprocess`` at every (fraction, seed), sharing the search and the filters."""
    kept = _kept(results, store, dedupe, decontaminate, k)
    found = {}
    for seed in seeds:
        drawn = draws(store.ids, seed)
        for fraction in fractions:
            one = Subsample(fraction=fraction, seed=seed)
            mask = kept & _sampled(results, store, one, drawn)
            found[fraction, seed] = _chosen(results, store, mask, rerank, k)
    return found


def _kept(
    results: Hits,
    store: Datastore,
    dedupe: Representatives | AmongResults | None,
    decontaminate: Decontaminate | None,
    k: int,
) -> Mask:
    """What filters that know no fraction leave, [q, K]."""
    num_queries, wide = results.chunks.shape
    if not 1 <= k <= wide:
        raise SpecError(f"{k} chunks of {wide} results a query; expected 1 to {wide}")
    kept = results.chunks >= 0
    if isinstance(dedupe, Representatives):
        if len(dedupe.stands) != len(store):
            raise SpecError(
                f"representatives of {len(dedupe.stands)} chunks, a store of {len(store)}; find "
                "them on the whole store"
            )
        kept &= np.append(dedupe.stands, -1)[results.chunks] == results.chunks
    grams_of = _grams_kept(store)
    if isinstance(dedupe, AmongResults):
        for row, mask in zip(results.chunks.tolist(), kept, strict=True):
            _drop_copies(row, mask, grams_of, dedupe.similar)
    if decontaminate is not None:
        _one_each(decontaminate.held_out, num_queries, "held-out texts")
        for row, mask, text in zip(
            results.chunks.tolist(), kept, decontaminate.held_out, strict=True
        ):
            _drop_leaks(row, mask, text, store, grams_of, decontaminate)
    return kept


def _one_each(texts: Sequence[str], num_queries: int, what: str) -> None:
    if len(texts) != num_queries:
        raise SpecError(f"{len(texts)} {what} of {num_queries} queries; expected one each")


def _grams_kept(store: Datastore) -> Callable[[int, int], Grams]:
    """Grams of a chunk by number and length, each made once."""
    made: dict[tuple[int, int], Grams] = {}

    def of(number: int, num_words: int) -> Grams:
        key = (number, num_words)
        if key not in made:
            made[key] = grams(store.texts[number], num_words)
        return made[key]

    return of


def _drop_copies(
    row: list[int], mask: Mask, grams_of: Callable[[int, int], Grams], similar: float
) -> None:
    by_gram: dict[int, list[Grams]] = {}
    for at, number in enumerate(row):
        if not mask[at]:
            continue
        mine = grams_of(number, GRAM_WORDS)
        near = {id(other): other for gram in mine for other in by_gram.get(gram, ())}
        if any(jaccard(mine, other) > similar for other in near.values()):
            mask[at] = False
            continue
        for gram in mine:
            by_gram.setdefault(gram, []).append(mine)


def _drop_leaks(
    row: list[int],
    mask: Mask,
    text: str,
    store: Datastore,
    grams_of: Callable[[int, int], Grams],
    rule: Decontaminate,
) -> None:
    length = len(words_of(text))
    if not length:
        raise SpecError("a held-out text without words; expected question and answer")
    short, run = min(GRAM_WORDS, length), min(rule.run_words, length)
    hidden = grams(text, short)
    runs = grams(text, run)
    for at, number in enumerate(row):
        if not mask[at]:
            continue
        mine = grams_of(number, short)
        if run >= short and mine.isdisjoint(hidden):
            continue  # no run that long without a gram
        shared_run = not grams(store.texts[number], run).isdisjoint(runs)
        mask[at] = not (shared_run or jaccard(mine, hidden) > rule.similar)


def _sampled(results: Hits, store: Datastore, rule: Subsample, drawn: Draws) -> Mask:
    if not 0 < rule.fraction <= 1:
        raise SpecError(f"a fraction of {rule.fraction:g}; expected more than 0 and at most 1")
    return cast(Mask, np.append(drawn < rule.fraction, False)[results.chunks])


def _chosen(
    results: Hits, store: Datastore, kept: Mask, rerank: Lexical | None, k: int
) -> Selected:
    if rerank is not None:
        _one_each(rerank.targets, len(kept), "texts to rerank by")
    chosen = []
    for query, (row, mask) in enumerate(zip(results.chunks, kept, strict=True)):
        left = row[mask].tolist()
        if rerank is not None:
            wanted = set(words_of(rerank.targets[query]))
            left.sort(key=lambda one, w=wanted: -len(w & set(words_of(store.texts[one]))))
        chosen.append(tuple(left[:k]))
    survivors = kept.sum(axis=1)
    return Selected(chunks=tuple(chosen), survivors=survivors, short=survivors < k)


def prompt(question: str, texts: Sequence[str], *, between: str = "\n") -> str:
    """Chunks before the question, the worst first, so that the best stands nearest to it."""
    return between.join([*reversed(texts), question])
