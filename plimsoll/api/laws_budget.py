"""What a law says: the loss of a run, the split of a budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.law_maps import (
    budget_line,
    cheapest_as_good,
    flop_curves,
    has_map,
    loss_map,
    point_of,
    size_claim,
)
from plimsoll.api.laws import law_data, spend_command
from plimsoll.api.laws_epochs import Epochs, epochs_over
from plimsoll.laws.allocate import Allocation, compute_optimal
from plimsoll.laws.curves import iso_flop
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.law import Law, law_of
from plimsoll.laws.predict import Prediction, predict
from plimsoll.laws.repeats import LimitedData, limited
from plimsoll.laws.serving_price import serving_weights
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.law_pictures import LawPoint
from plimsoll.report.pictures import Picture
from plimsoll.report.wording import flops_text, ratio_text, short_count_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.origin import Number, Origin
from plimsoll.spec.units import parse_count

__all__ = [
    "STRETCH",
    "AllocateAnswer",
    "PredictAnswer",
    "allocate",
    "flops_of",
    "predict_loss",
    "tokens_of",
]


STRETCH = 10.0
_NODES = 25


def tokens_of(text: str, where: str) -> float:
    """``2e12tokens`` or ``2T`` as a count."""
    return float(parse_count(text.removesuffix("tokens").strip(), where=where))


def flops_of(text: str, where: str = "--flops") -> float:
    """``1e24`` or ``1e24FLOPs`` as compute.

    Raises:
        SpecError: neither, or less than one.
    """
    try:
        found = float(text.removesuffix("FLOPs").strip())
    except ValueError:
        found = float("nan")
    if not (np.isfinite(found) and found >= 1):
        raise SpecError(f"{where}: {text!r} is not an amount of compute; write for example 1e24")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictAnswer:
    """A predicted loss."""

    law: Law
    found: Prediction

    def report(self) -> Report:
        """See ``Answer``."""
        one = self.found
        inputs = ", ".join(
            f"{name} {short_count_text(value)}" for name, value in self._given.items()
        )
        words = ["--law", self.law.name]
        limit = self._given.get("unique")
        limits = [] if limit is None else ["--unique", f"{limit:.6g}"]
        known = np.isfinite(one.low)
        interval = (
            f"{one.low:.4g} to {one.high:.4g} with {100 * one.level:g} %" if known else "not known"
        )
        origin = Origin.EXTRAPOLATED if one.outside else Origin.MODELED
        return Report(
            title=f"Loss {one.loss:.4g} {one.unit} at {inputs}",
            subtitle=f"{self.law.form.formula}; {self.law.source}",
            command=command("laws", "predict", *words, *self._options()),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=one.loss, unit=one.unit, origin=origin),
                    note=f"interval {interval}",
                    digits=4,
                ),
            ),
            pictures=self.pictures(),
            num_on_terminal=0,
            notes=tuple(
                note
                for note in (
                    one.warning,
                    "" if known else "the law was published without its points: no interval",
                )
                if note
            ),
            next_command=spend_command(
                self.law, self.law.name, *limits, flops=self._flops, size=one.inputs.get("params")
            ),
        )

    def pictures(self) -> tuple[Picture, ...]:
        """Where the run lies on the law's map; none for a law of other inputs."""
        one, law = self.found, self.law
        if "unique" in one.inputs:
            law = limited(law, one.inputs["unique"])
        if not has_map(law):
            return ()
        size, tokens = one.inputs["params"], one.inputs["tokens"]
        flops = 6 * size * tokens
        asked = LawPoint(name="the run", params=size, tokens=tokens, loss=one.loss, flops=flops)
        cheapest = cheapest_as_good(law, one.loss)
        title = "Where the run lies on the law's map"
        if cheapest is not None:
            times = flops / cheapest.flops
            title = f"The same loss at the best split takes {flops_text(cheapest.flops)} FLOPs"
            title += f", {times:.3g} times fewer" if times > 1.05 else ": this one is as good"
        points = (asked,) if cheapest is None else (asked, cheapest)
        lines = [(f"{flops_text(flops)} FLOPs", *budget_line(law, flops)), *_pool_line(law)]
        return (loss_map(law, title=title, points=points, budgets=lines),)

    @property
    def _flops(self) -> float | None:
        """Training compute of the run; None for a law without size or tokens."""
        of = self.found.inputs
        return 6 * of["params"] * of["tokens"] if {"params", "tokens"} <= set(of) else None

    @property
    def _given(self) -> dict[str, float]:
        form = self.law.form
        limit = {"unique": form.unique} if isinstance(form, LimitedData) else {}
        return {**self.found.inputs, **limit}

    def _options(self) -> list[str]:
        return [w for name, v in self._given.items() for w in (f"--{name}", f"{v:.6g}")]

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        one = self.found
        known = bool(np.isfinite(one.low))
        return {
            "format_version": 1,
            "law": law_data(self.law),
            "inputs": self._given,
            "loss": one.loss,
            "low": one.low if known else None,
            "high": one.high if known else None,
            "level": one.level,
            "outside": one.outside,
            "warning": one.warning,
        }


