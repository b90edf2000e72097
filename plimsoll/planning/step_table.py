"""A clock sampled once, so that thousands of candidates can read it without calling it.

Decode steps at the workload's mean context on a grid of batch sizes; steps with one prompt
chunk on a grid of chunk and batch sizes; and one coefficient for attention between new and
cached tokens, which is proportional to their product. Between grid points values are
interpolated linearly in the counts. Leaves out: the spread of contexts within a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.cost.clock import StepClock

__all__ = ["StepTable", "sample_clock"]

Floats = npt.NDArray[np.float64]
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
_CHUNKS = (1, 32, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_BESIDE = (0, 8, 64, 256, 1024)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTable:
    """Stage times: ``decode_s`` at ``batches``; ``chunk_s[i, j]`` of a chunk of ``chunks[i]``
    new tokens beside ``beside[j]`` decodes; ``pair_s`` a (new token, cached token) pair."""

    num_stages: int
    batches: Floats
    decode_s: Floats
    chunks: Floats
    beside: Floats
    chunk_s: Floats
    pair_s: float

    def decode(self, batch: Floats) -> Floats:
        """Stage seconds of a decode step of ``batch`` requests (at least one)."""
        return _linear(batch, self.batches, self.decode_s)

    def extra(self, chunk: Floats, beside: Floats) -> Floats:
        """Seconds that a chunk adds to a step with ``beside`` decodes (0: all of its time)."""
        x = np.clip(chunk, self.chunks[0], None)
        i = np.clip(np.searchsorted(self.chunks, x) - 1, 0, len(self.chunks) - 2)
        j = np.clip(np.searchsorted(self.beside, beside) - 1, 0, len(self.beside) - 2)
        u = (x - self.chunks[i]) / (self.chunks[i + 1] - self.chunks[i])
        v = np.clip((beside - self.beside[j]) / (self.beside[j + 1] - self.beside[j]), 0, 1)
        low = self.chunk_s[i, j] * (1 - u) + self.chunk_s[i + 1, j] * u
        high = self.chunk_s[i, j + 1] * (1 - u) + self.chunk_s[i + 1, j + 1] * u
        result: Floats = low * (1 - v) + high * v
        return result


def _linear(x: Floats, grid: Floats, values: Floats) -> Floats:
    last = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
    inside = np.interp(x, grid, values)
    result: Floats = np.where(x > grid[-1], values[-1] + last * (x - grid[-1]), inside)
    return result


def sample_clock(
    clock: StepClock,
    *,
    context_tokens: float,
    most_requests: int,
    needs_decode: bool = True,
    needs_prefill: bool = True,
    step_s: Callable[[list[tuple[int, int]], int, int], float] | None = None,
) -> StepTable:
    """Sample ``clock`` at the mean decode context, up to ``most_requests`` a stage.

    A table that is never asked for one kind of step can leave its samples out.
    """
    call = step_s or clock.step_s
    top = max(2, most_requests)
    batches = [b for b in _BATCHES if b < top] + [top]
    context = max(1.0, context_tokens)

    def decode(batch: int) -> float:
        return call([], batch, round(batch * context)) if batch else 0.0

    decode_s = [decode(b) if needs_decode else 0.0 for b in batches]
    beside = [b for b in _BESIDE if b < top] if needs_decode else [0]
    beside.append(max(top, beside[-1] + 1) if needs_decode else 1)
    chunk_s = np.zeros((len(_CHUNKS), len(beside)))
    pair_s = 0.0
    if needs_prefill:
        for j, b in enumerate(beside):
            if not needs_decode and b:
                chunk_s[:, j] = chunk_s[:, 0]
                continue
            alone = decode(b)
            for i, chunk in enumerate(_CHUNKS):
                chunk_s[i, j] = call([(chunk, 0)], b, round(b * context)) - alone
        reference, cached = 2048, 8192
        with_cache = call([(reference, cached)], 0, 0)
        pair_s = max(0.0, (with_cache - call([(reference, 0)], 0, 0)) / (reference * cached))
    return StepTable(
        num_stages=clock.num_stages,
        batches=np.array(batches, dtype=np.float64),
        decode_s=np.array(decode_s),
        chunks=np.array(_CHUNKS, dtype=np.float64),
        beside=np.array(beside, dtype=np.float64),
        chunk_s=chunk_s,
        pair_s=pair_s,
    )
