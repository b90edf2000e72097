"""What a model asks of whoever runs it: attention over earlier tokens, and fixed-size states.

The tokens of a pass lie one after the other, sequence by sequence ("varlen"), T in all. A model
computes each token's queries, keys and values; the context keeps keys and values (paged, dense or
not at all) and answers with the attention output. So a model's file knows nothing of caches, and
full, chunked and cached passes run the same code.

``FullContext`` is a batch of whole sequences of equal length without a cache, with gradients.
``GrowingContext`` keeps everything in plain tensors, one list a sequence: the reference that other
contexts are held against. The paged one is ``serving.executors.torch.paged_context``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.attention import attend_chunk, causal_mask, open_attention

__all__ = ["Context", "Decoder", "FullContext", "GrowingContext", "KvShape", "States"]

States = dict[str, Tensor]
"""Fixed-size states of one sequence in one layer, by name; empty before its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """What one layer caches a token. ``value_dim`` 0: values are the first ``latent_dim`` numbers
    of the keys and are not cached on their own (latent attention, one KV head)."""

    num_heads: int
    key_dim: int
    value_dim: int
    latent_dim: int = 0


class Context(Protocol):
    """One pass over T tokens of one or more sequences."""

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
        """Keep the new keys and values of a layer and attend: [T, H, E].

        A query sees its own sequence up to itself, the latest ``window`` tokens if > 0.
        ``v_TKE`` None: values are the first ``latent_dim`` numbers of the keys. The numbers of
        heads are read from the tensors (a rank may hold only some).
        """
        ...

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """Where each sequence's tokens lie in the pass: (first, one past the last)."""
        ...

    def states(self, layer: int) -> Sequence[States]:
        """The states of each sequence in a layer, to read and to replace in place."""
        ...


class Decoder(Protocol):
    """A decoder model, as its file builds it.

    ``kv_shapes`` maps each layer that attends to what it caches; ``has_states`` says whether any
    layer keeps a fixed-size state. ``layers`` are the decoder blocks, in order, called as
    ``layer(hidden_TC, positions_T, context)``.
    """

    config: dict[str, object]
    kv_shapes: dict[int, KvShape]
    has_states: bool
    layers: nn.ModuleList

    def embed(self, tokens_T: Tensor) -> Tensor:
        """[T, C] the residual stream before the first layer."""
        ...

    def finish(self, hidden_TC: Tensor) -> Tensor:
        """[T, C] the final norm."""
        ...

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """[N, V] scores of the next token, soft-capped where the model says so."""
        ...

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]: ``embed``, all layers, ``finish``."""
        ...


class FullContext:
    """``batch`` sequences of ``length`` tokens each, whole and without a cache."""

    def __init__(self, batch: int, length: int) -> None:
        self._batch = batch
        self._length = length
        self._states: dict[int, list[States]] = {}

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        n = self._length
        return [(i * n, (i + 1) * n) for i in range(self._batch)]

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """[T] positions of the pass."""
        return torch.arange(self._length, device=device).repeat(self._batch)

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; all empty at the start."""
        return self._states.setdefault(layer, [{} for _ in range(self._batch)])

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
        v_TKE = k_TKD[..., :latent_dim] if v_TKE is None else v_TKE
        groups = q_THD.shape[1] // k_TKD.shape[1]
        q, k, v = (x.unflatten(0, (self._batch, -1)).transpose(1, 2) for x in (q_THD, k_TKD, v_TKE))
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        length = self._length
        in_the_open = bool(softcap) or sinks is not None
        windowed = 0 < window < length
        mask = causal_mask(length, length, window, q.device) if in_the_open or windowed else None
        if in_the_open:
            out = open_attention(q, k, v, scale=scale, mask=mask, softcap=softcap, sinks=sinks)
        else:
            out = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale
            )
        return out.transpose(1, 2).flatten(0, 1)


class GrowingContext:
    """Any number of sequences whose keys and values grow in plain tensors.

    Set ``chunks`` to [(sequence id, new tokens)] before each pass.
    """

    def __init__(self) -> None:
        self.chunks: Sequence[tuple[int, int]] = ()
        self._kv: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._states: dict[tuple[int, int], States] = {}
        self._length: dict[int, int] = {}

    def begin(self, chunks: Sequence[tuple[int, int]]) -> Tensor:
        """Start a pass over these chunks; [T] the positions of their tokens."""
        self.chunks = chunks
        positions = []
        for i, n in chunks:
            first = self._length.get(i, 0)
            positions.append(torch.arange(first, first + n))
            self._length[i] = first + n
        return torch.cat(positions)

    def preload(self, sequence: int, layer: int, keys_mKD: Tensor, values_mKE: Tensor) -> None:
        """Put keys and values that are no tokens before a sequence's first; they take no position.

        Must come before the sequence's first pass.
        """
        assert self._length.get(sequence, 0) == 0
        self._kv[sequence, layer] = keys_mKD, values_mKE

    def copy(self, sequence: int, to: int) -> None:
        """Let ``to`` go on from where ``sequence`` stands; what it held is dropped."""
        for kept in (self._kv, self._states):
            for key in [key for key in kept if key[0] == to]:
                del kept[key]
        for (owner, layer), pair in list(self._kv.items()):
            if owner == sequence:
                self._kv[to, layer] = pair
        for (owner, layer), states in list(self._states.items()):
            if owner == sequence:
                self._states[to, layer] = {name: t.clone() for name, t in states.items()}
        self._length[to] = self._length.get(sequence, 0)

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        found, at = [], 0
        for _, n in self.chunks:
            found.append((at, at + n))
            at += n
        return found

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``."""
        return [self._states.setdefault((i, layer), {}) for i, _ in self.chunks]

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
        v = k_TKD[..., :latent_dim] if v_TKE is None else v_TKE
        out = []
        for (i, _), (a, b) in zip(self.chunks, self.bounds, strict=True):
            keys, values = k_TKD[a:b], v[a:b]
            if (i, layer) in self._kv:
                before = self._kv[i, layer]
                keys, values = torch.cat([before[0], keys]), torch.cat([before[1], values])
            self._kv[i, layer] = keys, values
            out.append(
                attend_chunk(
                    q_THD[a:b], keys, values,
                    scale=scale, window=window, softcap=softcap, sinks=sinks,
                )
            )  # fmt: skip
        return torch.cat(out)
