"""The verbs of ``trace``: show traffic, fit a burst model, make a workload, send it to a server."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from plimsoll.cli.options import Json, Rate, Seed

__all__ = ["trace_app"]

trace_app = typer.Typer(help="Traffic: show, fit, make, send to a server.", no_args_is_help=True)

Source = Annotated[
    str, Argument(help="Trace file, saved workload, bundled workload, burst model or 4000/500.")
]


@trace_app.command()
def show(source: Source, seed: Seed = 0, json: Json = False) -> None:
    """Rate, burstiness, lengths and prefix reuse of any traffic."""
    from plimsoll.api.trace import show_workload
    from plimsoll.cli.output import emit

    emit(show_workload(source, seed=seed), json=json, html=None)


@trace_app.command()
def fit(
    trace: Annotated[str, Argument(help="Trace file with arrival times.")],
    window: Annotated[str, Option(help="Length of the fitted windows, as in 20min.")] = "20min",
    out: Annotated[Path | None, Option(help="Write the model to this YAML file.")] = None,
    json: Json = False,
) -> None:
    """Fit a burst model: gaps by window, lengths, sessions, failures."""
    from plimsoll.api.trace import fit_trace
    from plimsoll.cli.output import check_writable, emit
    from plimsoll.spec.units import parse_quantity

    check_writable(out)
    window_s = parse_quantity(window, "time", where="--window")
    emit(fit_trace(trace, window_s=window_s, out=out), json=json, html=None)


@trace_app.command()
def make(
    source: Source,
    out: Annotated[Path, Option(help="File to write: .jsonl or .npz.")],
    rate: Rate = None,
    requests: Annotated[int, Option(help="Requests to make; 0 takes the source's own.")] = 0,
    duration: Annotated[str | None, Option(help="Time to cover, as in 10min.")] = None,
    in_flight: Annotated[int, Option(help="Closed loop with that many in flight.")] = 0,
    start: Annotated[str | None, Option(help="Of a trace: leave out what is before.")] = None,
    end: Annotated[str | None, Option(help="Of a trace: leave out what is after.")] = None,
    first: Annotated[int, Option(help="Of a trace: read only that many requests.")] = 0,
    sort: Annotated[bool, Option("--sort", help="Of a trace: rows may be out of order.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw a workload, or cut and rescale a trace, and save it."""
    from plimsoll.api.trace import make_workload
    from plimsoll.cli.output import check_writable, emit, workload_spec
    from plimsoll.spec.units import parse_quantity

    check_writable(out)
    asked = workload_spec(source, rate=rate, requests=requests, in_flight=in_flight)
    answer = make_workload(
        source,
        out,
        seed=seed,
        rate_per_s=asked.rate_per_s,
        num_requests=asked.num_requests,
        duration_s=None
        if duration is None
        else parse_quantity(duration, "time", where="--duration"),
        num_in_flight=asked.num_in_flight,
        start_s=0.0 if start is None else parse_quantity(start, "time", where="--start"),
        end_s=float("inf") if end is None else parse_quantity(end, "time", where="--end"),
        max_requests=first,
        sort=sort,
    )
    emit(answer, json=json, html=None)


@trace_app.command()
def replay(
    source: Source,
    url: Annotated[str, Option(help="Root of an OpenAI-compatible server.")],
    model: Annotated[str, Option(help="Model to ask for; else the first listed.")] = "",
    key: Annotated[str, Option(help="API key.", envvar="PLIMSOLL_API_KEY")] = "",
    rate: Rate = None,
    requests: Annotated[int, Option(help="Requests to send; 0 takes the source's own.")] = 0,
    in_flight: Annotated[int, Option(help="Closed loop with that many in flight.")] = 0,
    vocabulary: Annotated[int, Option(help="Prompt token ids are below this.")] = 256,
    out: Annotated[Path | None, Option(help="Write every request's times as JSON.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Send traffic to a real server at its own times."""
    from plimsoll.api.trace_replay import replay_workload
    from plimsoll.cli.output import check_writable, emit, workload_spec

    check_writable(out)
    asked = workload_spec(source, rate=rate, requests=requests, in_flight=in_flight)
    answer = replay_workload(
        source,
        url,
        model=model,
        key=key,
        rate_per_s=asked.rate_per_s,
        num_requests=asked.num_requests,
        num_in_flight=asked.num_in_flight,
        vocab_size=vocabulary,
        seed=seed,
        out=out,
    )
    emit(answer, json=json, html=None)
