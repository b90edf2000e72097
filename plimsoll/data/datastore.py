"""A store of text chunks searched by inner product: exact top K, whatever the number of shards.

Each shard keeps its chunks and a flat FAISS index. FAISS works in single precision and its last
bits depend on how many chunks and queries stand beside each other, so it only proposes: what it
finds is scored again in double precision, always in the same order, and the proposal is widened
until no chunk left out can belong to the top K (rounding of a product of d numbers is at most
d·2^-24 of the two lengths). Equal scores go by chunk id. Shards are searched by themselves and
merged by (score, id), which is then bit for bit what one index over all chunks gives.
Distances are counted: every chunk scanned and every one scored again.
Left out: approximate indices, which would change what a larger store is worth.
Sources: arXiv 2407.12854, section 3; arXiv 2401.08281 (the FAISS library).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.data.embed import Encoder, Vectors
from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["Datastore", "Hits", "Shard", "faiss_library", "merge"]

Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

_SLACK = 64
_UNIT = 2.0**-24
_QUERIES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """``chunks`` [q, K]: numbers of chunks, best first, -1 where there are no more; ``scores``
    [q, K], -inf there. ``distances``: how many were computed."""

    chunks: Numbers
    scores: Scores
    distances: int


def faiss_library() -> ModuleType:
    """FAISS.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UnsupportedError("a datastore needs faiss; install plimsoll[retrieval]") from None
    found: ModuleType = faiss
    return found


