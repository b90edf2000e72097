"""Whether one block of a model can stand in for another: by weights, then by what it does.

Blocks of equal shapes are compared by the cosine of their weights first, which is cheap and tells
unrelated blocks apart. It is near 1 for every fine-tune, so it never suffices: the outputs decide.
Both blocks run on the same hidden states of probe text, and the two results are read as
distributions over the vocabulary through the last norm and head; similarity is the mean over
tokens of their cosine. Blocks of different shapes have no weights to compare and each runs in its
own model on the same text. Different vocabularies never match.
Source: arXiv 2404.18322; both thresholds are ours.

Legend: B sequences, T tokens of the pass, C width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from plimsoll.models.block_chain import Block, half_layer
from plimsoll.models.context import FullContext

__all__ = [
    "LEAST_OUTPUT_COSINE",
    "LEAST_WEIGHT_COSINE",
    "Equivalence",
    "distribution",
    "mean_cosine",
    "run_block",
    "weight_cosine",
]

LEAST_WEIGHT_COSINE = 0.9
LEAST_OUTPUT_COSINE = 0.9995
"""At this fully tuned children keep their perplexity within 1 %; at 0.98 it grows by 6 to 13 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """How alike two blocks are. ``weights`` None: their shapes differ. ``equal`` is the verdict."""

    weights: float | None
    outputs: float
    equal: bool


def weight_cosine(a: Block, b: Block) -> float | None:
    """Of all tensors as one vector; None where names or shapes differ."""
    if a.kind != b.kind or a.shapes != b.shapes:
        return None
    product = a_square = b_square = 0.0
    for name, tensor in a.tensors.items():
        x, y = tensor.flatten().double(), b.tensors[name].flatten().double()
        product += float(x @ y)
        a_square += float(x @ x)
        b_square += float(y @ y)
    return product / (a_square * b_square) ** 0.5 if a_square and b_square else 0.0


@torch.no_grad()
def run_block(block: Block, input_T: Tensor, probe_BT: Tensor) -> Tensor:
    """[T, C] what a block makes of its input; [T] tokens for ``embed``, else [T, C] states.

    A head answers with its distribution, [T, V].
    """
    if block.kind == "embed":
        return functional.embedding(input_T, block.tensors["embed_tokens.weight"])
    if block.kind == "head":
        return distribution(block, input_T)
    context = FullContext(*probe_BT.shape)
    layer = half_layer(block)
    if block.kind == "attention":
        normed_TC = layer.input_layernorm(input_T)
        return input_T + layer.self_attn(normed_TC, context.positions(), context)
    return input_T + layer.mlp(layer.post_attention_layernorm(input_T))


def distribution(head: Block, hidden_TC: Tensor) -> Tensor:
    """[T, V] the probabilities a head reads out of hidden states of any depth."""
    gain_C = head.tensors["norm.weight"]
    normed_TC = functional.rms_norm(hidden_TC, gain_C.shape, gain_C, head.dims.eps)
    return functional.linear(normed_TC, head.tensors["lm_head.weight"]).softmax(-1)


def mean_cosine(a_TV: Tensor, b_TV: Tensor) -> float:
    """Mean over tokens of the cosine of two distributions."""
    return float(functional.cosine_similarity(a_TV, b_TV, dim=-1).mean())
