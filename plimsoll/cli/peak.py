"""The verb ``peak``: limits of serving long contexts that no engine can beat."""

from typing import Annotated

from typer import Option

from plimsoll.cli.options import Json, Model, On

__all__ = ["peak"]


def peak(
    model: Model,
    on: On,
    context: Annotated[str, Option(help="Tokens held, one or more, as in 4k,50k.")] = "4k,50k",
    users: Annotated[int, Option(help="Users in the decode batch.")] = 1,
    decode_tokens: Annotated[int, Option(help="Tokens of the decode time.")] = 250,
    attention: Annotated[
        str, Option(help="Pairs counted in prefill: causal, full or paper (a quarter).")
    ] = "causal",
    weights: Annotated[str | None, Option(help="Weight format, as in fp8.")] = None,
    kv: Annotated[str | None, Option(help="KV cache format, as in fp8.")] = None,
    json: Json = False,
) -> None:
    """The analytical peak: users, prefill, decode, context switch."""
    from plimsoll.api.peak import peak as run_peak
    from plimsoll.cli.output import dtype_option, emit
    from plimsoll.spec.units import parse_count

    answer = run_peak(
        model,
        on,
        [parse_count(word, where="--context") for word in context.split(",")],
        users=users,
        decode_tokens=decode_tokens,
        attention=attention,  # type: ignore[arg-type]
        weight_dtype=dtype_option(weights, "--weights"),
        kv_dtype=dtype_option(kv, "--kv"),
    )
    emit(answer, json=json, html=None)
