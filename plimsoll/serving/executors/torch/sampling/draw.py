"""The next token of every row of a batch.

Logits are adjusted (bias, grammar, minimum length, penalties), then cut and drawn from with one
uniform number of (seed, index), or the largest is taken; ties go to the smaller token id. The
result for a row is the same in every batch. Log-probabilities are of the model's own
distribution: log-softmax of the logits as they came in, before any adjustment and temperature,
as OpenAI-compatible servers report them. Left out: beams, and checking parameters, which is for
whoever takes requests in.

N rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plimsoll.serving.executors.torch.sampling.adjust import adjust, needs_adjusting
from plimsoll.serving.executors.torch.sampling.choose import choose
from plimsoll.serving.executors.torch.sampling.leaders import leaders, sorted_rows
from plimsoll.serving.executors.torch.sampling.rows import Row
from plimsoll.serving.executors.torch.sampling.uniform import uniform
from plimsoll.serving.generation import TokenLogprobs

__all__ = ["Drawn", "draw"]

_TIES_FORESEEN = 8


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token and, where asked for, log-probabilities for each row.

    ``broken`` rows had logits that are not numbers or nothing left to draw; their token means
    nothing and their request has to fail, the others are right.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs | None]
    broken: tuple[int, ...] = ()


@torch.inference_mode()
def draw(logits_NV: Tensor, rows: Sequence[Row]) -> Drawn:
    """Draw one token a row; ``logits_NV`` is any float type on any device and is not changed."""
    assert logits_NV.shape[0] == len(rows)
    if not rows:
        return Drawn([], [])
    busy = [i for i, row in enumerate(rows) if not row.params.plain_greedy]
    best_N, greedy_N = logits_NV.max(dim=-1)
    best = best_N.double().cpu().numpy()
    tokens = greedy_N.cpu().numpy()
    if busy:
        mine = [rows[i] for i in busy]
        x_NV = logits_NV if len(busy) == len(rows) else logits_NV[busy]
        x_NV = x_NV.float()
        if any(needs_adjusting(row) for row in mine):
            x_NV = _adjusted(x_NV, logits_NV, mine)
            best_N, greedy_N = x_NV.max(dim=-1)
            best[busy] = best_N.double().cpu().numpy()
            tokens[busy] = greedy_N.cpu().numpy()
        places = [
            place
            for place, i in enumerate(busy)
            if rows[i].params.temperature > 0 and np.isfinite(best[i])
        ]
        if places:
            drawing = [busy[place] for place in places]
            tokens[drawing] = choose(
                x_NV if len(places) == len(busy) else x_NV[places],
                best[drawing],
                [rows[i].params for i in drawing],
                [uniform(rows[i].params.seed, rows[i].index) for i in drawing],
            )
    broken = tuple(np.flatnonzero(~np.isfinite(best)).tolist())
    return Drawn(tokens.tolist(), _logprobs(logits_NV, rows, tokens.tolist(), broken), broken)


def _adjusted(x_NV: Tensor, logits_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    """Adjusted logits, in a copy where ``x_NV`` is still the caller's memory."""
    if x_NV is logits_NV:
        x_NV = x_NV.clone()
    adjust(x_NV, rows)
    return x_NV


def _logprobs(
    logits_NV: Tensor, rows: Sequence[Row], tokens: Sequence[int], broken: Sequence[int]
) -> list[TokenLogprobs | None]:
    """Reports of the rows that want one; alternatives of probability zero are left out."""
    reports: list[TokenLogprobs | None] = [None] * len(rows)
    wanted: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        if row.params.logprobs is not None and i not in broken:
            wanted.append((i, row.params.logprobs))
    if not wanted:
        return reports
    members = [i for i, _ in wanted]
    x_NV = logits_NV[members].float()
    norm_N = torch.logsumexp(x_NV, dim=-1).double().cpu().numpy()
    drawn_N1 = torch.tensor([[tokens[i]] for i in members], device=x_NV.device)
    own_N = x_NV.gather(1, drawn_N1).squeeze(1).double().cpu().numpy() - norm_N
    found = leaders(x_NV, max(count for _, count in wanted) + _TIES_FORESEEN)
    for place, (i, count) in enumerate(wanted):
        best, j = found, place
        if not (found.complete_N[j] or found.num_known_N[j] >= count):
            best, j = sorted_rows(x_NV[place : place + 1]), 0
        count = min(count, int(best.num_known_N[j]))
        ids = best.ids_NM[j, :count].tolist()
        values = (best.values_NM[j, :count] - norm_N[place]).tolist()
        reports[i] = TokenLogprobs(
            logprob=float(own_N[place]), top=tuple(zip(ids, values, strict=True))
        )
    return reports
