"""What a fit says of a run that was not made, and how far to trust it.

The interval adds, in ln loss, what resampled fits disagree about and what points scatter around
the fit; a law without its points has none (nan). Outside the box of the fit the spread is
multiplied by 1 + the number of factors of e by which the inputs leave it: not a theorem but a
warning with a size, and it is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import MAY_BE_ZERO
from plimsoll.laws.law import Law
from plimsoll.spec.errors import SpecError

__all__ = ["Prediction", "predict"]

_Z = {0.5: 0.674, 0.8: 1.282, 0.9: 1.645, 0.95: 1.960}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """``loss`` with its interval, in the fit's unit. ``outside``: by input, how many times beyond
    the box (below it, less than 1)."""

    inputs: dict[str, float]
    loss: float
    low: float
    high: float
    level: float
    unit: str
    outside: dict[str, float]

    @property
    def warning(self) -> str:
        """In words, "" inside the box."""
        if not self.outside:
            return ""
        parts = [
            f"{name} is {max(factor, 1 / factor):.3g} times "
            f"{'above' if factor > 1 else 'below'} the fit's range"
            for name, factor in self.outside.items()
        ]
        widened = "; the interval is widened for it" if np.isfinite(self.low) else ""
        return f"extrapolated: {' and '.join(parts)}{widened}"


def predict(law: Law, inputs: Mapping[str, float], *, level: float = 0.9) -> Prediction:
    """The loss at ``inputs``, with an interval unless the law came without its points.

    Raises:
        SpecError: an input is missing or not positive, or the level is not one of those known.
    """
    *first, last = law.form.inputs
    needs = f"{law.form.name} needs {', '.join(first)} and {last}, each above zero"
    if last in MAY_BE_ZERO:
        needs = f"{law.form.name} needs {', '.join(first)}, each above zero, and {last} or 0"
    for name in law.form.inputs:
        value = inputs.get(name)
        if value is None:
            raise SpecError(f"{name} is missing; {needs}")
        if not np.isfinite(value) or value < 0 or (value == 0 and name not in MAY_BE_ZERO):
            raise SpecError(f"{name} is {value:g}; {needs}")
    if level not in _Z:
        raise SpecError(f"level {level:g}; expected one of {', '.join(map(str, _Z))}")
    x = {name: np.array([inputs[name]]) for name in law.form.inputs}
    middle = float(law.form.log_loss(law.theta, x)[0])
    variance = float("nan") if law.rmse is None else law.rmse**2
    if len(law.draws):
        drawn = law.form.log_loss(law.draws, x)[:, 0]
        variance += float(np.median((drawn - middle) ** 2)) / 0.4549
    outside = {}
    for name in law.form.inputs:
        low, high = law.box[name]
        if inputs[name] > high:
            outside[name] = inputs[name] / high
        elif inputs[name] < low:
            outside[name] = inputs[name] / low
    widened = 1 + sum(abs(float(np.log(factor))) for factor in outside.values())
    spread = _Z[level] * float(np.sqrt(variance)) * widened
    return Prediction(
        inputs={name: float(inputs[name]) for name in law.form.inputs},
        loss=float(np.exp(middle)),
        low=float(np.exp(middle - spread)),
        high=float(np.exp(middle + spread)),
        level=level,
        unit=law.unit,
        outside=outside,
    )