class Shard:
    """Chunks with their vectors [n, d] and an index of their own; may be empty.

    Raises:
        SpecError: shapes that do not match, values that are no numbers, an id twice.
    """

    def __init__(
        self, ids: Sequence[str], texts: Sequence[str], vectors: Vectors, *, name: str = "shard"
    ) -> None:
        self.name, self.ids, self.texts = name, tuple(ids), tuple(texts)
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids):
            raise SpecError(
                f"{name}: {self.vectors.shape} embeddings of {len(self.ids)} chunks; expected a "
                "row each"
            )
        if len(self.texts) != len(self.ids):
            raise SpecError(f"{name}: {len(self.texts)} texts of {len(self.ids)} chunks")
        if not np.isfinite(self.vectors).all():
            raise SpecError(f"{name}: embeddings hold values that are no numbers")
        if len(set(self.ids)) != len(self.ids):
            seen: set[str] = set()
            twice = next(one for one in self.ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
            raise SpecError(f"{name}: chunk {twice} is there twice; expected every id once")
        by_id = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        self._place = np.empty(len(self.ids), dtype=np.int64)
        self._place[by_id] = np.arange(len(self.ids))
        self._longest = float(
            np.sqrt((self.vectors.astype(np.float64) ** 2).sum(axis=1).max(initial=0))
        )
        self._index: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return int(self.vectors.shape[1])

    def search(self, queries: Vectors, num: int) -> Hits:
        """The ``num`` best chunks of each query [q, d], by their place in this shard.

        Raises:
            SpecError: queries of another width, or with values that are no numbers; ``num`` < 1.
        """
        asked = _checked(queries, self.dim, self.name, num)
        chunks = np.full((len(asked), num), -1, dtype=np.int64)
        scores = np.full((len(asked), num), -np.inf)
        distances = 0
        for first in range(0, len(asked) if len(self) else 0, _QUERIES_AT_ONCE):
            part = slice(first, first + _QUERIES_AT_ONCE)
            distances += self._search(asked[part], chunks[part], scores[part])
        return Hits(chunks=chunks, scores=scores, distances=distances)

    def _search(self, queries: Vectors, chunks: Numbers, scores: Scores) -> int:
        """Fill the rows of ``chunks`` and ``scores``; the distances it took."""
        if self._index is None:
            self._index = faiss_library().IndexFlatIP(self.dim)
            self._index.add(self.vectors)
        want = min(chunks.shape[1], len(self))
        error = 2 * self.dim * _UNIT * self._longest * np.linalg.norm(queries, axis=1)
        fetch = min(len(self), want + _SLACK)
        left = np.arange(len(queries))
        distances = 0
        while len(left):
            rough, rows = self._index.search(queries[left], fetch)
            exact = np.stack(
                [
                    (self.vectors[found].astype(np.float64) * query).sum(axis=1)
                    for query, found in zip(queries[left].astype(np.float64), rows, strict=True)
                ]
            )
            distances += len(left) * (len(self) + fetch)
            order = np.lexsort((self._place[rows], -exact), axis=1)[:, :want]
            chunks[left, :want] = np.take_along_axis(rows, order, axis=1)
            scores[left, :want] = np.take_along_axis(exact, order, axis=1)
            last = scores[left, want - 1]
            sure = (rough[:, -1] + error[left] < last) | (fetch == len(self))
            left, fetch = left[~sure], min(len(self), 2 * fetch)
        return distances


def _checked(queries: Vectors, dim: int, name: str, num: int) -> Vectors:
    asked = np.ascontiguousarray(queries, dtype=np.float32)
    if asked.ndim != 2 or asked.shape[1] != dim:
        raise SpecError(
            f"{name}: queries of shape {asked.shape}, chunks of {dim} numbers; expected [q, {dim}] "
            "from the encoder the store was built with"
        )
    if not np.isfinite(asked).all():
        raise SpecError(f"{name}: queries hold values that are no numbers")
    if num < 1:
        raise SpecError(f"{num} chunks asked for; expected 1 or more")
    return asked


def merge(found: Sequence[Hits], num: int) -> Hits:
    """The ``num`` best of several searches whose chunks are numbered in the order of their ids.

    Raises:
        SpecError: no search, or searches of different numbers of queries.
    """
    if len({len(one.chunks) for one in found}) != 1:
        raise SpecError("searches to merge have different numbers of queries, or there are none")
    chunks = np.concatenate([one.chunks for one in found], axis=1)
    scores = np.concatenate([one.scores for one in found], axis=1)
    order = np.lexsort((chunks, -scores), axis=1)[:, :num]
    missing = num - order.shape[1]
    return Hits(
        chunks=np.pad(
            np.take_along_axis(chunks, order, axis=1),
            ((0, 0), (0, max(0, missing))),
            constant_values=-1,
        ),
        scores=np.pad(
            np.take_along_axis(scores, order, axis=1),
            ((0, 0), (0, max(0, missing))),
            constant_values=-np.inf,
        ),
        distances=sum(one.distances for one in found),
    )


class Datastore:
    """Shards, searched as one. Chunks are numbered in the order of their ids.

    Raises:
        SpecError: no shard, shards of different widths, a chunk id in two of them.
    """

    def __init__(self, shards: Sequence[Shard], encoder: Encoder) -> None:
        if not shards:
            raise SpecError("a datastore without shards; expected one or more")
        for shard in shards:
            if shard.dim != encoder.dim:
                raise SpecError(
                    f"{shard.name}: embeddings of {shard.dim} numbers, the encoder gives "
                    f"{encoder.dim}; build all shards with one encoder"
                )
        self.shards, self.encoder = tuple(shards), encoder
        owner: dict[str, Shard] = {}
        for shard in shards:
            for one in shard.ids:
                if one in owner:
                    raise SpecError(
                        f"chunk {one} is in {owner[one].name} and in {shard.name}; expected every "
                        "id once"
                    )
                owner[one] = shard
        self.ids = tuple(sorted(owner))
        number = {one: at for at, one in enumerate(self.ids)}
        self._numbers = [
            np.array([number[one] for one in shard.ids], dtype=np.int64) for shard in shards
        ]
        self.texts: tuple[str, ...] = tuple(
            text
            for _, text in sorted(
                (one, text)
                for shard in shards
                for one, text in zip(shard.ids, shard.texts, strict=True)
            )
        )
        """By number."""

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Sequence[str] | Vectors, num: int) -> Hits:
        """The ``num`` best chunks of each query, a text or a vector.

        Raises:
            SpecError: as ``Shard.search``.
        """
        vectors = queries if isinstance(queries, np.ndarray) else self.encoder.encode(queries)
        found = []
        for shard, numbers in zip(self.shards, self._numbers, strict=True):
            hits = shard.search(vectors, num)
            chunks = np.append(numbers, -1)[hits.chunks]
            found.append(Hits(chunks=chunks, scores=hits.scores, distances=hits.distances))
        return merge(found, num)

    def kept(self, keep: npt.NDArray[np.bool_]) -> "Datastore":
        """A store of one shard with those chunks only, by mask over numbers: an index made anew."""
        vectors = np.empty((len(self), self.encoder.dim), dtype=np.float32)
        for shard, numbers in zip(self.shards, self._numbers, strict=True):
            vectors[numbers] = shard.vectors
        rows = np.flatnonzero(keep).tolist()
        part = Shard(
            [self.ids[row] for row in rows],
            [self.texts[row] for row in rows],
            vectors[keep],
            name="subset",
        )
        return Datastore([part], self.encoder)
