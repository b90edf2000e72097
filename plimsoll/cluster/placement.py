"""Which devices get which blocks: blocks that follow each other go together, loads stay even.

Each block gets replicas in proportion to its load, at least one; further ones only while memory is
left for one of each. Heaviest first. Among devices with memory and load to spare a
replica goes where most of what comes before or after it in the counted chains is (a neighbor on
the same server counts half), then to the least loaded. Where no device has load to spare the least
loaded takes it. A block is replicated, never a whole model. Left out: moving blocks later, which
the run itself decides.
Source: arXiv 2404.18322 (count how often one block follows another, place frequent pairs together);
the weights of the two kinds of nearness are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plimsoll.spec.errors import InfeasibleError

__all__ = ["BlockDemand", "Site", "follow_counts", "locality_place"]

_SAME_SERVER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDemand:
    """A block to place: its bytes, and its load in devices that it would keep busy."""

    name: str
    weight_bytes: float
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A device to place on: its server, and the bytes that weights may take."""

    server: int
    memory_bytes: float


def follow_counts(
    chains: Mapping[str, Sequence[str]], shares: Mapping[str, float]
) -> dict[tuple[str, str], float]:
    """How often one block follows another, weighing each chain by its share of the requests.

    The first block follows the last: each output token passes the chain again.
    """
    counts: dict[tuple[str, str], float] = {}
    for app, chain in chains.items():
        for pair in zip(chain, [*chain[1:], chain[0]], strict=True):
            if pair[0] != pair[1]:
                counts[pair] = counts.get(pair, 0.0) + shares[app]
    return counts


def locality_place(
    blocks: Sequence[BlockDemand],
    follows: Mapping[tuple[str, str], float],
    sites: Sequence[Site],
    *,
    copies: float = 1.0,
    slack: float = 1.1,
) -> list[set[str]]:
    """The blocks of each site. Without ``follows`` loads alone decide.

    ``copies`` multiplies the replicas wished. ``slack``: a site takes at most this times the mean
    load before others are preferred.

    Raises:
        InfeasibleError: a block fits on no site.
    """
    total = sum(block.load for block in blocks)
    wished = {b.name: max(1, min(len(sites), math.ceil(copies * b.load - 1e-9))) for b in blocks}
    mean = total / len(sites)
    placed: list[set[str]] = [set() for _ in sites]
    used = [0.0] * len(sites)
    loads = [0.0] * len(sites)
    near: dict[str, dict[str, float]] = {}
    for (a, b), count in follows.items():
        for x, y in ((a, b), (b, a)):
            near.setdefault(x, {})[y] = near.get(x, {}).get(y, 0.0) + count
    order = sorted(blocks, key=lambda b: (-b.load / wished[b.name], b.name))
    first = sum(block.weight_bytes for block in blocks)
    left = sum(site.memory_bytes for site in sites)
    for block, again in [(b, i > 0) for b in order for i in range(wished[b.name])]:
        share = block.load / wished[block.name]
        fits = [
            i
            for i, site in enumerate(sites)
            if block.name not in placed[i] and used[i] + block.weight_bytes <= site.memory_bytes
        ]
        if again and left - block.weight_bytes < first:
            continue
        if not fits:
            if again:
                continue
            raise InfeasibleError(
                f"block {block.name} of {block.weight_bytes / 1e9:.1f} GB fits on none of "
                f"{len(sites)} devices",
                binding="memory",
            )
        spare = [i for i in fits if loads[i] + share <= slack * mean]
        spare = spare or [min(fits, key=lambda i: (loads[i], i))]
        affinity = {i: _affinity(i, near.get(block.name, {}), placed, sites) for i in spare}
        best = min(spare, key=lambda i: (-affinity[i], loads[i], i))
        placed[best].add(block.name)
        used[best] += block.weight_bytes
        loads[best] += share
        left -= block.weight_bytes
        first -= 0.0 if again else block.weight_bytes
    return placed


def _affinity(
    site: int, near: Mapping[str, float], placed: Sequence[set[str]], sites: Sequence[Site]
) -> float:
    """Passes of requests between a block at ``site`` and its neighbors that need no network."""
    found = 0.0
    for name, count in near.items():
        if name in placed[site]:
            found += count
        elif any(
            name in placed[i] and other.server == sites[site].server
            for i, other in enumerate(sites)
        ):
            found += _SAME_SERVER * count
    return found
