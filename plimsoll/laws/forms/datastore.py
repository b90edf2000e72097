"""A datastore beside parameters and tokens: L = E + A/N^α + B/D^β + C/(1 + S/S0)^γ.

``datastore`` S is what the model may retrieve from, in tokens, 0 for a model alone: then the last
term is C, what is lost for want of facts at hand, and a store takes it away without an end. The
term is ours: the study of datastores prints curves that fall in ln S with no end in sight, neither
a form nor its points, so there are no published constants and a fit needs runs of one's own, some
of them without a store.
Leaves out: larger models that read what they retrieve better (the terms only add up); a retriever
or a number of chunks other than that of the runs.
Sources: arXiv 2203.15556 for the first three terms; arXiv 2407.12854 for the curves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.chinchilla import Chinchilla
from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["DatastoreTerm"]

_EXPONENTS = (0.1, 0.3, 0.6, 1.0)
_GAMMAS = (0.1, 0.3, 1.0)
_KEEP = 12
_COORDINATES = (
    Coordinate(name="ln E", low=-9.0, high=4.0, meaning="loss that nothing removes", unit="loss"),
    *Chinchilla().coordinates[1:3],
    Coordinate(name="ln C", low=-9.0, high=4.0, meaning="what a model alone loses", unit="loss"),
    *Chinchilla().coordinates[3:],
    Coordinate(name="gamma", low=0.01, high=4.0, meaning="exponent of the datastore"),
    Coordinate(
        name="ln S0", low=0.0, high=40.0, meaning="tokens where a store tells", unit="tokens"
    ),
)


@dataclass(frozen=True, slots=True)
class DatastoreTerm:
    """See the module text."""

    name: str = "datastore"
    title: str = "Chinchilla with a datastore"
    formula: str = "L = E + A/N^alpha + B/D^beta + C/(1 + S/S0)^gamma"
    source: str = "term of ours, for the curves of arXiv 2407.12854"
    leaves_out: str = "larger models that use a datastore better; other retrievers"
    inputs: tuple[str, ...] = ("params", "tokens", "datastore")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "tokens": 3, "datastore": 4}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, ln B, ln C, alpha, beta, gamma, ln S0)."""
        return _COORDINATES

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(_terms(theta, x))[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        _, (e, a, b, c) = log_sum(_terms(theta, x))
        gamma = theta[..., 6, None]
        ratio = x["datastore"] / np.exp(theta[..., 7, None])
        return np.stack(
            [
                e,
                a,
                b,
                c,
                -a * np.log(x["params"]),
                -b * np.log(x["tokens"]),
                -c * np.log1p(ratio),
                c * gamma * ratio / (1 + ratio),
            ],
            axis=-1,
        )

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """The best of a grid of exponents and of S0 among the stores of the runs."""
        stores = x["datastore"][x["datastore"] > 0]
        scales = np.geomspace(stores.min() / 10, stores.max(), 4) if len(stores) else [1.0]
        rows = grid(_EXPONENTS, _EXPONENTS, _GAMMAS, np.maximum(scales, 1.0).tolist())

        def columns(row: Floats) -> list[Floats]:
            alpha, beta, gamma, scale = row
            falls = (1 + x["datastore"] / scale) ** -gamma
            return [x["params"] ** -alpha, x["tokens"] ** -beta, falls]

        best, factors = linear_starts(rows, columns, loss, keep=_KEEP)
        return np.concatenate([np.log(factors), best[:, :3], np.log(best[:, 3:])], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, B, C, alpha, beta, gamma, S0."""
        e, a, b, c, alpha, beta, gamma, scale = theta.tolist()
        return {
            "E": float(np.exp(e)),
            "A": float(np.exp(a)),
            "B": float(np.exp(b)),
            "C": float(np.exp(c)),
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "S0": float(np.exp(scale)),
        }

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        e, a, b, c, scale = (np.log(named[key]) for key in ("E", "A", "B", "C", "S0"))
        return np.array([e, a, b, c, named["alpha"], named["beta"], named["gamma"], scale])


def _terms(theta: Floats, x: Inputs) -> list[Floats]:
    e, a, b, c, alpha, beta, gamma, scale = (theta[..., i, None] for i in range(8))
    zero = np.zeros_like(x["params"])
    return [
        e + zero,
        a - alpha * np.log(x["params"]),
        b - beta * np.log(x["tokens"]),
        c - gamma * np.log1p(x["datastore"] / np.exp(scale)),
    ]
