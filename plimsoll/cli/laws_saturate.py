"""The verb ``laws saturate``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json, Seed

__all__ = ["saturate"]

Outcomes = Annotated[Path, Argument(help="CSV: question, correct; round if answers are revised.")]


def saturate(
    outcomes: Outcomes,
    epsilon: Annotated[float, Option(help="Gain in solved questions to stop at.")] = 0.01,
    value: Annotated[float, Option(help="Worth of a solved question; with --price.")] = 0.0,
    price: Annotated[float, Option(help="Of one sample or round, in the same unit.")] = 0.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """When more samples or rounds stop paying, from a pilot."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_saturate import saturate as answer_of
    from plimsoll.cli.output import emit

    answer = answer_of(outcomes, epsilon=epsilon, value=value, price=price, seed=seed)
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=None)
