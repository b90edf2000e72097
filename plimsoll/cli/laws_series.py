"""``laws series``: what forecasters of series gain from size and from data."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json

__all__ = ["series"]


def series(
    runs: Annotated[Path, Argument(help="CSV: params, data_tokens, seen_tokens, arch, seed.")],
    loss: Annotated[str, Option(help="Header of the score to fit.")] = "nll",
    offset: Annotated[
        float, Option(help="Taken off it: the entropy of the data, or a bound below all.")
    ] = 0.0,
    target: Annotated[
        str, Option(help="What the score is: id-nll, ood-nll or ood-mape.")
    ] = "id-nll",
    horizon: Annotated[str, Option(help="fixed or varying.")] = "fixed",
    json: Json = False,
) -> None:
    """What forecasters gain from size and data."""
    import sys

    from plimsoll.api.laws_series import series_laws
    from plimsoll.cli.output import emit

    answer = series_laws(
        runs,
        loss=loss,
        offset=offset,
        target=target,
        horizon=horizon,
        asked=tuple(sys.argv[1:]),
    )
    emit(answer, json=json, html=None)
