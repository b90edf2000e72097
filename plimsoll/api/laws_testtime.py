"""What to buy at test time, from a user's own graded generations and on their devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.cost.testtime import DecodeShape, decode_shape
from plimsoll.laws.graded import read_traces
from plimsoll.laws.testtime import Choice, Selector, Traces, choices, envelope, limits_of
from plimsoll.laws.testtime_price import Budget, DecodePrice, decode_price, parse_budget
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import percent_text, seconds_text
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.origin import Number, Origin

__all__ = ["TestTimeAnswer", "spend_test_time"]

_SHOWN = 12
_ALL_TRIALS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTimeAnswer:
    """``chosen``: the most accurate within the budget. ``by_flops``: what reaches its accuracy
    with the fewest FLOPs. ``best``: the frontier by what the budget is of."""

    chosen: Choice
    by_flops: Choice
    best: tuple[Choice, ...]
    price: DecodePrice
    budget: Budget
    select: Selector
    num_questions: int
    num_choices: int
    sparse_measured: bool
    answers_known: bool
    source: str
    notes: tuple[str, ...]
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        one, price, kind = self.chosen, self.price, self.budget.kind
        number = Number(value=100 * one.accuracy, unit="%", origin=Origin.MEASURED)
        spent = price.cost(one, kind)
        ratio = price.cost(self.by_flops, kind) / spent
        same = self.by_flops == one
        more = f"{ratio:.2f} times as much" if ratio > 1 else "no more"
        rows = [("chosen", one), ("by FLOPs alone", self.by_flops)]
        compared = Table(
            title="The same accuracy, chosen by FLOPs alone",
            columns=(
                "",
                "n x model, tokens",
                "FLOPs",
                "eFLOPs",
                *([] if kind == "eFLOPs" else [_cost_title(kind)]),
            ),
            rows=tuple(
                (
                    name,
                    _short(c),
                    f"{c.flops:.3g}",
                    f"{price.eflops(c):.3g}",
                    *(
                        []
                        if kind == "eFLOPs"
                        else [
                            _amount(Budget(kind=kind, amount=price.cost(c, kind))).removesuffix(
                                " usd"
                            )
                        ]
                    ),
                )
                for name, c in rows
            ),
            notes=(f"the choice that leaves memory traffic out costs {more}",),
        )
        shown = self._shown()
        left = len(self.best) - len(shown)
        table = Table(
            title="Frontier",
            columns=("", *(_COLUMNS if self._sparse else (c for c in _COLUMNS if c != "KV"))),
            rows=tuple(("chosen" if c == one else "", *self._row(c)) for c in shown),
            notes=(
                f"no cheaper one of {self.num_choices:,} choices is as accurate"
                + (f"; {left} more lie between these" if left else ""),
            ),
        )
        return Report(
            title=_text(one),
            subtitle=f"{_amount(self.budget)} a question on {price.on}; {self.num_questions:,} "
            f"questions of {self.source}",
            command=command(*(self.asked or ("laws", "testtime", self.source))),
            key_numbers=(
                KeyNumber(
                    name="Accuracy",
                    number=number,
                    note=f"{self._measure(one.trials)}, {_plus_minus(one)}",
                ),
                KeyNumber(
                    name="Cost",
                    number=Number(value=spent, unit=kind, origin=Origin.MODELED),
                    note=f"a question; the budget is {_amount(self.budget)}",
                ),
            ),
            tables=(table,) if same else (table, compared),
            assumptions=self._assumptions(),
            notes=(
                *(["FLOPs alone choose the same at this accuracy"] if same else []),
                *self._advice(),
                *self.notes,
            ),
            next_command=self._next(),
        )

    def _next(self) -> str:
        """The same budget judged by votes; else the budget of the next better choice."""
        words = ["laws", "testtime", self.source, "--on", self.price.on, "--budget"]
        kind, amount = self.budget.kind, self.budget.amount
        if self.answers_known and self.select == "pass":
            return command(*words, f"{amount:.6g}{kind}", "--select", "majority")
        above = [one for one in self.best if one.accuracy > self.chosen.accuracy]
        if above:
            amount = 1.01 * self.price.cost(above[0], kind)
        more = ["--select", self.select] if self.select == "majority" else []
        return command(*words, f"{amount:.3g}{kind}", *more)

    @property
    def _sparse(self) -> bool:
        return any(one.kv_budget is not None for one in (*self.best, self.chosen))

    def _measure(self, n: int) -> str:
        return f"majority of {n}" if self.select == "majority" else f"pass@{n}"

    def _shown(self) -> list[Choice]:
        """A dozen of the frontier with its ends and what was chosen."""
        if len(self.best) <= _SHOWN:
            return list(self.best)
        last = len(self.best) - 1
        kept = {round(k * last / (_SHOWN - 1)) for k in range(_SHOWN)}
        kept.add(self.best.index(self.chosen))
        return [self.best[k] for k in sorted(kept)]

    def _row(self, one: Choice) -> tuple[str, ...]:
        price = self.price
        return (
            one.model,
            f"{one.trials}",
            f"{one.limit:,.0f}",
            *(["all" if one.kv_budget is None else f"{one.kv_budget:,}"] * self._sparse),
            percent_text(one.accuracy),
            f"{price.eflops(one):.3g}",
            "-" if price.usd_per_s is None else f"{price.usd(one):.3g}",
            seconds_text(price.latency_s(one)),
        )

    def _assumptions(self) -> tuple[str, ...]:
        picks = (
            "majority: the most frequent answer of n, ties to the first"
            if self.select == "majority"
            else "pass@n: somebody picks the right answer if one of n is; without such a selector "
            "it is no accuracy, see --select majority"
        )
        return (
            picks,
            f"{self.price.on} at its peak, {self.price.intensity:.0f} FLOPs in the time of a byte, "
            "16 bits; a lower bound on cost",
            "eFLOPs: FLOPs, and KV bytes as the FLOPs done in their time; with usd of a question "
            "among many, weights read once for all",
            "latency: one question alone, its n at once; prefill and waiting left out",
        )

    def _advice(self) -> tuple[str, ...]:
        found = []
        at = self.best.index(self.chosen)
        if at + 1 < len(self.best):
            nearest = self.best[at + 1]
            cost = Budget(kind=self.budget.kind, amount=self.price.cost(nearest, self.budget.kind))
            found.append(
                f"with {_amount(cost)}: {_text(nearest)} has {percent_text(nearest.accuracy)}"
            )
        else:
            found.append("the budget is not the limit: no choice measured is more accurate")
        found.append(
            "chosen and judged on the same questions: expect a little less on others, by about "
            "the standard error"
        )
        if not self.sparse_measured:
            found.append(
                "KV budgets: none measured; rows with a kv_budget (and block) column add them"
            )
        return tuple(found)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        price = self.price

        def plain(one: Choice) -> dict[str, Any]:
            return {
                "model": one.model,
                "samples": one.trials,
                "limit_tokens": one.limit,
                "kv_budget_tokens": one.kv_budget,
                "accuracy_fraction": one.accuracy,
                "accuracy_standard_error": one.error,
                "flops": one.flops,
                "kv_bytes": one.bytes,
                "eflops": price.eflops(one),
                "usd": None if price.usd_per_s is None else price.usd(one),
                "latency_s": price.latency_s(one),
            }

        kind = self.budget.kind
        return {
            "format_version": 1,
            "on": price.on,
            "flops_per_byte": price.intensity,
            "select": self.select,
            "budget": {"kind": kind, "amount": self.budget.amount},
            "questions": self.num_questions,
            "chosen": plain(self.chosen),
            "by_flops_alone": plain(self.by_flops),
            "overspent_ratio": price.cost(self.by_flops, kind) / price.cost(self.chosen, kind),
            "frontier": [plain(one) for one in self.best],
            "notes": list(self.notes),
        }


_COLUMNS = ("model", "n", "tokens", "KV", "accuracy", "eFLOPs", "usd", "latency")


def _text(one: Choice) -> str:
    times = "1 sample" if one.trials == 1 else f"{one.trials} samples"
    kv = "" if one.kv_budget is None else f", reading {one.kv_budget:,} positions a step"
    return f"{times} of {one.model} within {one.limit:,.0f} tokens{kv}"


def _cost_title(kind: str) -> str:
    return "latency" if kind == "s" else kind


def _short(one: Choice) -> str:
    kv = "" if one.kv_budget is None else f", KV {one.kv_budget:,}"
    return f"{one.trials} x {one.model}, {one.limit:,.0f}{kv}"


def _amount(budget: Budget) -> str:
    if budget.kind == "s":
        return seconds_text(budget.amount)
    return f"{budget.amount:.3g} {budget.kind}"


def _plus_minus(one: Choice) -> str:
    return f"standard error {100 * one.error:.1f} points over questions"


def spend_test_time(
    path: Path,
    *,
    on: str,
    budget: str,
    select: str = "pass",
    prompt_tokens: float | None = None,
    seed: int = 0,
) -> TestTimeAnswer:
    """The most accurate choice of a table of graded generations within a budget a question.

    Raises:
        SpecError: a bad table, an unknown device, model, budget or selector.
        InfeasibleError: nothing measured is that cheap, or no model fits the devices.
        UnsupportedError: a model without full attention, or a device without what is needed.
    """
    if select not in ("pass", "majority"):
        raise SpecError(f"--select {select!r}: expected pass or majority")
    selector: Selector = "majority" if select == "majority" else "pass"
    wanted = parse_budget(budget, "--budget")
    fleet = parse_fleet(on)
    shapes: dict[str, DecodeShape] = {}

    def shape_of(name: str) -> DecodeShape:
        if name not in shapes:
            try:
                model = load_model(name)
            except SpecError as error:
                raise SpecError(f"{path}: model {name!r}: {error}") from None
            shapes[name] = replace(decode_shape(model), name=name)
        return shapes[name]

    traces, notes = read_traces(path, shape_of, prompt_tokens=prompt_tokens)
    price = decode_price(fleet, shapes)
    found = [
        choice
        for each in traces
        for choice in choices(
            [each], trials=_numbers(each), limits=limits_of(each), select=selector, seed=seed
        )
    ]
    longest = max(float(each.prompt_tokens.max()) for each in traces)
    kept, lost = price.fitting(found, longest)
    if not kept:
        raise InfeasibleError(
            f"no model of {path} fits {on} with one cache",
            binding="device memory",
            change="name more devices, as in 4xH100-SXM, or measure smaller models",
        )
    best = envelope(kept, lambda one: price.cost(one, wanted.kind))
    able = [one for one in best if price.cost(one, wanted.kind) <= wanted.amount]
    if not able:
        least = Budget(kind=wanted.kind, amount=price.cost(best[0], wanted.kind))
        raise InfeasibleError(
            f"--budget {budget}: the cheapest choice takes {_amount(least)} a question",
            binding="the budget",
            nearest=_text(best[0]),
            change=f"allow {_amount(least)}, or measure smaller models or shorter generations",
        )
    chosen = able[-1]
    as_good = [one for one in kept if one.accuracy >= chosen.accuracy]
    return TestTimeAnswer(
        chosen=chosen,
        by_flops=min(as_good, key=lambda one: (one.flops, price.cost(one, wanted.kind))),
        best=tuple(best),
        price=price,
        budget=wanted,
        select=selector,
        num_questions=len(traces[0].lengths),
        num_choices=len(kept),
        answers_known=all(each.answers is not None for each in traces),
        sparse_measured=any(each.kv_budget is not None for each in traces),
        source=str(path),
        notes=(*notes, *lost),
    )


def _numbers(each: Traces) -> Sequence[int]:
    """Numbers of samples to look at: all up to 16, then powers of two and halves between."""
    steps = [m * 2**k // 2 for k in range(4, 20) for m in (2, 3)]
    above = [n for n in steps if _ALL_TRIALS < n < each.trials]
    return sorted({*range(1, min(each.trials, _ALL_TRIALS) + 1), *above, each.trials})
