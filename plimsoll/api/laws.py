"""Scaling laws: what there is, and the card of one."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.cards import CARDS, Constants, LawCard, Quantity, card_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.law import Law
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import flops_text, short_count_text

__all__ = ["LawCardAnswer", "LawListAnswer", "law_data", "list_laws", "show_law", "spend_command"]

_TITLES = {
    "loss": "Forms of a surface of losses",
    "training": "How to train",
    "data": "What data is worth",
    "capability": "What a size can do",
    "test time": "What to buy at test time",
}


def _range(limits: tuple[float, float] | None) -> str:
    return "-" if limits is None else " to ".join(map(short_count_text, limits))


def _unfitted(forms: Iterable[LawCard]) -> tuple[str, ...]:
    """Which forms ``laws fit`` does not take, in words."""
    names = [card.name for card in forms if card.name not in FORMS]
    if not names:
        return ()
    return (f"laws fit --form takes all but {' and '.join(names)}",)


@dataclass(frozen=True, slots=True)
class LawListAnswer:
    """All laws, by what they are about."""

    def report(self) -> Report:
        """See ``Answer``."""
        by_group = {group: [c for c in CARDS.values() if c.group == group] for group in _TITLES}
        forms = by_group.pop("loss")
        published = [law for card in forms for law in card.published]
        others = sum(map(len, by_group.values()))
        tables = [
            Table(
                title=_TITLES["loss"],
                columns=("", "formula", "parameters"),
                rows=tuple((card.name, card.formula, str(len(card.parameters))) for card in forms),
                notes=(
                    "L loss, N parameters, D training tokens, P parallel streams",
                    *_unfitted(forms),
                ),
            ),
            Table(
                title="Their constants as published (--law NAME)",
                columns=("", "params", "tokens", "source"),
                rows=tuple(
                    (
                        law.name,
                        _range(law.box.get("params")),
                        _range(law.box.get("tokens")),
                        law.source,
                    )
                    for law in published
                ),
                notes=("losses are of each law's own data: compare sizes, not losses",),
            ),
            Table(
                title="Bundled runs, to try fits on",
                columns=("", "what they are"),
                rows=tuple((table.name, table.holds) for table in BUNDLED_RUNS.values()),
                notes=("measured here: plimsoll laws fit tiny-grid",),
            ),
        ]
        tables += [
            Table(
                title=_TITLES[group],
                columns=("", "predicts", "verb"),
                rows=tuple((card.name, card.predicts, card.verb or "-") for card in cards),
            )
            for group, cards in by_group.items()
        ]
        return Report(
            title=f"{len(forms)} forms of a loss, {len(published)} sets of published constants, "
            f"{others} other laws",
            command=command("laws", "list"),
            tables=tuple(tables),
            next_command=command("laws", "list", "chinchilla"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 2,
            "laws": [_card_data(card) for card in CARDS.values()],
            "bundled_runs": [
                {"name": table.name, "holds": table.holds} for table in BUNDLED_RUNS.values()
            ],
        }


@dataclass(frozen=True, slots=True)
class LawCardAnswer:
    """One law, whole."""

    card: LawCard

    def report(self) -> Report:
        """See ``Answer``."""
        card = self.card
        symbols = [(one.name, one.unit or "-", "", one.meaning) for one in card.inputs]
        symbols += [(one.name, one.unit or "-", one.bounds, one.meaning) for one in card.parameters]
        tables = [
            Table(title="", columns=("formula",), rows=tuple((line,) for line in card.formulas)),
            Table(
                title="Symbols",
                columns=("", "unit", "fitted within", "meaning"),
                rows=tuple(symbols),
            ),
        ]
        if card.published:
            tables.append(_constants(card.published))
        facts = [
            ("predicts", card.predicts),
            ("gradient", card.gradient),
            ("fitted on", card.fitted_on),
            ("not for", card.not_for),
            ("source", card.source),
            ("lives in", card.module),
        ]
        if card.evidence:
            facts.append(("checked by", command("reproduce", *card.evidence)))
        tables.append(Table(title="", columns=("", "what is known of it"), rows=tuple(facts)))
        return Report(
            title=card.title,
            command=command("laws", "list", card.name),
            tables=tuple(tables),
            next_command=card.command or command("laws", "list"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {"format_version": 2, "law": _card_data(self.card)}


def _constants(laws: tuple[Constants, ...]) -> Table:
    """Symbols in rows, laws in columns."""
    names = list(laws[0].values)
    rows = [(name, *(f"{law.values[name]:.5g}" for law in laws)) for name in names]
    for what in laws[0].box:
        rows.append((what, *(_range(law.box[what]) for law in laws)))
    return Table(
        title="Published constants",
        columns=("", *(law.name for law in laws)),
        rows=tuple(rows),
        notes=tuple(f"{law.name}: {law.source}" for law in laws),
    )


def _quantity_data(one: Quantity) -> dict[str, Any]:
    return {
        "name": one.name,
        "unit": one.unit,
        "meaning": one.meaning,
        "low": one.low,
        "high": one.high,
        "bounds_of_logarithm": one.logarithm,
    }


def _card_data(card: LawCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "title": card.title,
        "group": card.group,
        "formula": card.formula,
        "predicts": card.predicts,
        "inputs": [_quantity_data(one) for one in card.inputs],
        "parameters": [_quantity_data(one) for one in card.parameters],
        "gradient": card.gradient,
        "fitted_on": card.fitted_on,
        "not_for": card.not_for,
        "source": card.source,
        "module": card.module,
        "command": card.command,
        "systems": {name: list(claims) for name, claims in card.evidence.items()},
        "published": [
            {
                "name": law.name,
                "parameters": dict(law.values),
                "box": {name: list(limits) for name, limits in law.box.items()},
                "source": law.source,
            }
            for law in card.published
        ],
    }


def list_laws() -> LawListAnswer:
    """What there is."""
    return LawListAnswer()


def show_law(name: str) -> LawCardAnswer:
    """The card of a law, by its name or by that of published constants.

    Raises:
        SpecError: there is none.
    """
    return LawCardAnswer(card_of(name))


def spend_command(
    law: Law, name: str, *limits: str, flops: float | None = None, size: float | None = None
) -> str:
    """What to ask next of a law that is called ``name``: the split of compute within ``limits``
    (options), streams against parameters, or a datastore against both.

    The budget is ``flops``; where the law does not reach it, or without, the power of ten that the
    corner of its box comes to. The base for streams has ``size`` parameters, or the
    middle of the box.
    """
    box = law.box
    if "streams" in law.form.inputs:
        base = short_count_text(size or _middle(box["params"]))
        return command("laws", "streams", base, "--on", "A100-SXM-80", "--law", name)
    lows, highs = zip(box["params"], box["tokens"], strict=True)
    least, most = 6 * math.prod(lows), 6 * math.prod(highs)
    if flops is None or not least / _NEAR <= flops <= most * _NEAR:
        flops = 10.0 ** math.floor(math.log10(most))
    budget = flops_text(float(f"{flops:.2g}"))
    if "datastore" in law.form.inputs:
        return command("laws", "datastore", name, "--flops", budget)
    return command("laws", "allocate", "--flops", budget, "--law", name, *limits)


_NEAR = 10
"""Times beyond the corner of its box that a law, stretched as by default, still answers for."""


def _middle(limits: tuple[float, float]) -> float:
    """Two digits of the geometric mean."""
    return float(f"{math.sqrt(limits[0] * limits[1]):.2g}")


def law_data(law: Law) -> dict[str, Any]:
    """A law with its parameters, for other answers."""
    return {
        "name": law.name,
        "form": law.form.name,
        "parameters": law.named,
        "box": {name: list(limits) for name, limits in law.box.items()},
        "unit": law.unit,
        "rmse_ln": law.rmse,
        "points": law.points,
        "source": law.source,
    }
