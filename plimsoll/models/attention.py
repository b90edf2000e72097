"""Softmax attention of one chunk of one sequence over all the sequence's keys so far.

Grouped KV heads, a sliding window, soft-capped scores and attention sinks. The plain cases go to
torch's fused kernel; soft-caps and sinks are computed in the open, scores in float32.

Legend: n new tokens, m tokens in all (m >= n; the new ones are the last), H query heads, K key
heads, D key width, E value width.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attend_chunk", "causal_mask", "open_attention"]


def attend_chunk(
    q_nHD: Tensor,
    k_mKD: Tensor,
    v_mKE: Tensor,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """[n, H, E]: query i (from 0) sees keys 0 to m - n + i, the latest ``window`` of them if > 0.

    ``softcap`` > 0 replaces a score s by softcap * tanh(s / softcap). ``sinks`` [H] are scores of
    a key with no value.
    """
    new, total = q_nHD.shape[0], k_mKD.shape[0]
    mask = (
        None
        if new == 1 and not 0 < window < total
        else causal_mask(new, total, window, q_nHD.device)
    )
    groups = q_nHD.shape[1] // k_mKD.shape[1]
    q = q_nHD.transpose(0, 1)
    k, v = k_mKD.transpose(0, 1), v_mKE.transpose(0, 1)
    if groups > 1:
        k = k.repeat_interleave(groups, dim=0)
        v = v.repeat_interleave(groups, dim=0)
    if softcap or sinks is not None:
        out = open_attention(q, k, v, scale=scale, mask=mask, softcap=softcap, sinks=sinks)
    elif mask is not None and new == total and not 0 < window < total:
        out = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=scale
        )[0]
    else:
        out = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=mask, scale=scale
        )[0]
    return out.transpose(0, 1)


def causal_mask(new: int, total: int, window: int, device: torch.device) -> Tensor:
    """[n, m], True where a query may look."""
    query = torch.arange(total - new, total, device=device)[:, None]
    key = torch.arange(total, device=device)[None]
    mask = key <= query
    if window > 0:
        mask &= key > query - window
    return mask


def open_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    mask: Tensor | None,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with every score in the open: q [.., H, n, D], k [.., H, m, D], v [.., H, m, E].

    ``mask`` broadcasts to [.., H, n, m]; ``sinks`` is [H].
    """
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        return scores.softmax(dim=-1).to(v.dtype) @ v
    sink = sinks.float()[:, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    return weights.to(v.dtype) @ v
