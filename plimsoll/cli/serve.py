"""The verb ``serve``: an OpenAI-compatible server."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

__all__ = ["serve"]


def serve(
    what: Annotated[
        Path | None,
        Argument(metavar="MODEL_OR_PLAN", help="Model folder or plan; a small demo without."),
    ] = None,
    host: Annotated[str, Option(help="Address; beyond loopback only with keys.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, Option(help="File of API keys.")] = None,
    device: Annotated[str, Option(help="cpu or cuda:0.")] = "cpu",
    dtype: Annotated[str, Option(help="fp32, bf16 or fp16; as stored without.")] = "",
    replicas: Annotated[int, Option(min=1, help="Workers, if no plan says.")] = 1,
    kv_memory: Annotated[str | None, Option(help="KV memory of a worker, as in 2GiB.")] = None,
    requests_per_minute: Annotated[float | None, Option(help="Limit of each key.")] = None,
    tokens_per_day: Annotated[int | None, Option(help="Quota of each key.")] = None,
) -> None:
    """Serve a model to OpenAI clients, with a chat page at /."""
    from plimsoll.api.serve import serve as run_serve
    from plimsoll.spec.errors import UnsupportedError
    from plimsoll.spec.units import parse_quantity

    try:
        from plimsoll.serving.http.settings import HttpSettings
    except ImportError as error:
        raise UnsupportedError(
            f"serve needs {error.name}; install plimsoll[torch,server]"
        ) from None
    settings = HttpSettings(
        host=host,
        port=port,
        keys_file=keys,
        requests_per_minute=requests_per_minute,
        tokens_per_day=tokens_per_day,
    )
    drained = run_serve(
        what,
        settings=settings,
        device=device,
        dtype=dtype,
        replicas=replicas,
        kv_bytes=parse_quantity(kv_memory, "bytes", where="--kv-memory") if kv_memory else 0.0,
    )
    if not drained:
        raise typer.Exit(1)
