"""The verbs of ``laws``; those with a file of their own are named at the end."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from plimsoll.cli.laws_datastore import datastore as weigh_datastore
from plimsoll.cli.laws_density import density
from plimsoll.cli.laws_filter import filter_data
from plimsoll.cli.laws_hyper import hyper
from plimsoll.cli.laws_saturate import saturate
from plimsoll.cli.laws_series import series
from plimsoll.cli.laws_streams import streams
from plimsoll.cli.laws_testtime import testtime
from plimsoll.cli.options import Figures, Json, ReportFile, Seed

__all__ = ["laws_app"]

laws_app = typer.Typer(
    help="Scaling laws: list, fit, predict, split a budget.", no_args_is_help=True
)

Runs = Annotated[list[Path], Argument(help="CSVs with a row a run, or tiny-grid.")]
Columns = Annotated[str, Option(help="Headers of the inputs, as in params=N,tokens=D_b*1e9.")]
Loss = Annotated[str, Option(help="Header of the loss.")]
Unit = Annotated[str, Option(help="nats or bits; else as headers say, else nats.")]
LawOption = Annotated[str, Option("--law", help="Published law, or a file that fit --out wrote.")]
Unique = Annotated[str, Option(help="Different tokens that exist, as in 20B; more epochs repeat.")]
_COLUMNS = "params=params,tokens=tokens"


@laws_app.command("list")
def list_forms(
    name: Annotated[str, Argument(help="One law, to see all that is known of it.")] = "",
    json: Json = False,
) -> None:
    """All laws, or the card of one."""
    from plimsoll.api.laws import list_laws, show_law
    from plimsoll.cli.output import emit

    emit(show_law(name) if name else list_laws(), json=json, html=None)


@laws_app.command()
def fit(
    runs: Runs,
    columns: Columns = _COLUMNS,
    loss: Loss = "loss",
    unit: Unit = "",
    form: Annotated[str, Option(help="Form by name; auto takes what extrapolates best.")] = "auto",
    out: Annotated[Path | None, Option(help="Write the law to this file.")] = None,
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
    figures: Figures = None,
) -> None:
    """Fit a law to your own runs."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_fit import check_law_file, fit_law, read_runs
    from plimsoll.cli.output import check_folder, check_writable, emit

    check_law_file(out)
    check_writable(out)
    check_writable(report)
    check_folder(figures)
    answer = fit_law(read_runs(runs, columns, loss, unit), form=form, seed=seed, out=out)
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report, figures=figures)


@laws_app.command()
def compare(
    runs: Runs,
    columns: Columns = _COLUMNS,
    loss: Loss = "loss",
    unit: Unit = "",
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
    figures: Figures = None,
) -> None:
    """All forms on the same held-out runs."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_fit import compare_laws, read_runs
    from plimsoll.cli.output import check_folder, check_writable, emit

    check_writable(report)
    check_folder(figures)
    answer = compare_laws(read_runs(runs, columns, loss, unit), seed=seed)
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report, figures=figures)


@laws_app.command()
def predict(
    law: LawOption = "chinchilla",
    params: Annotated[str | None, Option(help="Parameters, as in 7B.")] = None,
    tokens: Annotated[str | None, Option(help="Training tokens, as in 2T.")] = None,
    streams: Annotated[str | None, Option(help="Parallel streams.")] = None,
    unique: Annotated[str | None, Option(help="Different tokens among those of training.")] = None,
    datastore: Annotated[str | None, Option(help="Tokens to retrieve from.")] = None,
    level: Annotated[float, Option(help="Of the interval: 0.5, 0.8, 0.9 or 0.95.")] = 0.9,
    json: Json = False,
    report: ReportFile = None,
    figures: Figures = None,
) -> None:
    """The loss of a run that was not made."""
    from plimsoll.api.laws_budget import predict_loss, tokens_of
    from plimsoll.cli.output import check_folder, check_writable, emit

    check_writable(report)
    check_folder(figures)
    given = {
        "params": params,
        "tokens": tokens,
        "streams": streams,
        "unique": unique,
        "datastore": datastore,
    }
    inputs = {k: tokens_of(v, f"--{k}") for k, v in given.items() if v is not None}
    emit(predict_loss(law, inputs, level=level), json=json, html=report, figures=figures)


@laws_app.command()
def allocate(
    flops: Annotated[str, Option(help="FLOPs to spend in all, as in 1e24.")],
    law: LawOption = "chinchilla",
    serve: Annotated[str, Option(help="Tokens to be served over its life, as in 2e12tokens.")] = "",
    on: Annotated[str, Option(help="Devices that serve, as in 64xH100-SXM.")] = "",
    stretch: Annotated[float, Option(help="How far beyond the fit to look, in times.")] = 10.0,
    unique: Unique = "",
    json: Json = False,
    report: ReportFile = None,
    figures: Figures = None,
) -> None:
    """The size and the tokens of least loss for a budget."""
    from plimsoll.api.laws_budget import allocate as split
    from plimsoll.api.laws_budget import flops_of, tokens_of
    from plimsoll.cli.output import check_folder, check_writable, emit

    check_writable(report)
    check_folder(figures)
    answer = split(
        law,
        flops_of(flops),
        serve_tokens=tokens_of(serve, "--serve") if serve else 0.0,
        on=on,
        stretch=stretch,
        unique=tokens_of(unique, "--unique") if unique else None,
    )
    emit(answer, json=json, html=report, figures=figures)


@laws_app.command()
def advise(
    flops: Annotated[str, Option(help="FLOPs to spend in all, as in 1e24.")],
    on: Annotated[str, Option(help="Devices that train and serve, as in 64xH100-SXM.")],
    law: LawOption = "chinchilla",
    serve: Annotated[str, Option(help="Tokens to be served over its life, as in 2e12tokens.")] = "",
    unique: Unique = "",
    json: Json = False,
    report: ReportFile = None,
    figures: Figures = None,
) -> None:
    """One page: what to train, how, and at what cost."""
    from plimsoll.api.laws_advise import advise as page
    from plimsoll.api.laws_budget import flops_of, tokens_of
    from plimsoll.cli.output import check_folder, check_writable, emit

    check_writable(report)
    check_folder(figures)
    answer = page(
        law,
        flops_of(flops),
        on=on,
        serve_tokens=tokens_of(serve, "--serve") if serve else 0.0,
        unique=tokens_of(unique, "--unique") if unique else None,
    )
    emit(answer, json=json, html=report, figures=figures)


laws_app.command()(hyper)
laws_app.command()(density)
laws_app.command("filter")(filter_data)
laws_app.command()(streams)
laws_app.command("datastore")(weigh_datastore)
laws_app.command()(testtime)
laws_app.command()(saturate)
laws_app.command()(series)
