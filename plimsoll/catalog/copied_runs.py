"""Real copies of KV between two memories, in runs of blocks."""

import random
import time

import torch

from plimsoll.spec.errors import ExecutionError

__all__ = ["copy_gain"]


def copy_gain(
    run_blocks: int,
    *,
    seed: int,
    total_bytes: int = 64 * 2**20,
    piece_bytes: int = 32 * 2**10,
    repeats: int = 7,
) -> float:
    """How much faster runs of ``run_blocks`` are copied than single pieces, by the medians.

    Both copy the same bytes out of a pool twice as large, a call of torch for each piece or run,
    in random order and in turns. Runs lie apart in the pool; so do pieces.

    Raises:
        ExecutionError: a copy differs from what was to be copied.
    """
    num_pieces = total_bytes // piece_bytes
    values = torch.Generator().manual_seed(seed)
    room = 2 * (num_pieces + run_blocks)
    pool = torch.randint(0, 2**31, (room, piece_bytes // 4), generator=values).int()
    target = torch.zeros(num_pieces, piece_bytes // 4, dtype=torch.int32)
    spent_s: dict[int, list[float]] = {1: [], -1: []}
    for repeat in range(repeats + 1):
        for kind, length in ((1, 1), (-1, run_blocks)):
            runs = _runs(num_pieces, length, random.Random(seed + repeat))
            target.zero_()
            started_s = time.perf_counter()
            for source, first, blocks in runs:
                target[first : first + blocks].copy_(pool[source : source + blocks])
            if repeat:  # the first round warms memory up
                spent_s[kind].append(time.perf_counter() - started_s)
            for source, first, blocks in runs:
                if not torch.equal(target[first : first + blocks], pool[source : source + blocks]):
                    raise ExecutionError(f"blocks {first} to {first + blocks} were copied wrongly")
    return _median(spent_s[1]) / _median(spent_s[-1])


def _runs(num_pieces: int, length: int, rng: random.Random) -> list[tuple[int, int, int]]:
    """(place in the pool, place in the target, blocks) of each run."""
    starts = list(range(0, num_pieces, length))
    places = list(range(len(starts)))
    rng.shuffle(places)
    return [
        (2 * length * place, start, min(length, num_pieces - start))
        for place, start in zip(places, starts, strict=True)
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
