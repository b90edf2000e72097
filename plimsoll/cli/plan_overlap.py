"""The verb ``plan overlap``: how the layers of a step can overlap inside the devices."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from plimsoll.cli.options import Json, Model, Quiet, ReportFile, Seed, WorkloadOption

__all__ = ["plan_overlap"]


def plan_overlap(
    model: Model,
    on: Annotated[str, Option("--on", "--hw", help="Hardware, as in 8xA100-SXM-80.")],
    workload: WorkloadOption = "chat",
    batch: Annotated[int, Option(help="Dense batch: tokens of every step.")] = 2048,
    tp: Annotated[int, Option(help="Tensor parallel degree; 0 takes every device.")] = 0,
    budget: Annotated[str, Option(help="Time for the search, as in 120s.")] = "120s",
    out: Annotated[Path | None, Option(help="Write a serving plan with it to this file.")] = None,
    seed: Seed = 0,
    report: ReportFile = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """How layers overlap compute, memory and network in one step."""
    from dataclasses import replace

    from plimsoll.api.plan_overlap import plan_overlap as run_plan_overlap
    from plimsoll.cli.output import check_writable, emit, workload_spec
    from plimsoll.spec.units import parse_quantity

    check_writable(out)
    check_writable(report)
    answer = run_plan_overlap(
        model,
        on,
        workload_spec(workload),
        batch_tokens=batch,
        tp=tp,
        budget_s=parse_quantity(budget, "time", where="--budget"),
        seed=seed,
        progress=None if quiet else lambda text: print(f"overlap: {text}", file=sys.stderr),
    )
    if out is not None:
        from plimsoll.spec.io import write

        write(answer.serving_plan, out)
        answer = replace(answer, plan_path=str(out))
    emit(answer, json=json, html=report)
