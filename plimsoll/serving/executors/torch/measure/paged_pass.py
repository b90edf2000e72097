"""One pass of the engine's own paged context over made-up requests.

Blocks of 16 tokens lie scattered over the store, as after many requests have come and gone.
Leaves out: shared prefixes. Source: paged_context.py and kv_store.py of the torch executor.
"""

import random
from collections.abc import Mapping, Sequence

import torch

from plimsoll.models.context import Decoder, KvShape
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.rows import Row
from plimsoll.serving.generation import SamplingParams

__all__ = ["BLOCK_TOKENS", "GREEDY", "PreparedPass", "num_blocks", "paged_store", "paged_work"]

BLOCK_TOKENS = 16
GREEDY = SamplingParams(temperature=0.0)
_VOCABULARY = 200


def num_blocks(chunks: Sequence[tuple[int, int]], contexts: Sequence[int]) -> int:
    """Blocks that chunks (new, cached) and decodes of these contexts take."""
    spans = [new + cached for new, cached in chunks] + list(contexts)
    return sum(-(-span // BLOCK_TOKENS) for span in spans)


def paged_work(chunks: Sequence[tuple[int, int]], contexts: Sequence[int]) -> list[Work]:
    """The work of one step: chunks, then a token of each decode; all of them draw."""
    order = list(range(num_blocks(chunks, contexts)))
    random.Random(0).shuffle(order)
    work, used = [], 0
    for new, cached in [*chunks, *((1, context - 1) for context in contexts)]:
        pages = -(-(new + cached) // BLOCK_TOKENS)
        blocks = order[used : used + pages]
        used += pages
        tokens = [(7 * i + cached) % _VOCABULARY for i in range(new)]
        work.append(Work(len(work), tokens, cached, blocks, 0))
    return work


def paged_store(
    shapes: Mapping[int, KvShape], blocks: int, dtype: torch.dtype, device: torch.device
) -> KvStore:
    """A store whose pages hold random numbers."""
    store = KvStore(
        shapes, num_blocks=blocks, block_tokens=BLOCK_TOKENS, dtype=dtype, device=device
    )
    for pages in (*store.keys.values(), *store.values.values()):
        if pages is not None:
            pages.normal_()
    return store


class PreparedPass:
    """A step's work on a model: call it to run the pass and draw, with all tables made before."""

    def __init__(self, model: Decoder, store: KvStore, work: Sequence[Work]) -> None:
        self._model = model
        self._context = PagedContext(store, work)
        device = store.device
        self._tokens = torch.tensor([t for w in work for t in w.tokens], device=device)
        self._positions = torch.cat(
            [torch.arange(w.start, w.start + len(w.tokens), device=device) for w in work]
        )
        self._last = [end - 1 for _, end in self._context.bounds]
        self._rows = [Row(params=GREEDY, index=0)] * len(work)

    @torch.inference_mode()
    def __call__(self) -> None:
        hidden = self._model(self._tokens, self._positions, self._context)
        draw(self._model.logits(hidden[self._last]), self._rows)
