"""Plans as files other systems run: engines on bare hosts, Kubernetes, the matching load."""

from plimsoll.report.export import bench, dynamo, kubernetes, llm_d, sglang, trtllm, vllm
from plimsoll.report.export.contract import (
    ExportContext,
    ExportedFile,
    Exporter,
    PoolFacts,
    pool_facts,
)
from plimsoll.report.export.vllm import parse_vllm, serve_command
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.plan import ServingPlan

__all__ = [
    "EXPORTERS",
    "ExportContext",
    "ExportedFile",
    "Exporter",
    "PoolFacts",
    "export_plan",
    "parse_vllm",
    "pool_facts",
    "serve_command",
]

EXPORTERS: dict[str, Exporter] = {
    exporter.target: exporter
    for exporter in (
        Exporter(target="vllm", versions=vllm.VERSIONS, export=vllm.export),
        Exporter(target="sglang", versions=sglang.VERSIONS, export=sglang.export),
        Exporter(target="trtllm", versions=trtllm.VERSIONS, export=trtllm.export),
        Exporter(target="kubernetes", versions=kubernetes.VERSIONS, export=kubernetes.export),
        Exporter(target="dynamo", versions=dynamo.VERSIONS, export=dynamo.export),
        Exporter(target="llm-d", versions=llm_d.VERSIONS, export=llm_d.export),
        Exporter(target="bench", versions=bench.VERSIONS, export=bench.export),
    )
}


def export_plan(plan: ServingPlan, target: str, context: ExportContext) -> tuple[ExportedFile, ...]:
    """The files that start ``plan`` on ``target``, the same bytes every time.

    Raises:
        SpecError: unknown target, or plan and context do not belong together.
        UnsupportedError: the target cannot express a field; the message names it.
    """
    exporter = EXPORTERS.get(target)
    if exporter is None:
        raise SpecError(
            f"unknown export target {target!r}; known: {', '.join(EXPORTERS)}."
            + suggest(target, EXPORTERS)
        )
    return exporter.export(plan, context)
