"""Texts as vectors of length one, for retrieval by inner product.

``HashedEncoder`` needs no model: words and pairs of neighbors are counted as 1 + ln(count),
weighted by how rare they are, and projected to ``dim`` numbers by random signs, which each term's
own hash gives. Inner products then stand near the cosine of the weighted counts, off by about
1/sqrt(dim). Rarities are fitted once, on any texts, and travel with the encoder: a vector never
depends on what else is in a store. ``CheckpointEncoder`` is the mean of a language model's last
hidden states.
Left out: encoders trained for retrieval, which read meaning where these read words.
Sources: doi:10.1145/1557019.1557096 (hashed features); doi:10.1016/S0022-0000(03)00025-4 (random
signs); arXiv 2112.09118 (mean of hidden states).
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["CheckpointEncoder", "Encoder", "HashedEncoder", "Vectors", "words_of"]

Vectors = npt.NDArray[np.float32]
_WORD = re.compile(r"\w+")
_DIGEST_BYTES = 64
_LONGEST_TOKENS = 512


def words_of(text: str) -> list[str]:
    """Words in lower case; signs between them are dropped."""
    return _WORD.findall(text.lower())


class Encoder(Protocol):
    """Texts to vectors of length one. ``settings`` tell two encoders apart, as plain data."""

    @property
    def dim(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n, dim]; a text without words gives zeros."""
        ...


class HashedEncoder:
    """See the module text. ``pairs``: count pairs of neighbors too."""

    def __init__(
        self,
        dim: int = 256,
        *,
        seed: int = 0,
        pairs: bool = True,
        rarity: dict[str, float] | None = None,
    ) -> None:
        if dim < 8 or dim % 8:
            raise SpecError(f"an embedding of {dim} numbers; expected a multiple of 8")
        self._dim, self._seed, self._pairs = dim, seed, pairs
        self._rarity = rarity or {}
        self._rarest = max(self._rarity.values(), default=1.0)
        self._rows: dict[str, int] = {}
        self._signs = np.empty((0, dim), dtype=np.int8)

    @classmethod
    def fitted(
        cls, texts: Iterable[str], dim: int = 256, *, seed: int = 0, pairs: bool = True
    ) -> "HashedEncoder":
        """Rarity of a term: 1 + ln((n + 1)/(m + 1)), in m of n texts; unseen ones as m = 0."""
        plain = cls(dim, seed=seed, pairs=pairs)
        seen: Counter[str] = Counter()
        num = 0
        for text in texts:
            seen.update(set(plain.terms(text)))
            num += 1
        rarity = {term: 1 + math.log((num + 1) / (m + 1)) for term, m in seen.items()}
        return cls(dim, seed=seed, pairs=pairs, rarity=rarity)

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._dim

    @property
    def settings(self) -> dict[str, Any]:
        """Rarities by their digest."""
        listed = "\n".join(f"{term} {self._rarity[term]:.12g}" for term in sorted(self._rarity))
        return {
            "kind": "hashed",
            "dim": self._dim,
            "seed": self._seed,
            "pairs": self._pairs,
            "rarity_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        }

    def terms(self, text: str) -> list[str]:
        """What is counted in a text."""
        words = words_of(text)
        if not self._pairs:
            return words
        return words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See ``Encoder``."""
        columns: list[int] = []
        values: list[float] = []
        ends = [0]
        for text in texts:
            for term, count in sorted(Counter(self.terms(text)).items()):
                columns.append(self._row(term))
                values.append((1 + math.log(count)) * self._rarity.get(term, self._rarest))
            ends.append(len(columns))
        self._make_signs()
        counted = csr_array((values, columns, ends), shape=(len(texts), len(self._rows)))
        found = counted @ self._signs.astype(np.float64)
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return cast(Vectors, (found / np.where(length > 0, length, 1)).astype(np.float32))

    def _row(self, term: str) -> int:
        return self._rows.setdefault(term, len(self._rows))

    def _make_signs(self) -> None:
        """Rows of terms met for the first time."""
        new = list(self._rows)[len(self._signs) :]
        if not new:
            return
        wide = math.ceil(self._dim / 8 / _DIGEST_BYTES)
        raw = b"".join(
            b"".join(
                hashlib.blake2b(f"{self._seed} {part} {term}".encode()).digest()
                for part in range(wide)
            )[: self._dim // 8]
            for term in new
        )
        bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8)).reshape(len(new), self._dim)
        self._signs = np.concatenate([self._signs, (2 * bits.astype(np.int8) - 1)])


class CheckpointEncoder:
    """Mean of the last hidden states of the language model in a Hugging Face folder.

    Reads ``config.json``, safetensors and ``tokenizer.json`` from the folder, nothing else. Texts
    are cut after ``longest`` tokens.

    Raises:
        UnsupportedError: torch or tokenizers is not installed, or a family that is not known.
        SpecError: files that are missing or damaged.
    """

    def __init__(self, folder: Path, *, longest: int = _LONGEST_TOKENS) -> None:
        try:
            import torch
            from tokenizers import Tokenizer

            from plimsoll.models.loading import load, load_config
        except ImportError as error:
            raise UnsupportedError(
                f"embedding with a checkpoint needs {error.name}; install plimsoll[torch]"
            ) from None
        if not (folder / "tokenizer.json").is_file():
            raise SpecError(f"{folder}: no tokenizer.json; expected a Hugging Face folder with one")
        self._dim = int(load_config(folder)["hidden_size"])
        self._model = load(folder, dtype=torch.float32)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._longest = longest
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*")):
            if file.suffix in (".safetensors", ".json"):
                digest.update(file.name.encode() + file.read_bytes())
        self._sha256 = digest.hexdigest()

    @property
    def dim(self) -> int:
        """The model's width."""
        return self._dim

    @property
    def settings(self) -> dict[str, Any]:
        """The folder by its digest."""
        return {"kind": "checkpoint", "sha256": self._sha256, "longest": self._longest}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See ``Encoder``; one text at a time, so that none depends on its neighbors."""
        import torch

        from plimsoll.models.context import FullContext

        found = np.zeros((len(texts), self._dim), dtype=np.float32)
        with torch.inference_mode():
            for index, text in enumerate(texts):
                ids = self._tokenizer.encode(text).ids[: self._longest]
                if not ids:
                    continue
                context = FullContext(1, len(ids))
                hidden = self._model(torch.tensor(ids), context.positions(), context)
                mean = hidden.double().mean(dim=0).numpy()
                found[index] = mean / max(float(np.linalg.norm(mean)), 1e-300)
        return found
