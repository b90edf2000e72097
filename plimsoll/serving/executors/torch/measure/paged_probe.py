"""A context of one pass over paged keys and values, for timing attention alone.

Pages of 16 tokens lie scattered in a pool a layer. Prompt chunks gather their pages and attend
one by one; all decodes gather theirs together, padded to the longest, and attend in one call.
Leaves out: windows, sinks, soft caps, states. Source: arXiv 2309.06180 (pages).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from plimsoll.models.attention import attend_chunk, decode_mask
from plimsoll.models.context import States

__all__ = ["PagedProbe"]

_PAGE_TOKENS = 16


class PagedProbe:
    """A ``Context`` over chunks (new, cached) and then decodes (tokens each attends to)."""

    def __init__(
        self,
        chunks: Sequence[tuple[int, int]],
        decodes: Sequence[int],
        *,
        num_layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        spans = [new + cached for new, cached in chunks] + list(decodes)
        pages = [-(-span // _PAGE_TOKENS) for span in spans]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(sum(pages), generator=generator).to(device)
        tables = order.split(pages)
        shape = (num_layers, len(order), _PAGE_TOKENS, kv_heads, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device).normal_()
        self._values = torch.empty(shape, dtype=dtype, device=device).normal_()
        self._chunks = [
            (new, span, table) for (new, _), span, table in zip(chunks, spans, tables, strict=False)
        ]
        self._num_decodes = len(decodes)
        news = [new for new, _ in chunks] + [1] * len(decodes)
        places, positions = [], []
        for new, span, table in zip(news, spans, tables, strict=True):
            at = torch.arange(span - new, span, device=device)
            positions.append(at)
            places.append(table[at // _PAGE_TOKENS] * _PAGE_TOKENS + at % _PAGE_TOKENS)
        self.positions = torch.cat(positions)
        self._places = torch.cat(places)
        self._bounds: list[tuple[int, int]] = []
        first = 0
        for new in news:
            self._bounds.append((first, first + new))
            first += new
        self.num_tokens = first
        self.last_rows = torch.tensor([end - 1 for _, end in self._bounds], device=device)
        if decodes:
            lengths = torch.tensor(list(decodes), device=device)
            self._longest = max(decodes)
            self._mask = decode_mask(lengths, self._longest, 0)[:, None, None]
            self._table = torch.nn.utils.rnn.pad_sequence(
                list(tables[len(chunks) :]), batch_first=True
            )

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        return self._bounds

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; there are none."""
        return [{} for _ in self._bounds]

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
        assert v_TKE is not None and not window and not softcap and sinks is None
        keys, values = self._keys[layer], self._values[layer]
        keys.view(-1, *keys.shape[2:]).index_copy_(0, self._places, k_TKD)
        values.view(-1, *values.shape[2:]).index_copy_(0, self._places, v_TKE)
        out = []
        for (new, span, table), (start, end) in zip(self._chunks, self._bounds, strict=False):
            if new == span:  # nothing cached: the pass holds all of it
                key, value = k_TKD[start:end], v_TKE[start:end]
            else:
                key = keys[table].flatten(0, 1)[:span]
                value = values[table].flatten(0, 1)[:span]
            out.append(attend_chunk(q_THD[start:end], key, value, scale=scale))
        if self._num_decodes:
            query = q_THD[self.num_tokens - self._num_decodes :][:, :, None]
            key = keys[self._table].flatten(1, 2)[:, : self._longest].transpose(1, 2)
            value = values[self._table].flatten(1, 2)[:, : self._longest].transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=self._mask, scale=scale, enable_gqa=True
            )
            out.append(mixed[:, :, 0])
        return out[0] if len(out) == 1 else torch.cat(out)
