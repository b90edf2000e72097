"""The verb ``laws testtime``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json, On, ReportFile, Seed

__all__ = ["testtime"]

Traces = Annotated[Path, Argument(help="CSV: question, model, tokens, truncated, correct.")]


def testtime(
    traces: Traces,
    on: On,
    budget: Annotated[str, Option(help="A question: 0.01usd, 60s or 1e15eFLOPs.")],
    select: Annotated[str, Option(help="pass: one of n is right; majority: a vote.")] = "pass",
    prompt: Annotated[str, Option(help="Prompt tokens, if the CSV has no such column.")] = "",
    seed: Seed = 0,
    json: Json = False,
    report: ReportFile = None,
) -> None:
    """What to buy at test time, from graded generations."""
    import sys
    from dataclasses import replace

    from plimsoll.api.laws_budget import tokens_of
    from plimsoll.api.laws_testtime import spend_test_time
    from plimsoll.cli.output import check_writable, emit

    check_writable(report)
    answer = spend_test_time(
        traces,
        on=on,
        budget=budget,
        select=select,
        prompt_tokens=tokens_of(prompt, "--prompt") if prompt else None,
        seed=seed,
    )
    emit(replace(answer, asked=tuple(sys.argv[1:])), json=json, html=report)
