"""Decode steps of two small models on this machine: is their time arithmetic plus traffic?

Two decoders (RMS norm, grouped attention, gated feed-forward; random weights, fp32) with the same
KV width and more than four times the parameters of one another decode one token for a small batch
over caches of 256 to 8,192 positions, on one thread. Times are CPU seconds of that thread (other
work on the machine then counts less), the least of several repeats, in turns over all settings.
They are fitted by a·FLOPs + b·bytes without one length; the fit then says the times at it.
Bytes here include the weights, which such small batches do not hide.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from torch.nn.functional import linear, rms_norm, silu

from plimsoll.laws.forms.contract import Floats

__all__ = ["StepFit", "step_fit"]

_BATCH = 16
_KV_HEADS, _GROUP, _HEAD = 2, 2, 64
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
_SIZES = ((4, 320, 1280), (4, 768, 3072))
"""(layers, hidden, feed-forward) of both models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """``r2`` of fitted times over the lengths used; ``worst``: largest relative error at the one
    held out; ``flops_only_r2`` and ``flops_only_worst``: the same without traffic; ``intensity``:
    FLOPs that take the time of a byte; ``times_s`` [model, length]."""

    r2: float
    worst: float
    intensity: float
    flops_only_r2: float
    flops_only_worst: float
    num_params: tuple[int, int]
    times_s: Floats


class _Layer:
    def __init__(self, hidden: int, ffn: int, gen: torch.Generator) -> None:
        query, kv = _KV_HEADS * _GROUP * _HEAD, _KV_HEADS * _HEAD
        shapes = {
            "q": (query, hidden),
            "kv": (2 * kv, hidden),
            "o": (hidden, query),
            "up": (2 * ffn, hidden),
            "down": (hidden, ffn),
        }
        self.w = {k: torch.randn(s, generator=gen) / s[1] ** 0.5 for k, s in shapes.items()}

    def step(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """One token a sequence; x [b, hidden]; caches [b, kv_heads, length, head], whose last
        position is written."""
        hidden = x.shape[1]
        h = rms_norm(x, (hidden,))
        q = (linear(h, self.w["q"])).view(-1, _KV_HEADS, _GROUP, _HEAD)
        kv = (linear(h, self.w["kv"])).view(-1, 2, _KV_HEADS, _HEAD)
        keys[:, :, -1], values[:, :, -1] = kv[:, 0], kv[:, 1]
        scores = torch.matmul(q, keys.transpose(2, 3)) / _HEAD**0.5
        mixed = torch.matmul(scores.softmax(dim=-1), values)
        x = x + linear(mixed.flatten(1), self.w["o"])
        gate, up = linear(rms_norm(x, (hidden,)), self.w["up"]).chunk(2, dim=1)
        return x + linear(silu(gate) * up, self.w["down"])


def step_fit(*, seed: int, repeats: int = 7, held_out: int = 4096) -> StepFit:
    """Times of all settings, and their fit without ``held_out``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(seed, repeats, held_out)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _measured(seed: int, repeats: int, held_out: int) -> StepFit:
    gen = torch.Generator().manual_seed(seed)
    models = [[_Layer(h, f, gen) for _ in range(n)] for n, h, f in _SIZES]
    params = [sum(w.numel() for layer in m for w in layer.w.values()) for m in models]
    caches = [  # one a layer, shared by both models: they are read in turn
        torch.randn(2, _BATCH, _KV_HEADS, max(_LENGTHS), _HEAD, generator=gen)
        for _ in range(max(n for n, _, _ in _SIZES))
    ]
    inputs = [torch.randn(_BATCH, hidden, generator=gen) for _, hidden, _ in _SIZES]
    best = np.full((len(models), len(_LENGTHS)), np.inf)
    for repeat in range(repeats + 1):  # the first warms up
        for m, model in enumerate(models):
            for at, length in enumerate(_LENGTHS):
                started = time.thread_time()
                x = inputs[m]
                for layer, cache in zip(model, caches, strict=False):
                    x = layer.step(x, cache[0, :, :, :length], cache[1, :, :, :length])
                taken = time.thread_time() - started
                if repeat:
                    best[m, at] = min(best[m, at], taken)
    flops, moved = np.zeros_like(best), np.zeros_like(best)
    for m, (layers, _, _) in enumerate(_SIZES):
        for at, length in enumerate(_LENGTHS):
            kv = layers * _KV_HEADS * _HEAD
            flops[m, at] = _BATCH * (2 * params[m] + 4 * length * kv * _GROUP)
            moved[m, at] = 4 * params[m] + _BATCH * 2 * 4 * length * kv
    used = np.array(_LENGTHS) != held_out
    design = np.stack([flops, moved], axis=-1)
    rates, r2, worst = _fitted(design, best, used)
    _, flops_only, flops_only_worst = _fitted(design[..., :1], best, used)
    return StepFit(
        r2=r2,
        worst=worst,
        intensity=float(rates[1] / rates[0]) if rates[0] > 0 else float("inf"),
        flops_only_r2=flops_only,
        flops_only_worst=flops_only_worst,
        num_params=(params[0], params[1]),
        times_s=best,
    )


def _fitted(
    design: Floats, times_s: Floats, used: npt.NDArray[np.bool_]
) -> tuple[Floats, float, float]:
    """Non-negative factors of least relative error on the lengths used, R² of these times, and
    the largest relative error on the others. ``design`` [model, length, part]."""
    rows, times = design[:, used].reshape(-1, design.shape[-1]), times_s[:, used].ravel()
    scale = rows.max(axis=0)
    rates, _ = nnls(rows / scale / times[:, None], np.ones_like(times))
    rates = rates / scale
    error = times - rows @ rates
    r2 = 1 - (error**2).sum() / ((times - times.mean()) ** 2).sum()
    worst = np.abs(design[:, ~used] @ rates / times_s[:, ~used] - 1).max()
    return rates, float(r2), float(worst)
