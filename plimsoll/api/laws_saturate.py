"""When more samples or rounds stop paying, from a graded pilot of the user's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.graded import Grades, read_grades
from plimsoll.laws.saturation import TTSPM, BetaTTSPM, SaturationCurve, TwoRate, affordable
from plimsoll.laws.saturation_fit import (
    ChainFit,
    PilotFit,
    choose_form,
    fit_beta,
    fit_rounds,
    fit_ttspm,
)
from plimsoll.laws.testtime import pass_at_n
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import percent_text
from plimsoll.serving.policies.sampling import AdaptiveSamples
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.origin import Number, Origin

__all__ = ["SaturateAnswer", "saturate"]

_SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)
_FEWEST = 10
_SURE = 1e6
"""Beta(p·1e6, (1 − p)·1e6) stands for one p."""
_MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturateAnswer:
    """``model`` None: the pilot stands at a boundary, and only ``pilot``'s intervals hold.

    ``forms``: what was fitted, by name. ``held_out``: ln of the probability of a question held
    out, by form; empty where there was no choice. ``stop_after``: wrong samples in a row after
    which a question is given up; None for rounds. ``worth``: samples that pay at the price."""

    grades: Grades
    model: SaturationCurve | None
    forms: dict[str, SaturationCurve]
    pilot: PilotFit | None
    chain: ChainFit | None
    held_out: dict[str, float]
    epsilon: float
    value: float
    price: float
    saturates: int | None
    worth: int | None
    stop_after: int | None
    source: str
    notes: tuple[str, ...]
    asked: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What is counted."""
        return "rounds" if self.grades.rounds else "samples"

    def report(self) -> Report:
        """See ``Answer``."""
        num, pilot = self.grades.right.shape
        tables = []
        if self.forms:
            tables = [self._forms(), self._curve()]
        return Report(
            title=self._title(),
            subtitle=f"{num:,} questions with {pilot} {self.unit} each, {self.source}",
            command=command(*(self.asked or ("laws", "saturate", self.source))),
            key_numbers=self._numbers(),
            tables=tuple(tables),
            assumptions=self._assumptions(),
            notes=self.notes,
        )

    def _title(self) -> str:
        gain = f"{100 * self.epsilon:g} points"
        if self.model is None or self.saturates is None:
            return f"The pilot bounds what {self.unit} gain, and gives no point"
        count = f"{self.saturates:,} {self.unit if self.saturates != 1 else self.unit[:-1]}"
        return f"{count}: one more solves less than {gain} of the questions"

    def _numbers(self) -> tuple[KeyNumber, ...]:
        found = []
        if self.model is not None and self.saturates is not None:
            pilot = self.grades.right.shape[1]
            far = self.saturates > pilot
            found.append(
                KeyNumber(
                    name="Solved",
                    number=Number(
                        value=100 * float(self.model.curve(self.saturates)),
                        unit="%",
                        origin=Origin.EXTRAPOLATED if far else Origin.MODELED,
                    ),
                    note=f"with {self.saturates:,} {self.unit}; the pilot has {pilot}",
                )
            )
        elif self.pilot is not None:
            low, high = self.pilot.solved
            found.append(
                KeyNumber(
                    name="Solved",
                    number=Number(
                        value=100 * float((self.grades.right.sum(axis=1) > 0).mean()),
                        unit="%",
                        origin=Origin.MEASURED,
                    ),
                    note=f"with {self.pilot.samples} samples; 95 % interval "
                    f"{percent_text(low)} to {percent_text(high)}",
                )
            )
        for name, count, note in (
            ("Worth buying", self.worth, f"{self.unit} at {self.price:g} for {self.value:g}"),
            ("Give up after", self.stop_after, "wrong samples in a row; stop at a right one"),
        ):
            if count is not None:
                number = Number(value=float(count), unit="", origin=Origin.MODELED)
                found.append(KeyNumber(name=name, number=number, note=note))
        return tuple(found)

    def _forms(self) -> Table:
        rows = []
        for name, form in self.forms.items():
            stop = form.saturation(self.epsilon)
            held = self.held_out.get(name)
            rows.append(
                (
                    name + (" (taken)" if form == self.model else ""),
                    self._parameters(name, form),
                    percent_text(_end(form)),
                    f"{stop:,}",
                    "-" if held is None else f"{held:.4f}",
                )
            )
        notes = ["held out: ln of the probability of a question's grades, in five folds"]
        if not self.held_out:
            notes = []
        if self.chain is not None:
            one = self.chain
            notes.append(
                f"{one.flips} of {one.held} right answers turned wrong; likelihood ratio "
                f"{one.ratio:.1f}, above 3.84 they do not stay"
            )
        return Table(
            title="Forms",
            columns=("", "fitted", "in the end", f"{self.unit} at epsilon", "held out"),
            rows=tuple(rows),
            notes=tuple(notes),
        )

    def _parameters(self, name: str, form: SaturationCurve) -> str:
        if isinstance(form, BetaTTSPM):
            return f"a {form.a:.3g}, b {form.b:.3g}, F {form.f_max:.3g}"
        if isinstance(form, TwoRate):
            return f"p {form.p:.3g}, q {form.q:.3g}, F {form.f_max:.3g}"
        assert isinstance(form, TTSPM)
        text = f"p {form.p:.3g}, F {form.f_max:.3g}"
        if self.pilot is None:
            return text
        (low, high), (least, most) = self.pilot.p, self.pilot.f_max
        return (
            f"p {form.p:.3g} ({low:.3g} to {high:.3g}), F {form.f_max:.3g} ({least:.3g} to "
            f"{most:.3g})"
        )

    def _curve(self) -> Table:
        right = self.grades.right
        pilot = right.shape[1]
        rows = []
        for n in sorted({*_SHOWN, *([self.saturates] if self.saturates else [])}):
            seen = "-"
            if n <= pilot:
                seen = percent_text(float(_measured(right, n, self.grades.rounds)))
            rows.append(
                (
                    f"{n:,}",
                    seen,
                    *(percent_text(float(form.curve(n))) for form in self.forms.values()),
                    "-" if self.model is None else f"{100 * float(self.model.gain(n)):.2g}",
                )
            )
        what = "right after N rounds" if self.grades.rounds else "one of N right"
        return Table(
            title=f"Share of questions: {what}",
            columns=("N", "measured", *self.forms, "next adds, points"),
            rows=tuple(rows),
        )

    def _assumptions(self) -> tuple[str, ...]:
        if self.grades.rounds:
            return (
                "every round is like the others: the same chance to turn right or wrong",
                "all answers are wrong before the first round",
            )
        return (
            "somebody tells which sample is right; a vote ends at the share of questions whose "
            "most frequent answer is right",
            "samples of a question are independent: drawn at the temperature that will be used",
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        pilot, chain = self.pilot, self.chain
        return {
            "format_version": 1,
            "questions": self.grades.right.shape[0],
            "pilot": self.grades.right.shape[1],
            "mode": self.unit,
            "taken": next((k for k, form in self.forms.items() if form == self.model), None),
            "forms": {name: _plain(form) for name, form in self.forms.items()},
            "held_out_ln_probability": self.held_out,
            "one_p_intervals": None
            if pilot is None
            else {
                "p": list(pilot.p),
                "f_max": list(pilot.f_max),
                "solved_fraction": list(pilot.solved),
            },
            "flips": None
            if chain is None
            else {"flips": chain.flips, "held": chain.held, "likelihood_ratio": chain.ratio},
            "epsilon": self.epsilon,
            "saturates_at": self.saturates,
            "worth_buying": self.worth,
            "give_up_after_wrong": self.stop_after,
            "notes": list(self.notes),
        }


def _plain(form: SaturationCurve) -> dict[str, float]:
    names = ("p", "q", "a", "b", "f_max")
    return {name: float(getattr(form, name)) for name in names if hasattr(form, name)}


def _end(form: SaturationCurve) -> float:
    """The share solved by any number."""
    if isinstance(form, TwoRate):
        return form.f_max * form.p / (form.p + form.q) if form.p else 0.0
    assert isinstance(form, TTSPM | BetaTTSPM)
    return form.f_max


def _measured(right: Floats, n: int, rounds: bool) -> float:
    if rounds:
        return float(right[:, n - 1].mean())
    return float(pass_at_n(right.sum(axis=1).astype(int), right.shape[1], n).mean())


def saturate(
    path: Path, *, epsilon: float = 0.01, value: float = 0.0, price: float = 0.0, seed: int = 0
) -> SaturateAnswer:
    """Where the curve of a pilot saturates, and when to give a question up.

    ``value`` and ``price`` come together; without them a question is given up when its next sample
    is right with less than ``epsilon``.

    Raises:
        SpecError: a bad table, or numbers that are not above 0.
        InfeasibleError: one sample or round a question, or rounds that are never right.
    """
    if not 0 < epsilon < 1:
        raise SpecError(f"--epsilon {epsilon:g}: expected a gain between 0 and 1, as in 0.01")
    if (value, price) != (0, 0) and not (value > 0 and price > 0):
        raise SpecError(
            f"--value {value:g} and --price {price:g}: expected both above 0, in one unit"
        )
    grades = read_grades(path)
    model: SaturationCurve | None = None
    forms: dict[str, SaturationCurve] = {}
    pilot = chain = None
    held_out: dict[str, float] = {}
    notes = list(grades.notes)
    if grades.rounds:
        chain = fit_rounds(grades.right)
        model = chain.model
        forms = {"right stays": chain.absorbing}
        if isinstance(model, TwoRate):
            forms["two rates"] = model
            notes += _swing(model)
    else:
        pilot = fit_ttspm(grades.right)
        model, forms, held_out, more = _parallel(grades.right, pilot, seed)
        notes += more
    stop_after = None
    if isinstance(model, TTSPM | BetaTTSPM) and not grades.rounds:
        stop_after = _give_up(model, price / value if value else epsilon)
        when = f"{price / value if value else epsilon:.3g}"
        notes.append(
            f"never give a question up: its next sample stays right with more than {when}"
            if stop_after is None
            else "give up: when the next sample of this question is right with less than "
            f"{when}, as far as its own wrong ones tell"
        )
    saturates = None if model is None else model.saturation(epsilon)
    if saturates is not None and saturates > 4 * grades.right.shape[1]:
        notes.append(
            f"{saturates:,} is more than 4 times the pilot's {grades.right.shape[1]}: the tail is "
            "the form's, not the data's; grade a longer pilot before relying on it"
        )
    return SaturateAnswer(
        grades=grades,
        model=model,
        forms=forms,
        pilot=pilot,
        chain=chain,
        held_out=held_out,
        epsilon=epsilon,
        value=value,
        price=price,
        saturates=saturates,
        worth=affordable(model, value=value, price=price) if model is not None and value else None,
        stop_after=stop_after,
        source=str(path),
        notes=tuple(notes),
    )


def _parallel(
    right: Floats, pilot: PilotFit, seed: int
) -> tuple[SaturationCurve | None, dict[str, SaturationCurve], dict[str, float], list[str]]:
    """(taken, forms, held-out likelihoods, notes)."""
    if pilot.point is None:
        return None, {}, {}, [pilot.why]
    mixed = (right.sum(axis=1) % right.shape[1] != 0).mean()
    notes = []
    if mixed < 0.05:
        notes.append(
            f"{percent_text(float(mixed))} of questions have right and wrong samples: were they "
            "drawn at a temperature of 0?"
        )
    try:
        model, scores = choose_form(right, seed=seed)
    except InfeasibleError as error:
        return pilot.point, {"one p": pilot.point}, {}, [*notes, f"one p only: {error}"]
    forms: dict[str, SaturationCurve] = {"one p": pilot.point, "beta": fit_beta(right)}
    return model, forms, scores, notes


def _swing(model: TwoRate) -> list[str]:
    best = float(model.curve(np.arange(1, 65)).max())
    end = _end(model)
    if best > end + 0.005:
        return [
            f"answers swing: the best round has {percent_text(best)}, the end {percent_text(end)}"
        ]
    return [
        f"right answers turn wrong with {model.q:.2g} a round: keep the first that a check accepts "
        "rather than the last"
    ]


def _give_up(model: TTSPM | BetaTTSPM, threshold: float) -> int | None:
    """Wrong samples in a row after which the next is not worth it; None: never up to 100,000."""
    a, b = (
        (model.a, model.b)
        if isinstance(model, BetaTTSPM)
        else (max(model.p, 1e-9) * _SURE, max(1 - model.p, 1e-9) * _SURE)
    )
    if model.f_max <= 0:
        return 0
    rule = AdaptiveSamples(a=a, b=b, f_max=model.f_max, value=1.0, price=threshold, most=_MOST)
    low, high = -1, _MOST
    while high - low > 1:  # the chance falls with every wrong sample
        middle = (low + high) // 2
        low, high = (middle, high) if rule.more(middle, 0) else (low, middle)
    return None if high == _MOST else high
