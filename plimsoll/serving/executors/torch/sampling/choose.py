"""Temperature, truncation and one draw by inverse distribution function.

Tokens are put in a fixed order, weights exp((x - max) / temperature) are summed along it and
the first token whose sum exceeds u times the total is drawn. Top-k, then top-p of what is left,
then min-p each keep a prefix of the sorted order, so a partial sort will do: as wide as the
largest top-k, or 1024 for top-p alone, checked against the mass of the whole row; rows for
which that is not enough are sorted in full. Without top-k and top-p the order is that of token
ids and nothing is sorted. Sums are in float64 and each row's are its own.
Source: arXiv:1904.09751 (top-p), arXiv:2407.01082 (min-p).

N rows, V vocabulary, M sorted candidates, B blocks of the vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from plimsoll.serving.executors.torch.sampling.leaders import Leaders, leaders, sorted_rows
from plimsoll.serving.generation import SamplingParams

__all__ = ["choose"]

_BLOCK = 128
_TOP_P_WIDTH = 1024
_TIES_FORESEEN = 32
_ROWS_SORTED = 16  # at once, which bounds memory
_COLDEST = 1e-20  # keeps 1/temperature finite in float32; at logits' spacing this is greedy


def choose(
    x_NV: Tensor,
    best_N: NDArray[np.float64],
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
) -> list[int]:
    """One token a row. Logits are float32 with a finite largest entry, ``best_N``."""
    vocab_size = x_NV.shape[1]
    groups: dict[str, list[int]] = {"whole": [], "top_k": [], "top_p": []}
    for i, p in enumerate(params):
        if 0 < p.top_k < vocab_size:
            groups["top_k"].append(i)
        else:
            groups["top_p" if p.top_p < 1 else "whole"].append(i)
    tokens = np.zeros(len(params), dtype=np.int64)
    for kind, members in groups.items():
        if not members:
            continue
        x = x_NV if len(members) == len(params) else x_NV[members]
        best = best_N[members]
        mine = [params[i] for i in members]
        u = np.array([uniforms[i] for i in members])
        if kind == "whole":
            tokens[members] = _from_whole(x, best, mine, u)
        else:
            tokens[members] = _from_sorted(x, best, mine, u, by_mass=kind == "top_p")
    return tokens.tolist()


def _weights(
    x_NV: Tensor, best_N: NDArray[np.float64], params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor]:
    """Unnormalized probabilities, the best token's being 1, and their sums by block."""
    best_N1 = torch.from_numpy(best_N).to(x_NV.device, x_NV.dtype).unsqueeze(-1)
    temperature = torch.tensor([max(p.temperature, _COLDEST) for p in params])
    w_NV = (x_NV - best_N1).div_(temperature.to(x_NV.device).unsqueeze(-1)).exp_()
    if any(p.min_p > 0 and p.top_p >= 1 for p in params):
        floor = torch.tensor([p.min_p for p in params], device=x_NV.device)
        w_NV.masked_fill_(w_NV < floor.unsqueeze(-1), 0)
    if w_NV.shape[1] % _BLOCK:
        w_NV = pad(w_NV, (0, -w_NV.shape[1] % _BLOCK))
    return w_NV, w_NV.unflatten(1, (-1, _BLOCK)).sum(-1, dtype=torch.float64)


def _from_whole(
    x_NV: Tensor,
    best_N: NDArray[np.float64],
    params: Sequence[SamplingParams],
    u_N: NDArray[np.float64],
) -> NDArray[np.int64]:
    """First the block in which the sum is exceeded, then the token in it."""
    w_NV, mass_NB = _weights(x_NV, best_N, params)
    sums_NB = np.cumsum(mass_NB.cpu().numpy(), axis=1)
    target_N1 = (u_N * sums_NB[:, -1])[:, None]
    block_N1 = (sums_NB > target_N1).argmax(axis=1)[:, None]
    before_N1 = np.where(
        block_N1 > 0, np.take_along_axis(sums_NB, np.maximum(block_N1 - 1, 0), axis=1), 0.0
    )
    index = torch.from_numpy(block_N1 * _BLOCK + np.arange(_BLOCK)).to(w_NV.device)
    w = w_NV.gather(1, index).double().cpu().numpy()
    return block_N1[:, 0] * _BLOCK + _first_above(np.cumsum(w, axis=1), target_N1 - before_N1)


