"""Estimates of single distributions: Gamma gaps, Zipf prompts, lognormal modes of outputs.

Maximum likelihood throughout. The truncated Zipf exponent maximizes its likelihood over the
observed range, so nothing above the limit is needed; modes come from expectation-maximization on
log lengths, one or two of them by the Bayesian information criterion.
"""

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.lengths import (
    Length,
    LognormalLength,
    MixtureLength,
    QuantileLength,
    ZipfLength,
)

__all__ = [
    "fit_gamma_shape",
    "fit_modes",
    "fit_output",
    "fit_prompt",
    "fit_zipf",
    "ks_to_exponential",
    "ks_to_gamma",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GOOD_KS = 0.05
_SHAPES = (1e-4, 1e4)
_TINY = 1e-9
_LEVELS = tuple(
    [0.0, 0.01, 0.02, 0.05, *(round(0.025 * i, 3) for i in range(3, 39))]
    + [0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.997, 0.998, 0.999, 0.9995, 1.0]
)


def _resolution(gaps: Floats) -> float:
    """Gaps below this are known to be short, not how short: clocks tick and floats round."""
    positive = gaps[gaps > 0]
    if not len(positive):
        raise SpecError("all gaps are zero: requests arrive at one time; nothing to fit")
    least = _TINY * float(gaps.mean())
    return max(least, float(positive.min())) if len(positive) < len(gaps) else least


def fit_gamma_shape(gaps: Floats) -> float:
    """Maximum-likelihood shape at the sample mean; gaps below the resolution are censored."""
    from scipy.optimize import minimize_scalar
    from scipy.special import gammainc, gammaln

    edge = _resolution(gaps)
    mean = float(gaps.mean())
    seen = gaps[gaps >= edge] / mean
    hidden = len(gaps) - len(seen)
    logs, total = float(np.log(seen).sum()), float(seen.sum())

    def loss(log_shape: float) -> float:
        shape = float(np.exp(log_shape))
        likelihood = len(seen) * (shape * log_shape - float(gammaln(shape)))
        likelihood += (shape - 1) * logs - shape * total
        if hidden:
            share = float(gammainc(shape, shape * edge / mean))
            likelihood += hidden * float(np.log(max(share, 1e-300)))
        return -likelihood

    bounds = (float(np.log(_SHAPES[0])), float(np.log(_SHAPES[1])))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return float(np.exp(best.x))


def _ks(sorted_cdf: Floats, from_rank: int = 0) -> float:
    """Largest distance of an empirical to a stated distribution, from a rank upwards."""
    n = len(sorted_cdf)
    steps = np.arange(n + 1) / n
    above = np.max(steps[1:][from_rank:] - sorted_cdf[from_rank:])
    return float(max(above, np.max(sorted_cdf[from_rank:] - steps[:-1][from_rank:]), 0.0))


def ks_to_gamma(gaps: Floats, alpha: float) -> float:
    """Kolmogorov-Smirnov distance of gaps to the Gamma of that shape and the same mean.

    Taken over gaps above the resolution.
    """
    from scipy.special import gammainc

    ordered = np.sort(gaps)
    cdf = np.asarray(gammainc(alpha, ordered * (alpha / gaps.mean())))
    return _ks(cdf, int(np.searchsorted(ordered, _resolution(gaps))))


def ks_to_exponential(gaps: Floats) -> float:
    """The same distance to Poisson arrivals of the same rate."""
    return _ks(-np.expm1(-np.sort(gaps) / gaps.mean()))


def fit_zipf(tokens: Ints) -> ZipfLength:
    """Maximum-likelihood exponent over the observed range."""
    from scipy.optimize import minimize_scalar

    low, high = int(tokens.min()), int(min(tokens.max(), 4 * 10**6))
    logs = np.log(np.arange(low, high + 1))
    mean_log = float(np.log(np.minimum(tokens, high)).mean())

    def loss(exponent: float) -> float:
        powers = -exponent * logs
        top = powers.max()
        return float(exponent * mean_log + top + np.log(np.exp(powers - top).sum()))

    best = minimize_scalar(loss, bounds=(0.01, 20.0), method="bounded")
    return ZipfLength(exponent=float(best.x), low=low, high=high)


def fit_modes(tokens: Ints) -> MixtureLength:
    """One or two lognormal modes, the smaller first."""
    logs = np.log(tokens.astype(np.float64))
    low, high = int(tokens.min()), int(max(tokens.max(), tokens.min() + 1))

    def mode(mean: float, sigma: float) -> LognormalLength:
        return LognormalLength(median=float(np.exp(mean)), sigma=float(sigma), low=low, high=high)

    n = len(logs)
    means, sigmas, weights, two = _two_modes(logs)
    spread = max(float(logs.std()), 0.05)
    one = float(-n * (np.log(spread) + 0.5 * np.log(2 * np.pi)) - n / 2)
    if n < 50 or -2 * two + 5 * np.log(n) >= -2 * one + 2 * np.log(n):
        return MixtureLength(weights=(1.0,), parts=(mode(float(logs.mean()), spread),))
    order = np.argsort(means)
    return MixtureLength(
        weights=tuple(float(weights[k]) for k in order),
        parts=tuple(mode(means[k], sigmas[k]) for k in order),
    )


def _two_modes(logs: Floats) -> tuple[Floats, Floats, Floats, float]:
    """Means, spreads, weights and log-likelihood of the better of two starts."""
    results = []
    # Counts of equal values make the steps independent of the number of requests.
    values, counts = np.unique(logs, return_counts=True)
    for split in (0.3, 0.7):
        cut = np.quantile(logs, split)
        lower, upper = logs[logs <= cut], logs[logs > cut]
        if not len(upper):
            upper = lower
        means = np.array([lower.mean(), upper.mean()])
        sigmas = np.maximum([lower.std(), upper.std()], 0.05)
        weights = np.array([split, 1 - split])
        last = -np.inf
        for _ in range(500):
            z = (values[:, None] - means) / sigmas
            dense = np.log(weights) - np.log(sigmas) - 0.5 * z**2 - 0.5 * np.log(2 * np.pi)
            top = dense.max(axis=1, keepdims=True)
            total = top[:, 0] + np.log(np.exp(dense - top).sum(axis=1))
            likelihood = float((counts * total).sum())
            part = np.exp(dense - total[:, None]) * counts[:, None]
            mass = np.maximum(part.sum(axis=0), 1e-9)
            weights = mass / mass.sum()
            means = (part * values[:, None]).sum(axis=0) / mass
            spread = (part * (values[:, None] - means) ** 2).sum(axis=0) / mass
            sigmas = np.maximum(np.sqrt(spread), 0.05)
            if likelihood - last < 1e-7 * len(logs):
                break
            last = likelihood
        results.append((means, sigmas, weights, likelihood))
    return max(results, key=lambda r: r[3])


def _table(tokens: Ints) -> QuantileLength:
    return QuantileLength(
        levels=_LEVELS, tokens=tuple(float(q) for q in np.quantile(tokens, _LEVELS))
    )


def _distance(tokens: Ints, length: Length) -> float:
    """Distance of the data to a fitted distribution, over quantiles of the latter."""
    u = (np.arange(2000) + 0.5) / 2000
    edges = np.sort(np.rint(length.at(u)))
    data = np.sort(tokens)
    points = np.unique(edges)
    below = np.searchsorted(data, points, side="right") / len(data)
    model = np.searchsorted(edges, points, side="right") / len(edges)
    return float(np.abs(below - model).max())


def fit_prompt(tokens: Ints) -> Length:
    """A truncated Zipf law if it is near the data, a table of quantiles otherwise."""
    law = fit_zipf(tokens)
    return law if _distance(tokens, law) <= _GOOD_KS else _table(tokens)


def fit_output(tokens: Ints) -> Length:
    """Lognormal modes if they are near the data, a table of quantiles otherwise."""
    modes = fit_modes(tokens)
    return modes if _distance(tokens, modes) <= _GOOD_KS else _table(tokens)
