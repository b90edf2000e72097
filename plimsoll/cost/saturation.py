"""The token count at which a forward pass stops getting more efficient.

Throughput of a pass of t prompt tokens, t / time(t), rises and levels off. The saturation
count is the smallest multiple of the matrix tile whose throughput is within a stated share of
the best over the range. Source: arXiv 2401.08671 (budget of Dynamic SplitFuse).
"""

from plimsoll.cost.clock import StepClock

__all__ = ["saturation_tokens"]


def saturation_tokens(
    clock: StepClock, *, most: int = 8192, tile: int = 128, within: float = 0.05
) -> int:
    """The smallest multiple of ``tile`` up to ``most`` within ``within`` of peak throughput."""
    counts = range(tile, most + 1, tile)
    rates = [tokens / clock.step_s(((tokens, 0),), 0, 0) for tokens in counts]
    best = max(rates)
    return next(
        tokens for tokens, rate in zip(counts, rates, strict=True) if rate >= (1 - within) * best
    )
