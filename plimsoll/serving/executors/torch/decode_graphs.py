"""Decode passes on a GPU, captured once for each size and replayed: one launch instead of hundreds.

A pass of one token a sequence always runs the same kernels on the same addresses if its batch and
its block tables have fixed sizes. So both are rounded up, rows that stand for no request write to
the store's spare block, and positions past a sequence's end are masked. Everything a pass must be
told goes to the device in one copy. Left out: experts and states, whose work depends on the data;
prompts. Source: docs.pytorch.org/docs/stable/generated/torch.cuda.CUDAGraph.html.

Legend: B rows of a graph, P pages a row, m tokens gathered (P times the block's), H query heads.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from plimsoll.models.context import Decoder, States
from plimsoll.models.moe import Experts
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.paged_context import attend_decodes, page_pairs

__all__ = ["DecodeGraphs", "can_capture", "rounded_batch", "rounded_pages"]

_WARM_PASSES = 2
_LEAST_PAGES = 8
_STEP_ROWS = 16


def rounded_batch(rows: int) -> int:
    """1, 2, 4, 8, 16, then multiples of 16."""
    if rows > _STEP_ROWS:
        return -(-rows // _STEP_ROWS) * _STEP_ROWS
    size = 1
    while size < rows:
        size *= 2
    return size


def rounded_pages(pages: int) -> int:
    """8, 12, 16, 24, 32, 48, ...: at most half as many again."""
    size = _LEAST_PAGES
    while size < pages:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def can_capture(model: Decoder, device: torch.device) -> bool:
    """Whether passes of this model run the same kernels whatever the tokens are."""
    modules = cast(nn.Module, model).modules()
    on_gpu = device.type == "cuda" and not model.has_states
    return on_gpu and not any(isinstance(m, Experts) for m in modules)


class DecodeGraphs:
    """Logits of passes of one token a sequence over ``store``."""

    def __init__(self, model: Decoder, store: KvStore) -> None:
        self._model = model
        self._store = store
        self._graphs: dict[tuple[int, int], _Captured] = {}
        self._memory = torch.cuda.graph_pool_handle()

    @property
    def num_captured(self) -> int:
        """Sizes seen so far."""
        return len(self._graphs)

    def logits(self, work: Sequence[Work]) -> Tensor:
        """[len(work), V], valid until the next call."""
        size = self._store.block_tokens
        pages = max(-(-(w.start + 1) // size) for w in work)
        key = rounded_batch(len(work)), rounded_pages(pages)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = _Captured(self._model, self._store, *key)
            graph.fill(work)
            graph.capture(self._memory)
        else:
            graph.fill(work)
        graph.replay()
        return graph.logits[: len(work)]


class _Captured:
    """One graph; all its input lies in ``_input``: tokens, positions, blocks, offsets of B rows,
    then their tables of P blocks."""

    def __init__(self, model: Decoder, store: KvStore, rows: int, pages: int) -> None:
        self._model, self._store = model, store
        self._rows, self._pages = rows, pages
        length = rows * (4 + pages)
        self._host = torch.zeros(length, dtype=torch.long, pin_memory=True)
        self._input = torch.zeros(length, dtype=torch.long, device=store.device)
        self._graph = torch.cuda.CUDAGraph()
        self.logits = torch.empty(0)

    def fill(self, work: Sequence[Work]) -> None:
        """Say what the next replay is about."""
        size, rows, spare = self._store.block_tokens, self._rows, self._store.spare_block
        idle = rows - len(work)
        tokens = [w.tokens[0] for w in work] + [0] * idle
        positions = [w.start for w in work] + [0] * idle
        blocks = [w.blocks[w.start // size] for w in work] + [spare] * idle
        offsets = [w.start % size for w in work] + [0] * idle
        flat = tokens + positions + blocks + offsets
        for w in work:
            used = w.blocks[: w.start // size + 1]
            flat += used
            flat += [spare] * (self._pages - len(used))
        flat += [spare] * (self._pages * idle)
        self._host.copy_(torch.tensor(flat))
        self._input.copy_(self._host, non_blocking=True)

    def capture(self, memory: tuple[int, int]) -> None:
        """Run a few times beside, then record."""
        stream = torch.cuda.Stream(self._store.device)
        stream.wait_stream(torch.cuda.current_stream(self._store.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_PASSES):
                self._run()
        torch.cuda.current_stream(self._store.device).wait_stream(stream)
        with torch.cuda.graph(self._graph, pool=memory):
            self.logits = self._run()

    def replay(self) -> None:
        """The pass over what was filled in."""
        self._graph.replay()

    def _run(self) -> Tensor:
        rows = self._rows
        tokens, positions, blocks, offsets = self._input[: 4 * rows].view(4, rows)
        tables = self._input[4 * rows :].view(rows, self._pages)
        context = _GraphContext(self._store, positions, blocks, offsets, tables)
        return self._model.logits(self._model(tokens, positions, context))


class _GraphContext:
    """A ``Context`` of B decodes whose inputs are read on the device, never on the host."""

    def __init__(
        self,
        store: KvStore,
        positions_B: Tensor,
        blocks_B: Tensor,
        offsets_B: Tensor,
        tables: Tensor,
    ) -> None:
        self._store = store
        self._positions_B = positions_B
        self._blocks_B, self._offsets_B, self._tables = blocks_B, offsets_B, tables
        self._pairs: dict[int, Tensor] = {}
        self._bias: dict[int, Tensor] = {}

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        return [(i, i + 1) for i in range(len(self._positions_B))]

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; models with states are not captured."""
        raise AssertionError("a captured model has no states")

    def attend(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKE: Tensor | None,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks: Tensor | None = None,
        latent_dim: int = 0,
    ) -> Tensor:
        """See ``Context``."""
        keys, values = self._store.keys[layer], self._store.values[layer]
        keys[self._blocks_B, :, self._offsets_B] = k_TKD.to(keys.dtype)
        if v_TKE is not None:
            assert values is not None
            values[self._blocks_B, :, self._offsets_B] = v_TKE.to(values.dtype)
        heads = keys.shape[1]
        if heads not in self._pairs:
            self._pairs[heads] = page_pairs(self._tables, heads)
        pairs, rows = self._pairs[heads], len(q_THD) * heads
        k = keys.view(-1, keys.shape[2] * keys.shape[3]).index_select(0, pairs)
        k = k.view(rows, -1, keys.shape[3])
        if values is None:
            v = k[..., :latent_dim]
        else:
            v = values.view(-1, values.shape[2] * values.shape[3]).index_select(0, pairs)
            v = v.view(rows, -1, values.shape[3])
        bias = self._masked(window)
        return attend_decodes(q_THD, k, v, bias, scale=scale, softcap=softcap, sinks=sinks)

    def _masked(self, window: int) -> Tensor:
        """[B, 1, 1, m]: 0 where a row may look, else minus infinity."""
        if window not in self._bias:
            total = self._tables.shape[1] * self._store.block_tokens
            key = torch.arange(total, device=self._tables.device)[None]
            query = self._positions_B[:, None]
            seen = key <= query
            if window > 0:
                seen &= key > query - window
            bias = torch.zeros(seen.shape, device=seen.device)
            self._bias[window] = bias.masked_fill(~seen, float("-inf"))[:, None, None]
        return self._bias[window]
