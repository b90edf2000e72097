"""A form with its parameters: a loss for every input, whether fitted, read or published."""

from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import Floats, Inputs, LossForm

__all__ = ["Surface"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """``theta`` [k]: the form's coordinates."""

    form: LossForm
    theta: Floats

    @property
    def named(self) -> dict[str, float]:
        """Parameters as papers print them."""
        return self.form.named(self.theta)

    def predict(self, x: Inputs) -> Floats:
        """Losses in the unit of the points, [n]."""
        return np.exp(self.form.log_loss(self.theta, x))
