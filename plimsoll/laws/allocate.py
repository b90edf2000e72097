"""How to spend compute: the size and the tokens of least loss for so many FLOPs.

Training costs 6·N·D, serving T tokens over the model's life 2·N·T. With a serving load the same
loss is cheaper from a smaller model on more tokens. The minimum is sought inside the box of the
fit, stretched by a stated factor: outside it a form may have no minimum at all, and the answer
then stands at the edge and says so.
Leaves out: attention's own FLOPs, unequal prices of training and serving FLOPs (see
``serve_weight``), repeated data.
Sources: arXiv 2203.15556; arXiv 2401.00448 (lifetime compute).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.law import Law
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = ["Allocation", "budget_text", "compute_optimal", "tokens_for"]

_POINTS = 4001
_ZOOMS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """``params`` and ``tokens`` of least ``loss`` for ``flops`` in all, ``serve_flops`` of them
    for serving. ``edge``: which limit of the box the answer stands at, "" for a true minimum."""

    params: float
    tokens: float
    loss: float
    flops: float
    serve_flops: float
    edge: str

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.params


def tokens_for(
    params: Floats,
    flops: float,
    serve_tokens: float,
    serve_weight: float | Callable[[Floats], Floats],
) -> Floats:
    """Training tokens that the rest of the budget buys at each size; not positive if none."""
    if not serve_tokens:
        return np.asarray(flops / (6 * params))
    weight = serve_weight(params) if callable(serve_weight) else serve_weight
    return np.asarray((flops - weight * 2 * params * serve_tokens) / (6 * params))


def compute_optimal(
    law: Law,
    flops: float,
    *,
    serve_tokens: float = 0.0,
    serve_weight: float | Callable[[Floats], Floats] = 1.0,
    stretch: float = 10.0,
    num: int = _POINTS,
) -> Allocation:
    """The best split of ``flops``. ``serve_weight``: what a serving FLOP costs beside a training
    one, also as a function of sizes; ``stretch``: how far beyond the fit's box sizes and tokens
    may lie; ``num`` sizes are tried, and as many between the neighbors of the best.

    Raises:
        SpecError: a budget or a factor that cannot be, or a form without params and tokens.
        InfeasibleError: no size in the box leaves tokens in the box.
    """
    if law.form.inputs != ("params", "tokens"):
        if "unique" in law.form.inputs:
            raise SpecError(
                f"{law.form.name} is a law of limited tokens; say with --unique how many different "
                "ones there are"
            )
        instead = "fit a form of these"
        if "streams" in law.form.inputs:
            instead += ", or trade streams against params with plimsoll laws streams"
        if "datastore" in law.form.inputs:
            instead += ", or split it three ways with plimsoll laws datastore"
        raise SpecError(
            f"{law.form.name} has inputs {', '.join(law.form.inputs)}; compute is split "
            f"between params and tokens, {instead}"
        )
    for name, value, least in (
        ("flops", flops, 1.0),
        ("serve tokens", serve_tokens, 0.0),
        ("serve weight", 1.0 if callable(serve_weight) else serve_weight, 0.0),
        ("stretch", stretch, 1.0),
    ):
        if not (np.isfinite(value) and value >= least):
            raise SpecError(f"{name} is {value:g}; expected {least:g} or more")
    (n_low, n_high), (d_low, d_high) = law.box["params"], law.box["tokens"]
    n_low, n_high = n_low / stretch, n_high * stretch
    d_low, d_high = d_low / stretch, d_high * stretch
    low, high = np.log(n_low), np.log(n_high)
    edge = ""
    best = low
    for zoom in range(_ZOOMS):
        sizes = np.exp(np.linspace(low, high, num))
        tokens = tokens_for(sizes, flops, serve_tokens, serve_weight)
        inside = (tokens >= d_low) & (tokens <= d_high)
        if not inside.any():
            raise InfeasibleError(
                f"{budget_text(flops)} FLOPs: no size from {n_low:.3g} to {n_high:.3g} leaves "
                f"{d_low:.3g} to {d_high:.3g} tokens",
                binding=f"the fit's box, stretched {stretch:g} times",
                change="fit runs nearer to this budget, or stretch the box further (laws allocate "
                "--stretch)",
            )
        keep = np.flatnonzero(inside)
        x = {"params": sizes[keep], "tokens": tokens[keep]}
        at = int(np.argmin(law.form.log_loss(law.theta, x)))
        if zoom == 0:
            edge = _edge(at, keep, sizes, n_low, n_high)
        best = float(np.log(sizes[keep[at]]))
        step = (high - low) / (num - 1)
        low, high = best - step, best + step
        if edge:
            break
    size = float(np.exp(best))
    token = float(tokens_for(np.array([size]), flops, serve_tokens, serve_weight)[0])
    loss = float(law.predict({"params": np.array([size]), "tokens": np.array([token])})[0])
    return Allocation(
        params=size,
        tokens=token,
        loss=loss,
        flops=flops,
        serve_flops=2 * size * serve_tokens,
        edge=edge,
    )


def budget_text(flops: float) -> str:
    """As it is typed, 1e22."""
    return f"{flops:.3g}".replace("e+", "e")


def _edge(at: int, keep: npt.NDArray[np.int64], sizes: Floats, n_low: float, n_high: float) -> str:
    """The limit an answer stands at."""
    if 0 < at < len(keep) - 1:
        return ""
    size = float(sizes[keep[at]])
    if np.isclose(size, n_high):
        return f"the largest size allowed, {n_high:.3g}"
    if np.isclose(size, n_low):
        return f"the smallest size allowed, {n_low:.3g}"
    return "the most tokens allowed" if at == 0 else "the fewest tokens allowed"
