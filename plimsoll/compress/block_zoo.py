"""A store of models as chains of blocks, where blocks that do the same are kept once.

Models are added one by one; each is cut into blocks. A block with the very tensors of one that is
stored (all of a model tuned by adapters, or by biases in one part) is shared by construction.
Another stands for it if it is equivalent; candidates are the stored blocks of its kind and depth,
and classes grow greedily in depth order. What decides is the chain as assembled so far against the
model's own states, so that small differences cannot add up unseen. Adapters belong to the model.
Source: arXiv 2404.18322.

Legend: B sequences, T tokens, C width.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from plimsoll.compress.block_equivalence import (
    LEAST_OUTPUT_COSINE,
    LEAST_WEIGHT_COSINE,
    Equivalence,
    distribution,
    mean_cosine,
    run_block,
    weight_cosine,
)
from plimsoll.compress.stitching import StitchPair, learn_stitch
from plimsoll.models.block_chain import Block, BlockChain, Stitch, cut
from plimsoll.models.context import Decoder
from plimsoll.models.lora import Lora
from plimsoll.spec.errors import SpecError, suggest

__all__ = ["BlockZoo"]

_NEVER = Equivalence(weights=None, outputs=0.0, equal=False)


class BlockZoo:
    """``probe_BT`` tokens of text decide equivalence; see ``compress/block_equivalence.py``.

    ``least_output_cosine`` above 1 shares only equal tensors; 0 leaves weights alone to decide.
    """

    def __init__(
        self,
        probe_BT: Tensor,
        *,
        least_output_cosine: float = LEAST_OUTPUT_COSINE,
        least_weight_cosine: float = LEAST_WEIGHT_COSINE,
    ) -> None:
        self._probe_BT = probe_BT
        self._least_output_cosine = least_output_cosine
        self._least_weight_cosine = least_weight_cosine
        self._blocks: dict[str, Block] = {}
        self._chains: dict[str, tuple[str, ...]] = {}
        self._loras: dict[str, dict[int, Mapping[str, Lora]]] = {}
        self._separate_bytes = 0
        self._stitches: dict[tuple[str, str], Stitch] = {}

    @property
    def blocks(self) -> Mapping[str, Block]:
        """The stored blocks by name, without adapters."""
        return self._blocks

    @property
    def stored_bytes(self) -> int:
        """All blocks, adapters and stitches; a tensor in two blocks counts once."""
        tensors = {
            t.data_ptr(): t.nbytes for b in self._blocks.values() for t in b.tensors.values()
        }
        loras = [a for of in self._loras.values() for part in of.values() for a in part.values()]
        stitches = [stitch.weight_CK.nbytes for stitch in self._stitches.values()]
        return sum(tensors.values()) + sum(a.num_bytes for a in loras) + sum(stitches)

    @property
    def separate_bytes(self) -> int:
        """The models as added, each stored whole with its adapters merged."""
        return self._separate_bytes

    def add(self, name: str, model: Decoder, *, vocabulary: str) -> tuple[str, ...]:
        """Store what of a model is not there yet; the names of the blocks of its chain.

        ``vocabulary`` names the tokenizer.

        Raises:
            SpecError: the name is taken.
            UnsupportedError: the model cannot be cut.
        """
        if name in self._chains or not name or "/" in name:
            problem = "is in the zoo already" if name in self._chains else "is no name"
            raise SpecError(f"model {name!r} {problem}; give another, without a slash")
        parts = cut(name, model, vocabulary=vocabulary)
        equal = [next((c for c in self._like(b) if _same_tensors(c, b)), None) for b in parts]
        compared = [i for i, b in enumerate(parts) if equal[i] is None and self._like(b)]
        chain: list[str] = []
        own = assembled = self._probe_BT.flatten()
        for i, block in enumerate(parts):
            same = equal[i]
            if compared and i <= compared[-1]:
                before, own = own, run_block(block, own, self._probe_BT)
                if same is None:
                    same = self._stand_in(block, assembled, own, parts[-1])
                if assembled is before and same is not None and equal[i] is not None:
                    assembled = own
                else:
                    stored = replace(same or block, loras=block.loras)
                    assembled = run_block(stored, assembled, self._probe_BT)
            if same is None:
                same = replace(block, loras={})
                self._blocks[same.name] = same
            chain.append(same.name)
        self._chains[name] = tuple(chain)
        self._loras[name] = {i: b.loras for i, b in enumerate(parts) if b.loras}
        tensors = {t.data_ptr(): t.nbytes for b in parts for t in b.tensors.values()}
        self._separate_bytes += sum(tensors.values())
        return tuple(chain)

    def chain(self, name: str) -> tuple[Block, ...]:
        """The blocks of a model in order, with its adapters.

        Raises:
            SpecError: no such model.
        """
        if name not in self._chains:
            raise SpecError(f"the zoo has no model {name!r}.{suggest(name, self._chains)}")
        loras = self._loras[name]
        return tuple(
            replace(self._blocks[block], loras=loras.get(i, {}))
            for i, block in enumerate(self._chains[name])
        )

    def assemble(self, name: str) -> BlockChain:
        """A model put together from stored blocks, which it shares with others.

        Raises:
            SpecError: no such model.
        """
        return BlockChain(self.chain(name), self._stitches)

    def join(self, blocks: tuple[str, ...]) -> BlockChain:
        """A chain of any stored blocks, by name, with the stitches learned so far.

        Raises:
            SpecError: an unknown block, kinds out of order, or widths that no stitch joins; the
                message names the pair.
        """
        return BlockChain([self._block(name) for name in blocks], self._stitches)

    def equivalence(self, a: str, b: str) -> Equivalence:
        """How alike two stored blocks are; blocks of different vocabularies never are.

        Raises:
            SpecError: no such block.
        """
        first, second = self._block(a), self._block(b)
        weights = weight_cosine(first, second)
        if not _comparable(first, second):
            return _NEVER
        if weights is not None:
            return self._same_shape(first, second, weights, (first, second))
        read = [_read(self._chain_of(x)[-1], self._behind(x), x) for x in (first, second)]
        outputs = mean_cosine(*read)
        return Equivalence(weights=None, outputs=outputs, equal=self._enough(None, outputs))

    def compare(self, stored: str, block: Block) -> Equivalence:
        """How alike a stored block and one of the same shapes outside the zoo are.

        Both run on what the stored one receives in its own model.

        Raises:
            SpecError: no such stored block, or other shapes.
        """
        first = self._block(stored)
        if not _comparable(first, block):
            return _NEVER
        weights = weight_cosine(first, block)
        if weights is None:
            raise SpecError(
                f"{stored} and {block.name}: of different shapes; add the model to the zoo to "
                "compare what both do"
            )
        return self._same_shape(first, block, weights, (first,))

    def _same_shape(
        self, a: Block, b: Block, weights: float, sources: tuple[Block, ...]
    ) -> Equivalence:
        """Least alike on what each of ``sources`` receives."""
        outputs = 1.0
        for source in sources:
            before, head = self._before(source), self._chain_of(source)[-1]
            done = [run_block(x, before, self._probe_BT) for x in (a, b)]
            outputs = min(outputs, mean_cosine(*(_read(head, state, source) for state in done)))
        equal = self._enough(weights, outputs)
        return Equivalence(weights=weights, outputs=outputs, equal=equal)

    def stitch(self, a: str, b: str) -> float:
        """Learn the map that lets ``b`` follow ``a``; the share of variance it does not explain.

        Raises:
            SpecError: no such block, different vocabularies, or too little probe text.
        """
        first, second = self._block(a), self._block(b)
        if first.vocabulary != second.vocabulary:
            raise SpecError(
                f"{a} and {b}: made for the vocabularies {first.vocabulary} and "
                f"{second.vocabulary}; no stitch joins them"
            )
        depth = (first.depth + (first.kind == "mlp")) / first.dims.num_layers
        pair = StitchPair(self._behind(first), self._before(second), depth)
        stitch, left = learn_stitch([pair])
        self._stitches[a, b] = stitch
        return left

    def _block(self, name: str) -> Block:
        if name not in self._blocks:
            raise SpecError(f"the zoo has no block {name!r}.{suggest(name, self._blocks)}")
        return self._blocks[name]

    def _like(self, block: Block) -> list[Block]:
        """Stored blocks of the same kind, depth and vocabulary, oldest first."""
        return [
            other
            for other in self._blocks.values()
            if (other.kind, other.depth, other.vocabulary, other.shapes)
            == (block.kind, block.depth, block.vocabulary, block.shapes)
        ]

    def _stand_in(self, block: Block, before: Tensor, own: Tensor, head: Block) -> Block | None:
        """The first stored block that does behind ``before`` what the model's own came to."""
        for candidate in self._like(block):
            outputs = 1.0
            if self._least_output_cosine > 0:
                trial = replace(candidate, loras=block.loras)
                after = run_block(trial, before, self._probe_BT)
                outputs = mean_cosine(_read(head, after, block), _read(head, own, block))
            if self._enough(weight_cosine(candidate, block), outputs):
                return candidate
        return None

    def _enough(self, weights: float | None, outputs: float) -> bool:
        alike = weights is None or weights >= self._least_weight_cosine
        return alike and outputs >= self._least_output_cosine

    def _chain_of(self, block: Block) -> tuple[Block, ...]:
        """The chain of the model that brought a block."""
        return self.chain(block.name.partition("/")[0])

    def _before(self, block: Block) -> Tensor:
        """What a block receives on the probe text in its own model."""
        state = self._probe_BT.flatten()
        for other in self._chain_of(block):
            if other.name == block.name:
                return state
            state = run_block(other, state, self._probe_BT)
        raise AssertionError(f"{block.name} is not in the chain that brought it")

    def _behind(self, block: Block) -> Tensor:
        return run_block(block, self._before(block), self._probe_BT)


def _comparable(a: Block, b: Block) -> bool:
    return a.vocabulary == b.vocabulary and a.kind == b.kind


def _read(head: Block, state: Tensor, block: Block) -> Tensor:
    """[T, V] what the states behind a block say of the next token."""
    return state if block.kind == "head" else distribution(head, state)


def _same_tensors(a: Block, b: Block) -> bool:
    return all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())
