"""``laws density``: what scores are worth in parameters, and how fast that grows."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json, ReportFile, Seed

__all__ = ["density"]


def density(
    scores: Annotated[Path, Argument(help="CSV with a row a base model: scores from 0 to 1.")],
    benchmarks: Annotated[str, Option(help="Headers of the scores to average, as in MMLU,ARC-C.")],
    reference: Annotated[str, Option(help="Families of the reference ladder, as in Llama.")],
    columns: Annotated[
        str, Option(help="Headers, as in model=Model,family=Family,params=Size*1e9.")
    ] = "model=model,family=family,params=params",
    released: Annotated[
        Path | None, Option(help="CSV of release months: model,release_month.")
    ] = None,
    floor: Annotated[float, Option(help="Score of guessing.")] = 0.25,
    since: Annotated[str, Option(help="First month of the trend, as in 2023-01.")] = "",
    least_score: Annotated[float, Option(help="Leave models at or below this score out.")] = 0.0,
    by: Annotated[str, Option(help="Parameters to count: total or active.")] = "total",
    size_for: Annotated[float | None, Option(help="Size that a score takes; with --at.")] = None,
    at: Annotated[str, Option(help="Month to answer for, as in 2026-06.")] = "",
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """Effective size of models, and its growth."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_density import densities, month_of, read_models
    from plimsoll.api.laws_fit import parse_columns
    from plimsoll.cli.output import check_writable, emit

    check_writable(report)
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    answer = densities(
        read_models(scores, parse_columns(columns), names, released),
        names,
        [name.strip() for name in reference.split(",") if name.strip()],
        source=str(scores),
        floor=floor,
        since=month_of(since, "--since") if since else None,
        least_score=least_score,
        by=by,
        size_for=size_for,
        at=month_of(at, "--at") if at else None,
        seed=seed,
    )
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report)
