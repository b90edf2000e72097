"""A small linear map between blocks of different widths, learned from probe text.

It takes the hidden states behind one block to those before another, both read on the same text,
with the depth as one more input. Least squares with a small ridge is where training by gradients
would end, so it is solved at once. Several pairs may share a map: the depth then tells them apart.
Source: arXiv 2404.18322 (the depth as an input is unverified there).

Legend: T tokens, C width before, K width after.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plimsoll.models.block_chain import Stitch
from plimsoll.spec.errors import SpecError

__all__ = ["StitchPair", "learn_stitch"]

_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class StitchPair:
    """Hidden states of the same tokens: ``before_TC`` to start from, ``after_TK`` to reach.

    ``depth`` is the share of the first model's layers that lie behind, 0 to 1.
    """

    before_TC: Tensor
    after_TK: Tensor
    depth: float


def learn_stitch(pairs: Sequence[StitchPair]) -> tuple[Stitch, float]:
    """The map at the depth of the first pair, and the share of variance it leaves unexplained.

    Raises:
        SpecError: fewer tokens than inputs, or pairs of different widths.
    """
    widths = {(p.before_TC.shape[1], p.after_TK.shape[1]) for p in pairs}
    if len(widths) != 1:
        raise SpecError(f"a stitch between widths {sorted(widths)}; expected one pair of widths")
    rows = [
        torch.cat([p.before_TC, p.before_TC.new_full((len(p.before_TC), 1), p.depth)], dim=1)
        for p in pairs
    ]
    x = torch.cat(rows).double()
    y = torch.cat([p.after_TK for p in pairs]).double()
    if len(x) < 2 * x.shape[1]:
        raise SpecError(
            f"{len(x)} tokens of probe text for a stitch of {x.shape[1]} inputs; "
            f"give at least {2 * x.shape[1]}"
        )
    square = x.T @ x
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=x.dtype)
    weight = torch.linalg.solve(square, x.T @ y)
    left = float((x @ weight - y).square().sum() / (y - y.mean(0)).square().sum())
    return Stitch(weight.T.to(pairs[0].before_TC.dtype), pairs[0].depth), left