def _first_above(sums_NM: NDArray[np.float64], target_N1: NDArray[np.float64]) -> NDArray[np.int64]:
    """First place where the sum exceeds the target; rounding may leave none, then the last
    place at which it grows."""
    above = sums_NM > np.minimum(target_N1, np.nextafter(sums_NM[:, -1:], 0))
    return above.argmax(axis=1)


def _from_sorted(
    x_NV: Tensor,
    best_N: NDArray[np.float64],
    params: Sequence[SamplingParams],
    u_N: NDArray[np.float64],
    *,
    by_mass: bool,
) -> NDArray[np.int64]:
    """With ``by_mass`` top-p is of the whole row, otherwise of its first top-k tokens."""
    if by_mass:
        total_N = _weights(x_NV, best_N, params)[1].sum(-1).cpu().numpy()
        width = _TOP_P_WIDTH
    else:
        total_N = np.full(len(params), np.nan)
        width = max(p.top_k for p in params) + _TIES_FORESEEN
    tokens = _draw_sorted(leaders(x_NV, width), best_N, params, u_N, total_N)
    missed = np.flatnonzero(tokens < 0)
    for some in np.split(missed, range(_ROWS_SORTED, len(missed), _ROWS_SORTED)):
        if len(some):
            found = sorted_rows(x_NV[torch.from_numpy(some).to(x_NV.device)])
            mine = [params[i] for i in some]
            tokens[some] = _draw_sorted(found, best_N[some], mine, u_N[some], total_N[some])
    return tokens


def _draw_sorted(
    found: Leaders,
    best_N: NDArray[np.float64],
    params: Sequence[SamplingParams],
    u_N: NDArray[np.float64],
    total_N: NDArray[np.float64],
) -> NDArray[np.int64]:
    """A token a row, -1 for rows whose known candidates do not reach far enough.

    ``total_N`` is the mass top-p is a share of, NaN where that is the mass of the top-k tokens.
    """
    width = found.values_NM.shape[1]
    place_M = np.arange(width)
    known_N = found.num_known_N
    temperature_N = np.array([max(p.temperature, _COLDEST) for p in params])
    w_NM = np.exp((found.values_NM - best_N[:, None]) / temperature_N[:, None])
    w_NM[place_M >= known_N[:, None]] = 0
    sums_NM = np.cumsum(w_NM, axis=1)

    by_mass_N = ~np.isnan(total_N)
    k_N = np.array([p.top_k if 0 < p.top_k < width else width for p in params])
    top_p_N = np.array([p.top_p for p in params])
    last_N1 = np.minimum(k_N, np.maximum(known_N, 1))[:, None] - 1
    in_k_N = np.take_along_axis(sums_NM, last_N1, axis=1)[:, 0]
    wanted_N = top_p_N * np.where(by_mass_N, total_N, in_k_N)
    enough = found.complete_N | np.where(by_mass_N, in_k_N >= wanted_N, known_N >= k_N)

    min_p_N = np.array([p.min_p for p in params])
    kept = (place_M < k_N[:, None]) & (w_NM > 0) & (w_NM >= min_p_N[:, None])
    before_NM = np.zeros_like(sums_NM)
    before_NM[:, 1:] = sums_NM[:, :-1]
    kept &= (before_NM < wanted_N[:, None]) | (top_p_N >= 1)[:, None]
    num_kept_N1 = np.maximum(kept.sum(axis=1), 1)[:, None]
    total_kept_N1 = np.take_along_axis(sums_NM, num_kept_N1 - 1, axis=1)
    place_N1 = (sums_NM > u_N[:, None] * total_kept_N1).argmax(axis=1)[:, None]
    tokens = np.take_along_axis(found.ids_NM, np.minimum(place_N1, num_kept_N1 - 1), axis=1)[:, 0]
    return np.where(enough, tokens, -1)