def _pool_line(law: Law) -> list[tuple[str, Floats, Floats]]:
    """Where different tokens end and repeats begin, for a law of a limited pool."""
    if not isinstance(law.form, LimitedData):
        return []
    low, high = law.box["params"]
    sizes, pool = np.geomspace(low / 1e3, high * 1e3, 301), law.form.unique
    return [(f"{short_count_text(pool)} different tokens", sizes, np.full(301, pool))]


def predict_loss(law: str, inputs: Mapping[str, float], *, level: float = 0.9) -> PredictAnswer:
    """The loss of a run that was not made; ``unique`` tokens also for laws of size and tokens.

    Raises:
        SpecError: an unknown law; an input that is missing, that the law does not have, or that
            cannot be.
    """
    found = law_of(law)
    if "unique" in inputs and "unique" not in found.form.inputs:
        found = limited(found, inputs["unique"])
    surplus = [name for name in inputs if name not in (*found.form.inputs, "unique")]
    if surplus:
        raise SpecError(
            f"--{surplus[0]}: {found.name} is a law of {' and '.join(found.form.inputs)}; expected "
            "no other input"
        )
    return PredictAnswer(law=found, found=predict(found, inputs, level=level))


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateAnswer:
    """A split budget. ``alone``: the same without the serving load, None if there is none;
    ``epochs``: how the tokens repeat, None if they never end; ``weigh``: what a serving FLOP
    costs beside one of training, also by size."""

    law: Law
    found: Allocation
    alone: Allocation | None
    serve_tokens: float
    on: str
    weight: float
    stretch: float
    weigh: float | Callable[[Floats], Floats] = 1.0
    epochs: Epochs | None = None

    def report(self) -> Report:
        """See ``Answer``."""
        one, alone = self.found, self.alone
        at = predict(self.law, {"params": one.params, "tokens": one.tokens})
        origin = Origin.EXTRAPOLATED if at.outside else Origin.MODELED
        rows = [("in all", one)] if alone is None else [("with serving", one), ("training", alone)]
        table = Table(
            title="Size and tokens of least loss",
            columns=("", "params", "tokens", "tokens/param", "loss", "training FLOPs"),
            rows=tuple(
                (
                    name if alone is not None else "",
                    short_count_text(row.params),
                    short_count_text(row.tokens),
                    ratio_text(row.tokens_per_param),
                    f"{row.loss:.4g}",
                    flops_text(6 * row.params * row.tokens),
                )
                for name, row in rows
            ),
            notes=("training alone: the whole budget for training",) if alone is not None else (),
        )
        notes = [at.warning] if at.warning else []
        if one.edge:
            notes.append(
                f"no minimum inside: the answer stands at {one.edge}; do not read it as an optimum"
            )
        if self.serve_tokens and self.on:
            notes.append(
                f"a serving FLOP on {self.on} costs {self.weight:.2f} training FLOPs at this size"
            )
        elif self.serve_tokens:
            notes.append("a serving FLOP costs as much as one of training; name devices with --on")
        if self.epochs is not None:
            notes += self.epochs.notes()
        interval = (
            f"{at.low:.4g} to {at.high:.4g} with 90 %" if np.isfinite(at.low) else "not known"
        )
        words = ["laws", "allocate", "--flops", f"{one.flops:.6g}", "--law", self.law.name]
        words += ["--serve", f"{self.serve_tokens:.6g}"] if self.serve_tokens else []
        words += ["--on", self.on] if self.on else []
        words += ["--stretch", f"{self.stretch:g}"] if self.stretch != STRETCH else []
        epochs = self.epochs
        if epochs is not None:
            words += ["--unique", f"{epochs.unique:.6g}"]
        repeats = f", {epochs.best.epochs:.3g} epochs" if epochs and epochs.repeated else ""
        further = ["--unique", f"{epochs.unique:.3g}"] if epochs else []
        return Report(
            title=f"{short_count_text(one.params)} parameters on "
            f"{short_count_text(one.tokens)} tokens{repeats}",
            subtitle=f"{flops_text(one.flops)} FLOPs by {self.law.form.formula}; {self.law.source}",
            command=command(*words),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=one.loss, unit=self.law.unit, origin=origin),
                    note=f"interval {interval}",
                    digits=4,
                ),
            ),
            tables=(table,) if epochs is None else (table, epochs.table()),
            pictures=self.pictures(),
            num_on_terminal=1,
            assumptions=(
                "training costs 6 FLOPs a parameter and token, serving 2",
                f"sizes and tokens up to {self.stretch:g} times beyond the fit's range",
            ),
            notes=tuple(notes),
            next_command=command(
                "laws",
                "predict",
                "--law",
                self.law.name,
                "--params",
                f"{one.params:.3g}",
                "--tokens",
                f"{one.tokens:.3g}",
                *further,
            ),
        )

    def pictures(self) -> tuple[Picture, ...]:
        """Loss against size at this budget and its neighbors, and the law's map; none for a law of
        other inputs."""
        if not has_map(self.law):
            return ()
        law, one, flops = self.law, self.found, self.found.flops
        weight = self.weigh
        best = iso_flop(
            law,
            flops,
            serve_tokens=self.serve_tokens,
            serve_weight=weight,
            stretch=self.stretch,
        )
        named = f"{flops_text(flops)} FLOPs"
        with_load = f"{named} with serving"
        asked = with_load if self.serve_tokens else named
        budgets = [(f"{flops_text(c)} FLOPs", c, 0.0, 1.0) for c in (flops / 10, flops, 10 * flops)]
        load = [(with_load, flops, self.serve_tokens, weight)] if self.serve_tokens else []
        claim = size_claim(best, f"For {asked}")
        curves = flop_curves(law, [*budgets, *load], stretch=self.stretch, title=claim)
        lines = [(named, *budget_line(law, flops))]
        if load:
            line = budget_line(law, flops, serve_tokens=self.serve_tokens, serve_weight=weight)
            lines.append((with_load, *line))
        lines += _pool_line(law)
        points = [point_of(one, "best allowed" if one.edge else "best for this budget")]
        points += [] if self.alone is None else [point_of(self.alone, "training alone")]
        chart = loss_map(
            law,
            title=f"{short_count_text(one.params)} parameters on {short_count_text(one.tokens)} "
            f"tokens for {asked}",
            points=points,
            budgets=lines,
            notes=(f"the answer stands at {one.edge}: no optimum",) if one.edge else (),
        )
        return (chart,) if curves is None else (curves, chart)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""

        def plain_of(one: Allocation) -> dict[str, Any]:
            return {
                "params": one.params,
                "tokens": one.tokens,
                "loss": one.loss,
                "flops": one.flops,
                "serve_flops": one.serve_flops,
                "edge": one.edge,
            }

        return {
            "format_version": 1,
            "law": law_data(self.law),
            "chosen": plain_of(self.found),
            "training_alone": None if self.alone is None else plain_of(self.alone),
            "serve_tokens": self.serve_tokens,
            "serve_weight": self.weight,
            "on": self.on,
            "epochs": None if self.epochs is None else self.epochs.data(),
        }


