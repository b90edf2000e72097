"""What is the same around the layers of every decoder: embedding, final norm, output head.

A tied head has no module of its own: ``lm_head`` is None and the embedding's weight scores.

Legend: T tokens, C width of the residual stream, N rows asked for, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.context import Context, KvShape
from plimsoll.models.dimensions import Dimensions
from plimsoll.models.layers import RmsNorm
from plimsoll.models.rope import Rotary

__all__ = ["DecoderStack", "parameter_count"]


class DecoderStack(nn.Module):
    """A ``Decoder``; families subclass it with a constructor that makes the layers.

    ``embed_scale`` multiplies embeddings, rounded to their precision first. ``softcap`` > 0
    replaces a score s by softcap * tanh(s / softcap).
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        dims: Dimensions,
        layers: Iterable[nn.Module],
        kv_shapes: dict[int, KvShape],
        *,
        has_states: bool = False,
        one_plus: bool = False,
        embed_scale: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, object] = dict(config)
        self.kv_shapes = kv_shapes
        self.has_states = has_states
        self.embed_scale = embed_scale
        self.softcap = softcap
        self.embed_tokens = nn.Embedding(dims.vocab_size, dims.hidden)
        self.layers = nn.ModuleList(layers)
        self._rotaries = {m: None for m in self.layers.modules() if isinstance(m, Rotary)}
        self.norm = RmsNorm(dims.hidden, dims.eps, one_plus=one_plus)
        self.lm_head = None if dims.tied else nn.Linear(dims.hidden, dims.vocab_size, bias=False)

    def embed(self, tokens_T: Tensor) -> Tensor:
        """[T, C] the residual stream before the first layer."""
        hidden_TC = self.embed_tokens(tokens_T)
        if self.embed_scale != 1.0:
            scale = torch.tensor(self.embed_scale, dtype=hidden_TC.dtype, device="cpu").item()
            hidden_TC = hidden_TC * scale
        return hidden_TC

    def finish(self, hidden_TC: Tensor) -> Tensor:
        """[T, C] the final norm."""
        return self.norm(hidden_TC)

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """[N, V] scores of the next token."""
        if self.lm_head is None:
            scores_NV = functional.linear(hidden_NC, self.embed_tokens.weight)
        else:
            scores_NV = self.lm_head(hidden_NC)
        if self.softcap:
            scores_NV = self.softcap * torch.tanh(scores_NV / self.softcap)
        return scores_NV

    def forward(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]: ``embed``, all layers, ``finish``."""
        for module in self._rotaries:
            module.forget()
        hidden_TC = self.embed(tokens_T)
        for layer in self.layers:
            hidden_TC = layer(hidden_TC, positions_T, context)
        return self.finish(hidden_TC)


def parameter_count(module: nn.Module) -> int:
    """Numbers in all parameters; a weight used in two places counts once."""
    return sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
