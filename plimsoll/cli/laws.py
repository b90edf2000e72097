"""The verbs of ``laws``: list, fit, compare, predict, allocate, advise."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from plimsoll.cli.options import Json, ReportFile, Seed

__all__ = ["laws_app"]

laws_app = typer.Typer(
    help="Scaling laws: list, fit, predict, split a budget.", no_args_is_help=True
)

Runs = Annotated[Path, Argument(help="CSV with a row a run, or tiny-grid.")]
Columns = Annotated[str, Option(help="Headers of the inputs, as in params=N,tokens=D_b*1e9.")]
Loss = Annotated[str, Option(help="Header of the loss.")]
Unit = Annotated[str, Option(help="nats or bits, a token or a byte.")]
LawOption = Annotated[str, Option("--law", help="Published law, or a file that fit --out wrote.")]
_COLUMNS = "params=params,tokens=tokens"


@laws_app.command("list")
def list_forms(json: Json = False) -> None:
    """Forms that can be fitted, and laws as published."""
    from plimsoll.api.laws import list_laws
    from plimsoll.cli.output import emit

    emit(list_laws(), json=json, html=None)


@laws_app.command()
def fit(
    runs: Runs,
    columns: Columns = _COLUMNS,
    loss: Loss = "loss",
    unit: Unit = "nats",
    form: Annotated[str, Option(help="Form by name; auto takes what extrapolates best.")] = "auto",
    out: Annotated[Path | None, Option(help="Write the law to this file.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Fit a law to your own runs."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_fit import fit_law, read_runs
    from plimsoll.cli.output import check_writable, emit

    check_writable(out)
    answer = fit_law(read_runs(runs, columns, loss, unit), form=form, seed=seed, out=out)
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=None)


@laws_app.command()
def compare(
    runs: Runs,
    columns: Columns = _COLUMNS,
    loss: Loss = "loss",
    unit: Unit = "nats",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """All forms on the same held-out runs."""
    from plimsoll.api.laws_fit import compare_laws, read_runs
    from plimsoll.cli.output import emit

    emit(compare_laws(read_runs(runs, columns, loss, unit), seed=seed), json=json, html=None)


@laws_app.command()
def predict(
    law: LawOption = "chinchilla",
    params: Annotated[str | None, Option(help="Parameters, as in 7B.")] = None,
    tokens: Annotated[str | None, Option(help="Training tokens, as in 2T.")] = None,
    streams: Annotated[str | None, Option(help="Parallel streams.")] = None,
    level: Annotated[float, Option(help="Of the interval: 0.5, 0.8, 0.9 or 0.95.")] = 0.9,
    json: Json = False,
) -> None:
    """The loss of a run that was not made."""
    from plimsoll.api.laws_budget import predict_loss, tokens_of
    from plimsoll.cli.output import emit

    given = {"params": params, "tokens": tokens, "streams": streams}
    inputs = {k: tokens_of(v, f"--{k}") for k, v in given.items() if v is not None}
    emit(predict_loss(law, inputs, level=level), json=json, html=None)


@laws_app.command()
def allocate(
    flops: Annotated[str, Option(help="FLOPs to spend in all, as in 1e24.")],
    law: LawOption = "chinchilla",
    serve: Annotated[str, Option(help="Tokens to be served over its life, as in 2e12tokens.")] = "",
    on: Annotated[str, Option(help="Devices that serve, as in 64xH100-SXM.")] = "",
    stretch: Annotated[float, Option(help="How far beyond the fit to look, in times.")] = 10.0,
    json: Json = False,
) -> None:
    """The size and the tokens of least loss for a budget."""
    from plimsoll.api.laws_budget import allocate as split
    from plimsoll.api.laws_budget import tokens_of
    from plimsoll.cli.output import emit

    answer = split(
        law,
        tokens_of(flops.removesuffix("FLOPs"), "--flops"),
        serve_tokens=tokens_of(serve, "--serve") if serve else 0.0,
        on=on,
        stretch=stretch,
    )
    emit(answer, json=json, html=None)


@laws_app.command()
def advise(
    flops: Annotated[str, Option(help="FLOPs to spend in all, as in 1e24.")],
    on: Annotated[str, Option(help="Devices that train and serve, as in 64xH100-SXM.")],
    law: LawOption = "chinchilla",
    serve: Annotated[str, Option(help="Tokens to be served over its life, as in 2e12tokens.")] = "",
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """One page: what to train, how, and at what cost."""
    from plimsoll.api.laws_advise import advise as page
    from plimsoll.api.laws_budget import tokens_of
    from plimsoll.cli.output import check_writable, emit

    check_writable(report)
    answer = page(
        law,
        tokens_of(flops.removesuffix("FLOPs"), "--flops"),
        on=on,
        serve_tokens=tokens_of(serve, "--serve") if serve else 0.0,
    )
    emit(answer, json=json, html=report)
