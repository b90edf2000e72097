"""The verb ``laws datastore``: a datastore against parameters at a budget."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json, ReportFile, Seed

__all__ = ["datastore"]


def datastore(
    runs: Annotated[
        Path, Argument(help="CSV with a row a run, or a law from fit --form datastore --out.")
    ],
    flops: Annotated[str, Option(help="FLOPs to spend in all, as in 1e24.")],
    retriever: Annotated[str, Option(help="Parameters of the retriever.")] = "110M",
    store: Annotated[str, Option(help="Tokens there are for a store; no limit if not given.")] = "",
    columns: Annotated[
        str, Option(help="Headers of the inputs, as in params=N,tokens=D_b*1e9,datastore=S.")
    ] = "params=params,tokens=tokens,datastore=datastore",
    loss: Annotated[str, Option(help="Header of the loss.")] = "loss",
    unit: Annotated[str, Option(help="nats or bits; else as headers say, else nats.")] = "",
    stretch: Annotated[float, Option(help="How far beyond the runs to look, in times.")] = 10.0,
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """Parameters, tokens or a datastore to retrieve from."""
    from plimsoll.api.laws_budget import flops_of, tokens_of
    from plimsoll.api.laws_datastore import weigh_datastore
    from plimsoll.cli.output import check_writable, emit

    check_writable(report)
    answer = weigh_datastore(
        runs,
        flops_of(flops),
        retriever_params=tokens_of(retriever, "--retriever"),
        most_tokens=tokens_of(store, "--store") if store else float("inf"),
        columns=columns,
        loss=loss,
        unit=unit,
        stretch=stretch,
        seed=seed,
    )
    emit(answer, json=json, html=report)
