"""What is said of every law, in the same words for all, so that laws can be compared.

A card of a loss form is made from the form: formula, parameters, bounds and limits stand there
alone. A card of any other law is written by hand beside its kind. Cards hold no numbers measured
here; those are found through ``evidence`` in the results of the catalog.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from plimsoll.laws.forms.contract import Coordinate, LossForm
from plimsoll.laws.law import PUBLISHED

__all__ = ["INPUTS", "Constants", "Group", "LawCard", "Quantity", "card_of_form"]

Group = Literal["loss", "training", "data", "capability", "test time"]
"""What a law is about; ``loss`` are the forms of a surface of losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A symbol of a formula. ``low`` and ``high`` bound a fit, None where nothing is fitted;
    ``logarithm``: they are of its natural logarithm. ``unit`` "" is a bare number."""

    name: str
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    logarithm: bool = False

    @property
    def bounds(self) -> str:
        """In words, "" without any."""
        if self.low is None or self.high is None:
            return ""
        name = f"ln {self.name} " if self.logarithm else ""
        return f"{name}{self.low:g} to {self.high:g}"


INPUTS: dict[str, Quantity] = {
    "params": Quantity(name="N", meaning="parameters, as the points count them", unit="params"),
    "tokens": Quantity(name="D", meaning="training tokens, raw count", unit="tokens"),
    "streams": Quantity(name="P", meaning="parallel streams, 1 or more", unit="streams"),
    "unique": Quantity(name="U", meaning="different tokens there are", unit="tokens"),
    "datastore": Quantity(name="S", meaning="tokens to retrieve from, 0 for none", unit="tokens"),
}
"""By column, as forms name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Parameters as printed. ``box``: the range of each input they were fitted on."""

    name: str
    values: Mapping[str, float]
    box: Mapping[str, tuple[float, float]]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LawCard:
    """A law.

    ``predicts``: what comes out, with its unit. ``gradient``: how its parameters are found, and by
    which derivatives. ``fitted_on``: where it holds. ``module``: under ``plimsoll/``. ``command``:
    an example of its verb, "" if it has none. ``example``: the same from Python, "" if that takes
    measurements first. ``evidence``: by system of the catalog, the claims whose checks measure its
    error; none means all of them.
    """

    name: str
    title: str
    group: Group
    formula: str
    predicts: str
    inputs: tuple[Quantity, ...]
    parameters: tuple[Quantity, ...]
    gradient: str
    fitted_on: str
    not_for: str
    source: str
    module: str
    example: str = ""
    command: str = ""
    evidence: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: tuple[Constants, ...] = ()

    @property
    def formulas(self) -> tuple[str, ...]:
        """The formula, an equation or a definition each."""
        return tuple(self.formula.split("; "))

    @property
    def verb(self) -> str:
        """Of ``command``, as in ``laws predict``; "" without one."""
        words = self.command.split()
        return " ".join(words[1:3])


_EXACT = "exact, of ln L by every parameter; mean Huber loss of ln-residuals, from many starts"


def card_of_form(
    form: LossForm,
    *,
    fitted_on: str,
    command: str,
    example: str = "",
    evidence: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    gradient: str = _EXACT,
) -> LawCard:
    """The card of a form; ``fitted_on``: where its published constants were fitted."""
    module = type(form).__module__.removeprefix("plimsoll.").replace(".", "/")
    return LawCard(
        name=form.name,
        title=form.title,
        group="loss",
        formula=form.formula,
        predicts="L, loss in nats or bits, as the points have it",
        inputs=tuple(
            INPUTS.get(name, Quantity(name=name, meaning="a column of the runs"))
            for name in form.inputs
        ),
        parameters=tuple(_parameter(one) for one in form.coordinates),
        gradient=gradient,
        fitted_on=fitted_on,
        not_for=form.leaves_out,
        source=form.source,
        module=f"{module}.py",
        example=example,
        command=command,
        evidence=evidence,
        published=tuple(
            Constants(name=law.name, values=law.named, box=law.box, source=law.source)
            for law in PUBLISHED.values()
            if law.form.name == form.name
        ),
    )


def _parameter(one: Coordinate) -> Quantity:
    return Quantity(
        name=one.name.removeprefix("ln "),
        meaning=one.meaning.removeprefix("ln of ").removeprefix("the "),
        unit=one.unit,
        low=one.low,
        high=one.high,
        logarithm=one.name.startswith("ln "),
    )
