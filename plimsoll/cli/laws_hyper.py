"""``laws hyper``: learning rate and batch for a run."""

from pathlib import Path
from typing import Annotated

from typer import Option

from plimsoll.cli.options import Json, ReportFile, Seed

__all__ = ["hyper"]

_COLUMNS = "params=params,tokens=tokens,lr=lr,batch=batch"


def hyper(
    params: Annotated[str | None, Option(help="Parameters of the run, as in 7B.")] = None,
    tokens: Annotated[str | None, Option(help="Training tokens of the run, as in 1.4T.")] = None,
    seq_len: Annotated[int, Option(help="Tokens a sequence.")] = 4096,
    data_parallel: Annotated[int, Option(help="Ranks that share a batch.")] = 1,
    micro_batch: Annotated[int, Option(help="Sequences a rank takes at once.")] = 1,
    sweep: Annotated[
        Path | None, Option(help="CSV of your own runs, to refit the law and judge it.")
    ] = None,
    columns: Annotated[
        str, Option(help="Headers of the sweep, as in params=N,tokens=D,lr=lr,batch=bs.")
    ] = _COLUMNS,
    loss: Annotated[str, Option(help="Header of the final loss, smoothed.")] = "loss",
    batch_in: Annotated[str, Option(help="Unit of the sweep's batches: tokens, sequences.")] = (
        "tokens"
    ),
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """Learning rate and batch for a run."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_budget import tokens_of
    from plimsoll.api.laws_fit import parse_columns
    from plimsoll.api.laws_hyper import hyper as answer_for
    from plimsoll.api.laws_sweep import read_user_sweep
    from plimsoll.cli.output import check_writable, emit
    from plimsoll.spec.errors import SpecError

    check_writable(report)
    if sweep is None and (columns, loss, batch_in) != (_COLUMNS, "loss", "tokens"):
        raise SpecError("--columns, --loss and --batch-in are of a sweep; give it with --sweep")
    table = None
    if sweep is not None:
        table = read_user_sweep(sweep, parse_columns(columns), loss, batch_in, seq_len)
    answer = answer_for(
        None if params is None else tokens_of(params, "--params"),
        None if tokens is None else tokens_of(tokens, "--tokens"),
        seq_len=seq_len,
        data_parallel=data_parallel,
        micro_batch=micro_batch,
        sweep=table,
        seed=seed,
    )
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report)
