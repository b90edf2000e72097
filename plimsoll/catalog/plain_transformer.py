"""A small decoder in plain tensors: something real to hold the analytical peak against.

Grouped-query attention and a gated feed-forward part with random weights in fp32; no norms'
scales, no rotary embedding, nothing that a peak does not count. Prefill returns the logits of
the last token and the cache; decode appends one token to a cache made beforehand.
Source: the shapes of arXiv 2405.08944's floor; weights are random because only work matters.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from plimsoll.spec.dtype import DType
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Layer,
    LayerGroup,
    ModelSpec,
    Quantization,
)

__all__ = ["PlainTransformer", "plain_spec"]


def plain_spec(
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int,
    intermediate: int,
    vocab_size: int,
    max_context: int,
) -> ModelSpec:
    """The spec of a plain transformer, everything in fp32."""
    return ModelSpec(
        name="plain-transformer",
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        max_context=max_context,
        layers=(
            LayerGroup(
                count=num_layers,
                layer=Layer(
                    mixer=Attention(
                        num_heads=num_heads,
                        num_kv_heads=num_kv_heads,
                        head_dim=hidden_size // num_heads,
                    ),
                    ffn=DenseFfn(intermediate=intermediate),
                    num_norms=0,
                ),
            ),
        ),
        quantization=Quantization(
            mixer=DType.FP32,
            ffn=DType.FP32,
            embedding=DType.FP32,
            lm_head=DType.FP32,
            kv_cache=DType.FP32,
        ),
    )


class PlainTransformer:
    """Weights of a ``plain_spec`` and the two passes; caches are K and V a layer, [1, H, T, D].

    ``explicit_scores`` multiplies the whole score matrix, masked half included, with matrix
    products that FLOP counters see; otherwise attention is the fused causal kernel.
    """

    def __init__(self, spec: ModelSpec, *, seed: int = 0, explicit_scores: bool = False) -> None:
        (group,) = spec.layers
        mixer, ffn = group.layer.mixer, group.layer.ffn
        assert isinstance(mixer, Attention) and isinstance(ffn, DenseFfn)
        self.spec, self.mixer, self.explicit_scores = spec, mixer, explicit_scores
        generator = torch.Generator().manual_seed(seed)
        hidden, kv = spec.hidden_size, mixer.num_kv_heads * mixer.head_dim

        def matrix(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, generator=generator) / rows**0.5

        self.embedding = matrix(spec.vocab_size, hidden)
        self.layers = [
            {
                "query": matrix(hidden, mixer.num_heads * mixer.head_dim),
                "key_value": matrix(hidden, 2 * kv),
                "output": matrix(mixer.num_heads * mixer.head_dim, hidden),
                "gate_up": matrix(hidden, 2 * ffn.intermediate),
                "down": matrix(ffn.intermediate, hidden),
            }
            for _ in range(group.count)
        ]
        self.head = matrix(hidden, spec.vocab_size)

    def empty_cache(self, num_tokens: int) -> list[Tensor]:
        """Room for ``num_tokens`` tokens, K and V stacked, a tensor a layer."""
        shape = (2, 1, self.mixer.num_kv_heads, num_tokens, self.mixer.head_dim)
        return [torch.zeros(shape) for _ in self.layers]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        if not self.explicit_scores:
            grouped = self.mixer.num_heads != self.mixer.num_kv_heads
            return scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=grouped
            )
        repeat = self.mixer.num_heads // self.mixer.num_kv_heads
        key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
        scores = query @ key.transpose(-1, -2) / self.mixer.head_dim**0.5
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ value

    def _run(self, tokens: Tensor, cache: list[Tensor], cached: int) -> Tensor:
        x = self.embedding[tokens]  # [T, hidden]
        new, dim = len(tokens), self.mixer.head_dim
        for weights, kept in zip(self.layers, cache, strict=True):
            y = torch.nn.functional.rms_norm(x, x.shape[-1:])
            query = (y @ weights["query"]).view(1, new, -1, dim).transpose(1, 2)
            pair = (y @ weights["key_value"]).view(new, 2, -1, dim)
            kept[:, 0, :, cached : cached + new] = pair.permute(1, 2, 0, 3)
            seen = kept[:, :, :, : cached + new]
            mixed = self._attend(query, seen[0], seen[1], causal=new > 1)
            x = x + mixed.transpose(1, 2).reshape(new, -1) @ weights["output"]
            y = torch.nn.functional.rms_norm(x, x.shape[-1:])
            gate, up = (y @ weights["gate_up"]).chunk(2, dim=-1)
            x = x + (silu(gate) * up) @ weights["down"]
        return torch.nn.functional.rms_norm(x[-1], x.shape[-1:]) @ self.head

    @torch.inference_mode()
    def prefill(self, tokens: Tensor, cache: list[Tensor]) -> Tensor:
        """Logits after a whole prompt, whose keys and values fill ``cache`` from its start."""
        return self._run(tokens, cache, 0)

    @torch.inference_mode()
    def decode(self, token: int, cache: list[Tensor], cached: int) -> Tensor:
        """Logits after one more token, the ``cached``-th from zero."""
        return self._run(torch.tensor([token]), cache, cached)
