"""A mixture of Student-t distributions a point: what a forecaster of series puts out.

Degrees of freedom lie between bounds by construction, above 2 so that every component has a
variance; scales have a floor. The median lies between the smallest and the largest center, since
components are symmetric, and is found there by bisection.
Leaves out: dependence between points. Source: arXiv 2402.02592 (mixture heads for series).

Legend: S components; any shape of points before it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import stdtr
from torch import Tensor
from torch.nn import functional

__all__ = ["DF_BOUNDS", "PARAMETERS", "SCALE_FLOOR", "StudentTMixture"]

DF_BOUNDS = (2.1, 100.0)
SCALE_FLOOR = 1e-3
PARAMETERS = 4
"""Raw numbers a component."""
_BISECTIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentTMixture:
    """``log_weight`` (normalised), ``center``, ``scale`` and ``df``, each [..., S]."""

    log_weight: Tensor
    center: Tensor
    scale: Tensor
    df: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> "StudentTMixture":
        """From unbounded numbers [..., S, 4]: any finite input is a valid distribution."""
        weight, center, scale, df = raw.unbind(-1)
        low, high = DF_BOUNDS
        return cls(
            log_weight=weight.log_softmax(-1),
            center=center,
            scale=functional.softplus(scale) + SCALE_FLOOR,
            df=low + (high - low) * torch.sigmoid(df),
        )

    def log_prob(self, values: Tensor) -> Tensor:
        """ln of the density at ``values``, of the shape of the points."""
        z = (values[..., None] - self.center) / self.scale
        half = 0.5 * (self.df + 1)
        inside = (
            torch.lgamma(half)
            - torch.lgamma(0.5 * self.df)
            - 0.5 * torch.log(self.df * math.pi)
            - self.scale.log()
            - half * torch.log1p(z.square() / self.df)
        )
        return torch.logsumexp(self.log_weight + inside, dim=-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One value a point."""
        flat = self.log_weight.exp().flatten(0, -2)
        pick = torch.multinomial(flat, 1, generator=generator).view(*self.center.shape[:-1], 1)
        center, scale, df = (p.gather(-1, pick)[..., 0] for p in (self.center, self.scale, self.df))
        normal = torch.randn(center.shape, generator=generator)
        # chi-square over its degrees of freedom, as a Gamma
        squares = torch._standard_gamma(0.5 * df, generator=generator) * 2 / df
        return center + scale * normal / squares.sqrt()

    def median(self) -> Tensor:
        """Of each point."""
        weight, center, scale, df = (
            p.double().numpy() for p in (self.log_weight.exp(), self.center, self.scale, self.df)
        )
        low, high = center.min(axis=-1), center.max(axis=-1)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = (weight * stdtr(df, (middle[..., None] - center) / scale)).sum(axis=-1)
            low, high = np.where(below < 0.5, middle, low), np.where(below < 0.5, high, middle)
        found: npt.NDArray[np.float64] = 0.5 * (low + high)
        return torch.from_numpy(found)

    def pooled(self, paths: int) -> "StudentTMixture":
        """The mean of the distributions of ``paths`` equally likely pasts, which stand next to
        each other in the first dimension: [n·paths, ..., S] to [n, ..., paths·S]."""

        def beside(part: Tensor) -> Tensor:
            split = part.view(-1, paths, *part.shape[1:])
            return split.movedim(1, -2).flatten(-2)

        return StudentTMixture(
            log_weight=beside(self.log_weight) - math.log(paths),
            center=beside(self.center),
            scale=beside(self.scale),
            df=beside(self.df),
        )
