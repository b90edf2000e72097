"""Curves of a law that pictures show: contours of loss, loss against size, the optimal path.

A contour is found along rays of constant tokens a parameter, on which every form here falls; each
point is bisected to rounding. An iso-FLOP curve holds the sizes near its least loss. The path
holds true minima only: budgets whose answer stands at an edge are left out.
Source: arXiv 2203.15556, figures 2 to 4.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.allocate import Allocation, compute_optimal, tokens_for
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.law import Law
from plimsoll.spec.errors import InfeasibleError

__all__ = ["IsoFlop", "contours", "iso_flop", "levels", "optimal_path"]

_HALVINGS = 45
_GRID = 2001
_COARSE = 401  # sizes of a first look; smooth curves need no more

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlop:
    """``loss`` [k] at ``params`` [k], rising, for one budget; ``least`` is the best split of it."""

    params: Floats
    tokens: Floats
    loss: Floats
    least: Allocation

    def within(self, fraction: float) -> Range:
        """The sizes whose loss is at most ``fraction`` above the least."""
        near = self.params[self.loss <= self.least.loss * (1 + fraction)]
        both = (*near.tolist(), self.least.params)
        return min(both), max(both)


def contours(
    law: Law, losses: Sequence[float], *, params: Range, tokens: Range, num: int = 160
) -> list[tuple[Floats, Floats]]:
    """For each of ``losses`` the sizes and tokens, [k] each, at which the law gives it, inside both
    ranges; k is 0 where it never does. Sizes fall, tokens rise."""
    (a, b), (c, d) = np.log(params), np.log(tokens)
    rays = np.linspace(c - b, d - a, num + 2)[1:-1]  # ln of tokens a parameter
    wanted = np.repeat(np.log(np.asarray(losses, dtype=float)), num)
    ratio = np.tile(rays, len(losses))
    low = np.maximum(2 * a + ratio, 2 * c - ratio)  # ln of params times tokens
    high = np.minimum(2 * b + ratio, 2 * d - ratio)

    def excess(product: Floats) -> Floats:
        x = {"params": np.exp((product - ratio) / 2), "tokens": np.exp((product + ratio) / 2)}
        return law.form.log_loss(law.theta, x) - wanted

    meets = (excess(low) >= 0) & (excess(high) <= 0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = excess(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    sizes, counts = np.exp((high - ratio) / 2), np.exp((high + ratio) / 2)
    pieces = [slice(k * num, (k + 1) * num) for k in range(len(losses))]
    return [(sizes[p][meets[p]], counts[p][meets[p]]) for p in pieces]


def levels(law: Law, *, params: Range, tokens: Range, count: int = 9) -> list[float]:
    """Losses of contours that cross the ranges evenly, to three digits, falling."""
    steps = (np.arange(count) + 0.5) / count
    x = {
        name: np.exp(np.log(low) + steps * np.log(high / low))
        for name, (low, high) in (("params", params), ("tokens", tokens))
    }
    return sorted({float(f"{loss:.3g}") for loss in law.predict(x)}, reverse=True)


def iso_flop(
    law: Law,
    flops: float,
    *,
    serve_tokens: float = 0.0,
    serve_weight: float | Callable[[Floats], Floats] = 1.0,
    stretch: float = 10.0,
    rise: float = 0.08,
    num: int = 121,
) -> IsoFlop:
    """Losses of ``num`` sizes around the best, up to ``rise`` above the least.

    Raises:
        SpecError, InfeasibleError: see ``compute_optimal``.
    """
    least = compute_optimal(
        law, flops, serve_tokens=serve_tokens, serve_weight=serve_weight, stretch=stretch
    )

    def at(sizes: Floats) -> tuple[Floats, Floats]:
        tokens = tokens_for(sizes, flops, serve_tokens, serve_weight)
        low, high = law.box["tokens"]
        inside = (tokens >= low / stretch) & (tokens <= high * stretch)
        loss = np.full_like(sizes, np.inf)
        loss[inside] = law.predict({"params": sizes[inside], "tokens": tokens[inside]})
        return tokens, loss

    smallest, largest = law.box["params"]
    sizes = np.geomspace(smallest / stretch, largest * stretch, _GRID)
    _, loss = at(sizes)
    near = loss <= least.loss * (1 + rise)
    best = int(np.argmin(loss))
    left = best - int(np.argmin(near[best::-1])) + 1 if not near[: best + 1].all() else 0
    right = best + int(np.argmin(near[best:])) if not near[best:].all() else len(sizes)
    sizes = np.geomspace(sizes[left], sizes[right - 1], num)
    tokens, loss = at(sizes)
    kept = np.isfinite(loss)
    return IsoFlop(params=sizes[kept], tokens=tokens[kept], loss=loss[kept], least=least)


def optimal_path(
    law: Law, flops: Iterable[float], *, stretches: Sequence[float] = (10.0,)
) -> list[Allocation]:
    """The best splits of these budgets, without those at an edge of what is looked at.

    ``stretches``: how far beyond the box to look, nearest first: a form that bends down far away
    still has its minimum near its points.
    """
    found = []
    for budget in flops:
        for stretch in stretches:
            try:
                one = compute_optimal(law, float(budget), stretch=stretch, num=_COARSE)
            except InfeasibleError:
                continue
            if not one.edge:
                found.append(one)
                break
    return found
