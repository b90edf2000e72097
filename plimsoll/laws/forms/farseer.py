"""Farseer: the exponent of data depends on size. L = exp(a3·N^γ + b3) + B(N)·D^(−A(N)).

A(N) = exp(a1·N^α + b1), B(N) = exp(a2·N^β + b2). Nine parameters, so a fit needs a dense design
and is made in stages (``laws.farseer_stages``), not from a grid of starts. The form is not
invariant to the unit of D: tokens must be raw counts. Leaves out: repeated data; sizes outside
the fit, where the first term keeps falling and no optimum need exist.
Source: arXiv 2506.10972, equation 15 for the constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs
from plimsoll.laws.forms.powers import log_sum

__all__ = ["FARSEER_PUBLISHED", "Farseer"]

_MEANINGS = {
    "a1": ("slope in N^alpha of ln A(N), the exponent of tokens", "params^-alpha"),
    "b1": ("ln A(N) without its slope", ""),
    "alpha": ("power of N in A(N)", ""),
    "a2": ("slope in N^beta of ln B(N), the factor of tokens", "params^-beta"),
    "b2": ("ln B(N) without its slope", ""),
    "beta": ("power of N in B(N)", ""),
    "a3": ("slope in N^gamma of ln of the floor", "params^-gamma"),
    "b3": ("ln of the floor without its slope", ""),
    "gamma": ("power of N in the floor", ""),
}
_NAMES = tuple(_MEANINGS)
FARSEER_PUBLISHED = MappingProxyType(
    {
        "a1": -0.124,
        "b1": 0.424,
        "alpha": 0.123,
        "a2": 88.01,
        "b2": -6.287,
        "beta": -0.1,
        "a3": -0.021,
        "b3": -0.091,
        "gamma": 0.169,
    }
)


@dataclass(frozen=True, slots=True)
class Farseer:
    """See the module text."""

    name: str = "farseer"
    title: str = "Farseer"
    formula: str = "L = exp(a3*N^gamma + b3) + exp(a2*N^beta + b2) * D^(-exp(a1*N^alpha + b1))"
    source: str = "arXiv 2506.10972"
    leaves_out: str = "sizes and tokens outside the box of the fit; data seen more than once"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 8, "tokens": 5}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """As printed: a1, b1, alpha, a2, b2, beta, a3, b3, gamma."""
        wide = {"a": (-1e6, 1e6), "b": (-1e6, 1e6)}
        found = []
        for name in _NAMES:
            low, high = wide.get(name[0], (-0.6, 0.6)) if len(name) == 2 else (-0.6, 0.6)
            meaning, unit = _MEANINGS[name]
            found.append(Coordinate(name=name, low=low, high=high, meaning=meaning, unit=unit))
        return tuple(found)

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(self._terms(theta, x))[0]

    def _terms(self, theta: Floats, x: Inputs) -> list[Floats]:
        a1, b1, alpha, a2, b2, beta, a3, b3, gamma = (theta[..., i, None] for i in range(9))
        n, log_d = np.log(x["params"]), np.log(x["tokens"])
        exponent = np.exp(np.minimum(a1 * np.exp(alpha * n) + b1, 50.0))
        return [
            a3 * np.exp(gamma * n) + b3,
            a2 * np.exp(beta * n) + b2 - exponent * log_d,
        ]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        a1, b1, alpha, a2, _, beta, a3, _, gamma = (theta[..., i, None] for i in range(9))
        n, log_d = np.log(x["params"]), np.log(x["tokens"])
        _, (floor, rest) = log_sum(self._terms(theta, x))
        power_a, power_b, power_g = np.exp(alpha * n), np.exp(beta * n), np.exp(gamma * n)
        exponent = np.exp(np.minimum(a1 * power_a + b1, 50.0))
        by_exponent = -rest * exponent * log_d
        return np.stack(
            [
                by_exponent * power_a,
                by_exponent,
                by_exponent * a1 * power_a * n,
                rest * power_b,
                rest + 0 * power_b,
                rest * a2 * power_b * n,
                floor * power_g,
                floor + 0 * power_g,
                floor * a3 * power_g * n,
            ],
            axis=-1,
        )

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """The published surface alone; fits begin from the stages instead."""
        return self.coordinates_of(FARSEER_PUBLISHED)[None, :]

    def named(self, theta: Floats) -> dict[str, float]:
        """The nine parameters."""
        return dict(zip(_NAMES, theta.tolist(), strict=True))

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return np.array([named[name] for name in _NAMES])
