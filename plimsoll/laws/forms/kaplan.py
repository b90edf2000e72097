"""Kaplan's surface L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D: no floor, one joint exponent.

``params`` leave embeddings out. Leaves out: an irreducible loss, so extrapolations fall too far;
repeated data.
Source: arXiv 2001.08361, equation 1.5, with the constants of its table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import log_sum

__all__ = ["KAPLAN_PUBLISHED", "Kaplan"]

KAPLAN_PUBLISHED = MappingProxyType(
    {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
)


@dataclass(frozen=True, slots=True)
class Kaplan:
    """See the module text."""

    name: str = "kaplan"
    title: str = "Kaplan"
    formula: str = "L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D"
    source: str = "arXiv 2001.08361"
    leaves_out: str = "losses with a floor, which it falls through; data seen more than once"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "tokens": 3}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln N_c, ln D_c, alpha_N, alpha_D)."""
        return (
            Coordinate(
                name="ln N_c", low=0.0, high=90.0, meaning="scale of parameters", unit="params"
            ),
            Coordinate(name="ln D_c", low=0.0, high=90.0, meaning="scale of tokens", unit="tokens"),
            Coordinate(name="alpha_N", low=0.005, high=1.5, meaning="exponent of parameters"),
            Coordinate(name="alpha_D", low=0.005, high=1.5, meaning="exponent of tokens"),
        )

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return theta[..., 3, None] * log_sum(self._terms(theta, x))[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        n_c, d_c, by_n, by_d = (theta[..., i, None] for i in range(4))
        total, (share_n, share_d) = log_sum(self._terms(theta, x))
        left = n_c - np.log(x["params"])
        return np.stack(
            [
                share_n * by_n,
                share_d * by_d + 0.0 * d_c,
                share_n * left,
                total - share_n * left * by_n / by_d,
            ],
            axis=-1,
        )

    def _terms(self, theta: Floats, x: Inputs) -> list[Floats]:
        n_c, d_c, by_n, by_d = (theta[..., i, None] for i in range(4))
        return [by_n / by_d * (n_c - np.log(x["params"])), d_c - np.log(x["tokens"])]

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """A grid of exponents; scales such that each limit alone gives the middle loss."""
        exponents = grid((0.03, 0.06, 0.1, 0.2), (0.03, 0.06, 0.1, 0.2, 0.35))
        middle = float(np.median(np.log(loss)))
        sizes = float(np.median(np.log(x["params"])))
        tokens = float(np.median(np.log(x["tokens"])))
        scales = np.stack(
            [sizes + middle / exponents[:, 0], tokens + middle / exponents[:, 1]], axis=1
        )
        return np.concatenate([scales, exponents], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """N_c, D_c, alpha_N, alpha_D."""
        n_c, d_c, by_n, by_d = theta.tolist()
        return {
            "N_c": float(np.exp(n_c)),
            "D_c": float(np.exp(d_c)),
            "alpha_N": by_n,
            "alpha_D": by_d,
        }

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return np.array(
            [np.log(named["N_c"]), np.log(named["D_c"]), named["alpha_N"], named["alpha_D"]]
        )