def allocate(
    law: str,
    flops: float,
    *,
    serve_tokens: float = 0.0,
    on: str = "",
    stretch: float = STRETCH,
    unique: float | None = None,
) -> AllocateAnswer:
    """Split a budget; with ``on``, serving costs what it costs on those devices. ``unique``: how
    many different tokens there are, None for as many as are wanted.

    Raises:
        SpecError: an unknown law or device, numbers that cannot be, devices without tokens to
            serve.
        InfeasibleError: nothing in reach of the law.
    """
    if not (np.isfinite(stretch) and stretch >= 1):
        raise SpecError(f"--stretch is {stretch:g}; expected 1 or more")
    if on and not serve_tokens:
        raise SpecError(
            "--on prices the tokens to be served and --serve names none; give it too, as in "
            "--serve 2e12tokens, or leave --on out"
        )
    whole = law_of(law)
    found = whole if unique is None else limited(whole, unique)
    weight: float | Callable[[Floats], Floats] = 1.0
    low, high = found.box.get("params", (1e6, 1e12))
    low, high = low / stretch, high * stretch
    if serve_tokens and on:
        parts = parse_fleet(on).parts
        if len(parts) > 1:
            raise SpecError(f"--on {on!r}: expected devices of one kind to price serving on")
        device = parts[0].device
        sizes = np.geomspace(low, high, _NODES)
        weights = serving_weights(sizes, device)

        def weight(n: Floats) -> Floats:
            return np.interp(np.log(n), np.log(sizes), weights)

    def split(by: Law, served: float) -> Allocation:
        return compute_optimal(by, flops, serve_tokens=served, serve_weight=weight, stretch=stretch)

    best = split(found, serve_tokens)
    epochs = None
    if unique is not None:
        epochs = epochs_over(
            found,
            best,
            split(whole, serve_tokens) if "unique" not in whole.box else None,
            unique=unique,
            serve_tokens=serve_tokens,
            serve_weight=weight,
            sizes=(low, high),
        )
    return AllocateAnswer(
        law=found,
        found=best,
        alone=split(found, 0.0) if serve_tokens else None,
        serve_tokens=serve_tokens,
        on=on,
        weight=float(weight(np.array(best.params))) if callable(weight) else weight,
        stretch=stretch,
        weigh=weight,
        epochs=epochs,
    )
