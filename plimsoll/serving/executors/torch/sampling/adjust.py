"""Logits as a request's parameters change them before temperature.

Order: logit bias, grammar mask, minimum length, penalties. The repetition penalty divides
positive logits and multiplies negative ones (arXiv:1909.05858, section 4.1), then presence and
frequency penalties are subtracted (OpenAI's API reference). Token ids outside the vocabulary
are passed over here; whoever takes requests in refuses them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plimsoll.serving.executors.torch.sampling.rows import Row, needs_history

__all__ = ["adjust", "needs_adjusting"]


def needs_adjusting(row: Row) -> bool:
    """Whether anything here changes the row's logits."""
    return (
        bool(row.params.logit_bias)
        or row.allowed is not None
        or row.index < row.params.min_tokens
        or needs_history(row.params)
    )


def adjust(x_NV: Tensor, rows: Sequence[Row]) -> None:
    """Change logits in place, one row of ``x_NV`` each.

    Where the grammar leaves only tokens that end the output, the minimum length gives way.
    """
    _bias(x_NV, rows)
    _mask(x_NV, rows)
    _forbid_ends(x_NV, rows)
    _penalize(x_NV, rows)


def _entries(
    x_NV: Tensor, found: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]
) -> tuple[Tensor, Tensor, Tensor]:
    """(row, token, number) triples on the device, tokens outside the vocabulary left out."""
    row = np.concatenate([np.full(len(ids), i, dtype=np.int64) for i, ids, _ in found])
    ids = np.concatenate([ids for _, ids, _ in found])
    numbers = np.concatenate([numbers for _, _, numbers in found])
    known = (ids >= 0) & (ids < x_NV.shape[1])
    return (
        torch.from_numpy(row[known]).to(x_NV.device),
        torch.from_numpy(ids[known]).to(x_NV.device),
        torch.from_numpy(numbers[known]).to(x_NV.device),
    )


def _bias(x_NV: Tensor, rows: Sequence[Row]) -> None:
    found = []
    for i, row in enumerate(rows):
        if row.params.logit_bias:
            summed: dict[int, float] = {}
            for token, value in row.params.logit_bias:
                summed[token] = summed.get(token, 0.0) + value
            ids = np.fromiter(summed, dtype=np.int64)
            found.append((i, ids, np.fromiter(summed.values(), dtype=np.float32)))
    if found:
        i_M, id_M, bias_M = _entries(x_NV, found)
        x_NV[i_M, id_M] += bias_M


def _mask(x_NV: Tensor, rows: Sequence[Row]) -> None:
    masked = [i for i, row in enumerate(rows) if row.allowed is not None]
    if not masked:
        return
    vocab_size = x_NV.shape[1]
    bytes_MB = np.zeros((len(masked), -(-vocab_size // 8)), dtype=np.uint8)
    for place, i in enumerate(masked):
        allowed = rows[i].allowed
        assert allowed is not None
        words = np.ascontiguousarray(allowed, dtype="<i4").view(np.uint8)[: bytes_MB.shape[1]]
        bytes_MB[place, : len(words)] = words
    packed_MB1 = torch.from_numpy(bytes_MB).to(x_NV.device).unsqueeze(-1)
    bits_8 = torch.arange(8, dtype=torch.uint8, device=x_NV.device)
    allowed_MV = ((packed_MB1 >> bits_8) & 1).flatten(1)[:, :vocab_size].bool()
    if len(masked) == len(rows):
        x_NV.masked_fill_(~allowed_MV, -torch.inf)
    else:
        i_M = torch.tensor(masked, device=x_NV.device)
        x_NV[i_M] = x_NV[i_M].masked_fill_(~allowed_MV, -torch.inf)


def _forbid_ends(x_NV: Tensor, rows: Sequence[Row]) -> None:
    found, constrained = [], []
    for i, row in enumerate(rows):
        if row.index >= row.params.min_tokens:
            continue
        ends = {*row.params.stop_token_ids, *(() if row.params.ignore_eos else row.eos_ids)}
        ids = np.fromiter(sorted(ends), dtype=np.int64)
        found.append((i, ids, np.zeros(len(ids), dtype=np.float32)))
        if row.allowed is not None:
            constrained.append(i)
    if not found:
        return
    i_M, id_M, _ = _entries(x_NV, found)
    kept_CV = x_NV[constrained] if constrained else None
    x_NV[i_M, id_M] = -torch.inf
    if kept_CV is not None:
        changed_CV = x_NV[constrained]
        left_C1 = (changed_CV > -torch.inf).any(-1, keepdim=True)
        x_NV[constrained] = torch.where(left_C1, changed_CV, kept_CV)


def _penalize(x_NV: Tensor, rows: Sequence[Row]) -> None:
    """Repetition over all tokens seen, the other two over generated ones."""
    repeated, subtracted = [], []
    for i, row in enumerate(rows):
        params = row.params
        if not needs_history(params):
            continue
        assert row.history is not None, "penalties need the row's history"
        ids, counts = row.history.tokens()
        if params.repetition_penalty != 1:
            factor = np.full(len(ids), params.repetition_penalty, dtype=np.float32)
            repeated.append((i, ids, factor))
        if params.presence_penalty != 0 or params.frequency_penalty != 0:
            drawn = counts > 0
            penalty = params.presence_penalty + params.frequency_penalty * counts[drawn]
            subtracted.append((i, ids[drawn], penalty.astype(np.float32)))
    if repeated:
        i_M, id_M, factor_M = _entries(x_NV, repeated)
        x_M = x_NV[i_M, id_M]
        x_NV[i_M, id_M] = torch.where(x_M > 0, x_M / factor_M, x_M * factor_M)
    if subtracted:
        i_M, id_M, penalty_M = _entries(x_NV, subtracted)
        x_NV[i_M, id_M] -= penalty_M
