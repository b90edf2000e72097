"""``laws filter``: which pools of ranked data to keep at a budget."""

from pathlib import Path
from typing import Annotated

from typer import Option

from plimsoll.cli.options import Json, ReportFile

__all__ = ["filter_data"]


def filter_data(
    pools: Annotated[
        Path, Option(help="CSV: pool,samples,b,tau as fitted, or pool,samples,seen,error of runs.")
    ],
    samples: Annotated[str, Option(help="Samples to train on; several as in 64M,128M,640M.")],
    fading: Annotated[
        str, Option(help="What repeats cost: utility, or data (samples count less).")
    ] = "utility",
    factor: Annotated[float | None, Option(help="a of the law, for pools as fitted.")] = None,
    floor: Annotated[float | None, Option(help="d of the law, the error that stays.")] = None,
    per: Annotated[str, Option(help="Samples that a is per, for pools as fitted.")] = "",
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """Which pools of ranked data to train on."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_budget import tokens_of
    from plimsoll.api.laws_filter import filter_pools, law_kind
    from plimsoll.cli.output import check_writable, emit

    check_writable(report)
    answer = filter_pools(
        pools,
        [tokens_of(part, "--samples") for part in samples.split(",") if part.strip()],
        kind=law_kind(fading),
        factor=factor,
        floor=floor,
        normaliser=tokens_of(per, "--per") if per else None,
    )
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report)
