"""Chinchilla's surface where tokens repeat: what is seen again is worth less, up to a limit.

    L = E + A/N'^α + B/D'^β,   D' = u + u·R_D·(1 − exp(−r/R_D))

with u = min(U, D) the different tokens of D seen out of U unique ones, and r = D/u − 1 their
repeats: endless epochs are worth u·(1 + R_D) fresh tokens. In ``RepeatedData`` N' = N. In
``RepeatedDataAndSize`` parameters beyond n, those that are optimal for u fresh tokens, fade the
same way: N' = n + n·R_N·(1 − exp(−(N/n − 1)/R_N)), (αA/n^α) = (βB/u^β).
Leaves out: losses that rise again when large models see little data very often; cleaner or
dirtier data.
Source: arXiv 2305.16264, equations 5 and 6, constants of appendix A.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from plimsoll.laws.forms.chinchilla import Chinchilla
from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["REPEATS_PUBLISHED", "RepeatedData", "RepeatedDataAndSize", "log_worth"]

REPEATS_PUBLISHED = MappingProxyType(
    {
        "E": 1.86914,
        "A": 520.825,
        "B": 1487.716,
        "alpha": 0.3526596,
        "beta": 0.3526596,
        "R_D": 15.387756,
        "R_N": 5.309743,
    }
)
_EXPONENTS = (0.15, 0.3, 0.45, 0.65)
_RATES = (4.0, 15.0, 60.0)
_KEEP = 12
_FARTHEST = 50.0  # ln of N/n beyond which nothing changes


def log_worth(log_rate: Floats, log_repeats: Floats) -> tuple[Floats, Floats, Floats]:
    """ln(1 + R·(1 − exp(−r/R))) from ln R and ln(1 + r), with its derivatives by both."""
    rate, repeats = np.exp(log_rate), np.expm1(np.clip(log_repeats, 0.0, _FARTHEST))
    fading = np.exp(-repeats / rate)
    gained = rate * -np.expm1(-repeats / rate)
    worth = 1 + gained
    by_rate = (gained - fading * repeats) / worth
    by_repeats = fading * (repeats + 1) / worth
    return np.log(worth), by_rate, np.where(log_repeats > 0, by_repeats, 1.0)


def _rate(name: str, meaning: str, unit: str) -> Coordinate:
    return Coordinate(name=f"ln {name}", low=-2.0, high=7.0, meaning=meaning, unit=unit)


@dataclass(frozen=True, slots=True)
class RepeatedData:
    """Only tokens fade; see the module text."""

    name: str = "repeats-tokens"
    title: str = "Repeated data"
    formula: str = "L = E + A/N^alpha + B/D'^beta, D' = u*(1 + R_D*(1 - exp(-(D/u - 1)/R_D)))"
    source: str = "arXiv 2305.16264"
    leaves_out: str = "losses that rise again with many epochs"
    inputs: tuple[str, ...] = ("params", "tokens", "unique")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "tokens": 3, "unique": 2}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, ln B, alpha, beta, ln R_D)."""
        return (*Chinchilla().coordinates, _rate("R_D", "repeats that fade by 1/e", "epochs"))

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        e, a, b, alpha, beta, rate = (theta[..., i, None] for i in range(6))
        log_tokens, _ = _tokens(rate, x)
        log_params = np.log(x["params"]) + 0 * log_tokens
        return log_sum([e, a - alpha * log_params, b - beta * log_tokens])[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        e, a, b, alpha, beta, rate = (theta[..., i, None] for i in range(6))
        log_tokens, by_rate = _tokens(rate, x)
        log_params = np.log(x["params"]) + 0 * log_tokens
        _, (by_e, by_a, by_b) = log_sum([e, a - alpha * log_params, b - beta * log_tokens])
        parts = [by_e, by_a, by_b, -by_a * log_params, -by_b * log_tokens]
        return np.stack([*parts, -by_b * beta * by_rate], axis=-1)

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Grids of exponents and of the rate, with their best factors."""

        def columns(row: Floats) -> list[Floats]:
            log_tokens, _ = _tokens(np.log(row[2]), x)
            return [x["params"] ** -row[0], np.exp(-row[1] * log_tokens)]

        rows, factors = linear_starts(
            grid(_EXPONENTS, _EXPONENTS, _RATES), columns, loss, keep=_KEEP
        )
        return np.concatenate([np.log(factors), rows[:, :2], np.log(rows[:, 2:])], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, B, alpha, beta, R_D."""
        return {**Chinchilla().named(theta[:5]), "R_D": float(np.exp(theta[5]))}

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return np.append(Chinchilla().coordinates_of(named), np.log(named["R_D"]))


def _tokens(log_rate: Floats, x: Inputs) -> tuple[Floats, Floats]:
    """ln D' and its derivative by ln R_D."""
    log_seen = np.log(np.minimum(x["unique"], x["tokens"]))
    worth, by_rate, _ = log_worth(log_rate, np.log(x["tokens"]) - log_seen)
    return log_seen + worth, by_rate


@dataclass(frozen=True, slots=True)
class RepeatedDataAndSize:
    """Tokens fade, and parameters beyond what they need; see the module text."""

    name: str = "repeats"
    title: str = "Repeated data and surplus parameters"
    formula: str = "L = E + A/N'^alpha + B/D'^beta, N' and D' fading with rates R_N and R_D"
    source: str = "arXiv 2305.16264"
    leaves_out: str = "losses that rise again with many epochs"
    inputs: tuple[str, ...] = ("params", "tokens", "unique")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 4, "tokens": 4, "unique": 3}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, ln B, alpha, beta, ln R_D, ln R_N)."""
        return (
            *RepeatedData().coordinates,
            _rate("R_N", "the same of surplus parameters", "times"),
        )

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        e, a, b, alpha, beta, rate, _ = (theta[..., i, None] for i in range(7))
        log_params, _ = self._params(theta, x)
        log_tokens, _ = _tokens(rate, x)
        return log_sum([e, a - alpha * log_params, b - beta * log_tokens])[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        e, a, b, alpha, beta, rate, _ = (theta[..., i, None] for i in range(7))
        log_params, (n_a, n_b, n_alpha, n_beta, n_rate) = self._params(theta, x)
        log_tokens, by_rate = _tokens(rate, x)
        _, (by_e, by_a, by_b) = log_sum([e, a - alpha * log_params, b - beta * log_tokens])
        size = by_a * alpha
        return np.stack(
            [
                by_e,
                by_a - size * n_a,
                by_b - size * n_b,
                -by_a * log_params - size * n_alpha,
                -by_b * log_tokens - size * n_beta,
                -by_b * beta * by_rate,
                -size * n_rate,
            ],
            axis=-1,
        )

    def _params(self, theta: Floats, x: Inputs) -> tuple[Floats, list[Floats]]:
        """ln N' and its derivatives by (ln A, ln B, alpha, beta, ln R_N)."""
        _, a, b, alpha, beta, _, rate = (theta[..., i, None] for i in range(7))
        log_seen, log_n = np.log(np.minimum(x["unique"], x["tokens"])), np.log(x["params"])
        needed = (np.log(alpha / beta) + a - b + beta * log_seen) / alpha
        used = np.minimum(needed, log_n)
        worth, by_rate, by_surplus = log_worth(rate, log_n - used)
        by_needed = np.where(needed < log_n, 1 - by_surplus, 0.0) / alpha
        parts = [1.0, -1.0, 1 / alpha - needed, log_seen - 1 / beta]
        return used + worth, [*(by_needed * part for part in parts), by_rate]

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Those in which parameters do not fade, with several rates for them."""
        plain = RepeatedData().starts(x, loss)
        rates = [np.full((len(plain), 1), np.log(rate)) for rate in (5.0, 50.0)]
        return np.concatenate([np.concatenate([plain, rate], axis=1) for rate in rates])

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, B, alpha, beta, R_D, R_N."""
        return {**RepeatedData().named(theta[:6]), "R_N": float(np.exp(theta[6]))}

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return np.append(RepeatedData().coordinates_of(named), np.log(named["R_N"]))
