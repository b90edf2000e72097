"""Attention over paged keys and values, timed alone and fitted by a few products.

Layers are taken in turn, as many as make the caches forget the first, as in a model. Decodes of
one batch have equal contexts. Leaves out: contexts of very unequal length in one batch, whose
padding a total does not show. Source: the executor's own paged context.
"""

import torch

from plimsoll.cost.measured_fit import AttentionPoint, decode_times, prefill_times
from plimsoll.models.context import KvShape
from plimsoll.serving.executors.torch.measure.paged_pass import (
    num_blocks,
    paged_store,
    paged_work,
)
from plimsoll.serving.executors.torch.measure.sizes import Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.spec.measured import DecodeTimes, PrefillTimes

__all__ = ["attention_times"]

_MOST_LAYERS = 48
_CACHE_PARTS = (128, 32, 8, 4, 1)
"""Where the cost of a cached value bends: a decode batch that reads the last cache over these."""


@torch.inference_mode()
def attention_times(
    sizes: Sizes, dtype: torch.dtype, watch: Stopwatch, cache_bytes: float
) -> tuple[DecodeTimes, PrefillTimes]:
    """The fits of decodes and of prompt chunks."""
    decodes: list[AttentionPoint] = []
    prefills: list[AttentionPoint] = []
    for heads, kv_heads, head_dim in sizes.heads:
        widths = (heads, heads * head_dim, 2 * kv_heads * head_dim)

        def time(
            chunks: list[tuple[int, int]],
            contexts: list[int],
            heads: int = heads,
            kv_heads: int = kv_heads,
            head_dim: int = head_dim,
        ) -> float:
            held = sum(sum(chunk) for chunk in chunks) + sum(contexts)
            held_bytes = held * 2 * kv_heads * head_dim * dtype.itemsize
            forget = sizes.cache_multiples[-1] * cache_bytes
            num_layers = max(1, min(_MOST_LAYERS, round(forget / held_bytes)))
            shape = KvShape(num_heads=kv_heads, key_dim=head_dim, value_dim=head_dim)
            shapes = dict.fromkeys(range(num_layers), shape)
            blocks = num_blocks(chunks, contexts)
            store = paged_store(shapes, blocks, dtype, watch.device)
            context = PagedContext(store, paged_work(chunks, contexts))
            tokens = sum(new for new, _ in chunks) + len(contexts)
            query = torch.randn(tokens, heads, head_dim, device=watch.device).to(dtype)
            pair = torch.randn(2, tokens, kv_heads, head_dim, device=watch.device).to(dtype)
            key, value = pair.unbind()
            layer = 0

            def call() -> None:
                nonlocal layer
                context.attend(layer, query, key, value, scale=head_dim**-0.5)
                layer = layer + 1 if layer + 1 < num_layers else 0

            return min(watch.time(call, 2 * sizes.cell_s).call_s for _ in range(sizes.rounds))

        for batch in sizes.batches:
            for length in sizes.contexts:
                took_s = time([], [length] * batch)
                decodes.append(AttentionPoint(*widths, batch, batch * length, took_s))
        for new, cached in sizes.chunks:
            took_s = time([(new, cached)], [])
            prefills.append(AttentionPoint(*widths, new, cached, took_s))
    nodes = [cache_bytes / dtype.itemsize / parts for parts in _CACHE_PARTS]
    return decode_times(decodes, nodes), prefill_times(prefills, sizes.nodes)
