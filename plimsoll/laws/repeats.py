"""A law on a limited pool: what more tokens are worth when only so many different ones exist.

``limited`` turns a law of (N, D) into the same law on ``unique`` tokens. A law fitted with a
column of unique tokens brings its own rates. Any other is evaluated at what repeated tokens and
surplus parameters are worth by the published rates: tokens as u·(1 + R_D·(1 − exp(−r/R_D))),
parameters beyond n the same way, n the law's own optimal size for u different tokens. So its best
split is the plain one as long as tokens last, and a limit of loss remains when they do not.
Leaves out: losses that rise again with many epochs. On measured runs (290 of the source) splits
of at most 40 epochs lose nothing worth the name; beyond, smaller models were better.
Source: arXiv 2305.16264, equations 5 and 6, constants of appendix A.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, LossForm
from plimsoll.laws.forms.repeats import REPEATS_PUBLISHED, log_worth
from plimsoll.laws.law import Law
from plimsoll.spec.errors import SpecError

__all__ = ["MEASURED_EPOCHS", "LimitedData", "limited", "optimal_size", "worth"]

MEASURED_EPOCHS = 40.0
"""Up to here best splits held on measured runs."""

_SIZES = (np.log(1e2), np.log(1e16))
_HALVINGS = 50
_STEP = 1e-4
_UNIQUE = "unique"


def worth(
    tokens: Floats | float, unique: Floats | float, rate: float = REPEATS_PUBLISHED["R_D"]
) -> Floats:
    """Fresh tokens that ``tokens`` drawn from ``unique`` different ones are worth."""
    used = np.minimum(tokens, unique)
    log_gain, _, _ = log_worth(np.log(np.array(rate)), np.log(np.asarray(tokens) / used))
    return np.asarray(used * np.exp(log_gain))


def optimal_size(form: LossForm, theta: Floats, tokens: Floats) -> Floats:
    """Parameters for which a budget of 6·N·D is best split at these tokens; [..., n].

    Found by halving where a percent of size and a percent of tokens buy the same. Where tokens
    buy more at any size the smallest is returned, where size always does the largest.
    """
    low = np.full(np.broadcast_shapes(theta.shape[:-1] + (1,), tokens.shape), _SIZES[0])
    high = np.full_like(low, _SIZES[1])

    def moved(log_size: Floats, by: float) -> Floats:
        x = {"params": np.exp(log_size + by), "tokens": tokens * np.exp(-by)}
        return form.log_loss(theta, x)

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        grow = moved(middle, _STEP) < moved(middle, -_STEP)
        low, high = np.where(grow, middle, low), np.where(grow, high, middle)
    return np.asarray(np.exp((low + high) / 2))


@dataclass(frozen=True, slots=True)
class LimitedData:
    """``form`` on ``unique`` tokens, as a form of size and tokens.

    ``tokens_rate`` and ``size_rate``: R_D and R_N, used where the form has none of its own;
    inf means no fading. Not to be fitted: its gradient is by differences.
    """

    form: LossForm
    unique: float
    tokens_rate: float = REPEATS_PUBLISHED["R_D"]
    size_rate: float = REPEATS_PUBLISHED["R_N"]

    @property
    def name(self) -> str:
        """Of the form below."""
        return self.form.name

    @property
    def title(self) -> str:
        """Of the form below."""
        return f"{self.form.title} on limited data"

    @property
    def formula(self) -> str:
        """Of the form below."""
        return self.form.formula

    @property
    def source(self) -> str:
        """Both."""
        return self.form.source if self.own else f"{self.form.source}; arXiv 2305.16264"

    @property
    def leaves_out(self) -> str:
        """See ``LossForm``."""
        return "losses that rise again with many epochs"

    @property
    def own(self) -> bool:
        """Whether the form has rates of its own."""
        return _UNIQUE in self.form.inputs

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the form but the unique tokens."""
        return tuple(name for name in self.form.inputs if name != _UNIQUE)

    @property
    def least(self) -> Mapping[str, int]:
        """Of the form below."""
        return self.form.least

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """Of the form below."""
        return self.form.coordinates

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        tokens = np.asarray(x["tokens"], dtype=float)
        if self.own:
            unique = np.full_like(tokens, self.unique)
            return self.form.log_loss(theta, {**x, _UNIQUE: unique})
        used = np.minimum(tokens, self.unique)
        counted = {"params": x["params"], "tokens": tokens}
        if np.isfinite(self.tokens_rate):
            counted["tokens"] = worth(tokens, self.unique, self.tokens_rate)
        if np.isfinite(self.size_rate):
            needed = optimal_size(self.form, theta, used)
            counted["params"] = worth(x["params"], needed, self.size_rate)
        return self.form.log_loss(theta, counted)

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        columns = []
        for i in range(theta.shape[-1]):
            step = 1e-5 * (np.arange(theta.shape[-1]) == i)
            rise = self.log_loss(theta + step, x) - self.log_loss(theta - step, x)
            columns.append(rise / 2e-5)
        return np.stack(columns, axis=-1)

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Of the form below."""
        return self.form.starts({**x, _UNIQUE: np.full_like(x["tokens"], self.unique)}, loss)

    def named(self, theta: Floats) -> dict[str, float]:
        """Of the form below."""
        return self.form.named(theta)

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """Of the form below."""
        return self.form.coordinates_of(named)


def limited(law: Law, unique: float) -> Law:
    """The law where only ``unique`` different tokens exist.

    Raises:
        SpecError: fewer than one token, or a law without sizes and tokens.
    """
    if not (np.isfinite(unique) and unique >= 1):
        raise SpecError(f"unique tokens is {unique:g}; expected 1 or more")
    form = LimitedData(law.form, float(unique))
    if form.inputs != ("params", "tokens"):
        raise SpecError(
            f"{law.form.name} has inputs {', '.join(law.form.inputs)}; limited tokens need a law "
            "of params and tokens"
        )
    return replace(law, form=form)
