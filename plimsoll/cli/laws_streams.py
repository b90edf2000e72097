"""The verb ``laws streams``: parallel streams against more parameters."""

from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json, On

__all__ = ["streams"]


def streams(
    model: Annotated[str, Argument(help="Bundled model, config.json, or a size as in 1.6B.")],
    on: On,
    law: Annotated[str, Option(help="parscale-stack, parscale-pile, or a fitted file.")] = (
        "parscale-stack"
    ),
    streams: Annotated[str, Option(help="Numbers of streams to compare.")] = "1,2,4,8",
    batch: Annotated[int, Option(help="Requests that run together.")] = 1,
    lengths: Annotated[str, Option(help="Tokens in and out, as in 512/512.")] = "512/512",
    latency: Annotated[str | None, Option(help="Bound on a request, as in 5s.")] = None,
    usd: Annotated[float, Option(help="Bound on USD a million output tokens.")] = 0.0,
    json: Json = False,
) -> None:
    """Parallel streams, or a larger model of equal loss?"""
    import sys

    from plimsoll.api.laws_streams import laws_streams, load_of, stream_counts
    from plimsoll.cli.output import emit
    from plimsoll.spec.errors import SpecError
    from plimsoll.spec.units import parse_quantity

    latency_s = parse_quantity(latency, "time", where="--latency") if latency else 0.0
    if (latency and not latency_s) or not 0 <= usd < float("inf"):
        raise SpecError("--latency and --usd: expected bounds above zero; leave them out for none")
    answer = laws_streams(
        model,
        on,
        law=law,
        streams=stream_counts(streams),
        load=load_of(lengths, batch),
        latency_s=latency_s,
        usd_per_million=usd,
        asked=tuple(sys.argv[1:]),
    )
    emit(answer, json=json, html=None)
