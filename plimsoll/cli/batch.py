"""The verb ``batch``: answer a file of prompts offline."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from plimsoll.cli.options import Json, Quiet

__all__ = ["batch"]


def batch(
    prompts: Annotated[Path, Argument(help="JSONL: id, prompt, max_tokens; or OpenAI's batch.")],
    model: Annotated[Path, Option(help="Model folder, or a plan with policy prefix-groups.")],
    out: Annotated[Path | None, Option(help="Results; else beside the prompts.")] = None,
    max_tokens: Annotated[int, Option(help="Output limit where a line has none.")] = 128,
    expect_tokens: Annotated[
        float, Option(help="Mean output to plan with; 0 takes each limit.")
    ] = 0.0,
    replicas: Annotated[int, Option(min=1, help="Workers, if no plan says.")] = 1,
    kv_memory: Annotated[str | None, Option(help="KV memory of a worker, as in 2GiB.")] = None,
    device: Annotated[str, Option(help="cpu or cuda:0.")] = "cpu",
    dtype: Annotated[str, Option(help="fp32, bf16 or fp16; as stored without.")] = "",
    explain: Annotated[bool, Option("--explain", help="Compare with an LRU prefix cache.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Answer a file of prompts, sharing prefixes; resumes."""
    import sys

    from plimsoll.api.batch import BatchOptions
    from plimsoll.api.batch import batch as run_batch
    from plimsoll.cli.output import check_writable, emit
    from plimsoll.cli.progress import progress_line
    from plimsoll.spec.units import parse_quantity

    out = out or prompts.with_name(f"{prompts.stem}.results.jsonl")
    check_writable(out)
    options = BatchOptions(
        max_tokens=max_tokens,
        expect_tokens=expect_tokens,
        replicas=replicas,
        kv_bytes=parse_quantity(kv_memory, "bytes", where="--kv-memory") if kv_memory else 0.0,
        device=device,
        dtype=dtype,
    )
    with progress_line(quiet) as progress:
        answer = run_batch(
            prompts,
            model,
            out,
            options=options,
            explain=explain,
            say=(lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr)),
            progress=progress,
        )
    emit(answer, json=json, html=None)
    if answer.num_failed:
        raise typer.Exit(1)
