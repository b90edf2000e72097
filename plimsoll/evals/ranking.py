"""Whether predictions pick the right configuration: the best predicted against the best measured.

Rows of one group differ in configuration only. The pick is the configuration with the highest
predicted rate; it is right if its measured rate is within 5 % of the group's best. Several rows
of one configuration count as their median. Ties in prediction count as the worst of the tied,
so that a predictor that cannot tell them apart gains nothing. Beside it stand what a blind pick
would achieve and Spearman's rank correlation (0 where all predictions or all measurements tie).
Left out: how much of a difference repeated measurements would show.
Source: average ranks of ties as in Kendall (1945), doi:10.1093/biomet/33.3.239.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "TOLERANCE_FRACTION",
    "GroupRanking",
    "Ranking",
    "output_rate_per_device",
    "rank_groups",
    "spearman",
    "summarize_rankings",
]

TOLERANCE_FRACTION = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRanking:
    """One group: ``loss_fraction`` is what the pick gives away of the best measured rate."""

    group: str
    num_configurations: int
    loss_fraction: float
    blind_fraction: float
    spearman: float

    @property
    def right(self) -> bool:
        """Whether the pick is within the tolerance of the best."""
        return self.loss_fraction <= TOLERANCE_FRACTION + 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All groups together; ``blind_fraction`` is the share a random pick would get right."""

    num_groups: int
    num_configurations: int
    right_fraction: float
    blind_fraction: float
    mean_loss_fraction: float
    mean_spearman: float


def output_rate_per_device(
    concurrency: float, osl: float, ttft_s: float, tpot_s: float, num_devices: float
) -> float:
    """Output tokens/s a device of a closed loop: ``concurrency`` requests, always in flight.

    Each takes ttft + osl * tpot; think time and queueing outside of TTFT are zero.
    """
    return concurrency * osl / (ttft_s + osl * tpot_s) / num_devices


def rank_groups(
    groups: Sequence[str],
    configurations: Sequence[str],
    measured: Sequence[float] | Floats,
    predicted: Sequence[float] | Floats,
) -> tuple[GroupRanking, ...]:
    """One ranking for each group with two configurations or more, in order of appearance.

    ``measured`` and ``predicted`` are rates, more is better; rows with a NaN are left out.
    """
    seen: dict[str, dict[str, list[tuple[float, float]]]] = {}
    rows = zip(groups, configurations, measured, predicted, strict=True)
    for group, configuration, true, guess in rows:
        if np.isfinite(true) and np.isfinite(guess):
            seen.setdefault(group, {}).setdefault(configuration, []).append((true, guess))
    return tuple(
        _ranking(group, np.array([np.median(pairs, axis=0) for pairs in found.values()]))
        for group, found in seen.items()
        if len(found) > 1
    )


def _ranking(group: str, rates: Floats) -> GroupRanking:
    true, guess = rates[:, 0], rates[:, 1]
    best = true.max()
    picked = true[guess == guess.max()].min()
    return GroupRanking(
        group=group,
        num_configurations=len(true),
        loss_fraction=float(1 - picked / best),
        blind_fraction=float(np.mean(true >= (1 - TOLERANCE_FRACTION) * best)),
        spearman=spearman(true, guess),
    )


def summarize_rankings(rankings: Sequence[GroupRanking]) -> Ranking | None:
    """Means over groups, each counting once; None where there is no group."""
    if not rankings:
        return None
    return Ranking(
        num_groups=len(rankings),
        num_configurations=sum(r.num_configurations for r in rankings),
        right_fraction=float(np.mean([r.right for r in rankings])),
        blind_fraction=float(np.mean([r.blind_fraction for r in rankings])),
        mean_loss_fraction=float(np.mean([r.loss_fraction for r in rankings])),
        mean_spearman=float(np.mean([r.spearman for r in rankings])),
    )


def spearman(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """Rank correlation, ties at their average rank; 0 where one side does not vary."""
    a, b = (_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average: Floats = last - (counts - 1) / 2.0
    return average[inverse]
