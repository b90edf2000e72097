"""A world of made-up facts: who is where, spread over documents, and questions on all of them.

300 people each are in one of 50 towns. A fact is stated in four words ("they say Tuli: Kabo.", a
town and who is there), some facts dozens of times and a few never: how often is Poisson, its mean
falling as a power of the fact's rank. Documents hold six statements of facts drawn anywhere, so
that a chunk of four words is one statement. A tenth of the facts is for a model to learn; the rest
stands in documents only. A quiz asks each fact in thirteen words, which share no longer run with a
document than the fact itself.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plimsoll.data.datastore import Datastore, Shard
from plimsoll.data.documents import Chunk, Document, chunks_of
from plimsoll.data.embed import HashedEncoder, words_of

__all__ = ["CHUNK_WORDS", "FactsWorld"]

CHUNK_WORDS = 4
_PEOPLE, _TOWNS = 300, 50
_STATED, _RANK_OFFSET, _RANK_POWER = 1200, 5, 0.7
_STATEMENTS = 6
_FILLERS = ("they", "say", "once", "again", "we", "read", "it", "was", "here", "now", "and", "then")
_ASK = "where"
_QUIZ_FILLERS = 11
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_SHARDS = 4
_DIM = 256
_STOP = "."


@dataclass(frozen=True)
class FactsWorld:
    """The world of one seed. ``known``: share of the facts that a model may learn."""

    seed: int
    known: float = 0.1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """People, then towns: three syllables each, all different."""
        rng = np.random.default_rng([self.seed, 0])
        found: dict[str, None] = {}
        while len(found) < _PEOPLE + _TOWNS:
            found["".join(rng.choice(_SYLLABLES, 3))] = None
        return tuple(found)

    @property
    def people(self) -> tuple[str, ...]:
        """Who the facts are about."""
        return self.names[:_PEOPLE]

    @property
    def towns(self) -> tuple[str, ...]:
        """What an answer may be."""
        return self.names[_PEOPLE:]

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The town of each person."""
        rng = np.random.default_rng([self.seed, 1])
        return tuple(self.towns[i] for i in rng.integers(0, _TOWNS, _PEOPLE).tolist())

    @cached_property
    def learnable(self) -> tuple[int, ...]:
        """Which facts a model may learn."""
        order = np.random.default_rng([self.seed, 2]).permutation(_PEOPLE)
        return tuple(order[: round(self.known * _PEOPLE)].tolist())

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """About 1,200 statements, six a document."""
        rng = np.random.default_rng([self.seed, 3])
        mean = (_RANK_OFFSET + rng.permutation(_PEOPLE)) ** -_RANK_POWER
        times = rng.poisson(_STATED * mean / mean.sum())
        order = rng.permutation(np.repeat(np.arange(_PEOPLE), times)).tolist()
        said = [
            f"{' '.join(rng.choice(_FILLERS, 2))} {self.answers[i]}: {self.people[i]}."
            for i in order
        ]
        return tuple(
            Document(id=f"page{at // _STATEMENTS}", text=" ".join(said[at : at + _STATEMENTS]))
            for at in range(0, len(said), _STATEMENTS)
        )

    @property
    def questions(self) -> tuple[str, ...]:
        """One a person."""
        return tuple(f"{_ASK} {person}" for person in self.people)

    @cached_property
    def quiz(self) -> tuple[str, ...]:
        """Question with answer, as the test has it: what a store must not hold."""
        rng = np.random.default_rng([self.seed, 4])
        return tuple(
            f"{' '.join(rng.choice(_FILLERS, _QUIZ_FILLERS))} {answer}: {person}."
            for person, answer in zip(self.people, self.answers, strict=True)
        )

    def leaks(self, share: float) -> list[Chunk]:
        """Quiz items as they would slip into a crawl."""
        rng = np.random.default_rng([self.seed, 5])
        picked = np.flatnonzero(rng.random(_PEOPLE) < share).tolist()
        return [Chunk(id=f"quiz{i}#0", text=self.quiz[i]) for i in picked]

    def store(self, leaks: float = 0.0) -> Datastore:
        """All documents in chunks, with that share of the quiz, in four shards."""
        chunks = [c for d in self.documents for c in chunks_of(d, CHUNK_WORDS)]
        encoder = HashedEncoder.fitted([c.text for c in chunks], _DIM)
        chunks += self.leaks(leaks)
        shards = [
            Shard(
                [c.id for c in part],
                [c.text for c in part],
                encoder.encode([c.text for c in part]),
                name=f"shard {at}",
            )
            for at, part in enumerate(chunks[at::_SHARDS] for at in range(_SHARDS))
        ]
        return Datastore(shards, encoder)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Words and the full stop, by number."""
        words = (_STOP, _ASK, *_FILLERS, *self.names)
        return {word: at for at, word in enumerate(words)}

    def tokens(self, text: str) -> list[int]:
        """Of statements, or of a question without a stop."""
        found = []
        for sentence in text.split(_STOP):
            words = [self.vocabulary[word] for word in words_of(sentence)]
            found += [*words, self.vocabulary[_STOP]] if words else []
        return found if text.rstrip().endswith(_STOP) or not found else found[:-1]
