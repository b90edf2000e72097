"""A plan as files that other systems run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.cost.memory import footprint
from plimsoll.planning.engine_limits import stored_format
from plimsoll.report.document import Report, Table
from plimsoll.report.export import EXPORTERS, ExportContext, ExportedFile, export_plan, pool_facts
from plimsoll.serving.simulate.run import batched_tokens
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.io import write_text
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.planned_model import model_of_plan
from plimsoll.spec.workload import Workload

__all__ = ["ExportAnswer", "context_for", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportAnswer:
    """The files of one target."""

    target: str
    files: tuple[ExportedFile, ...]
    plan_path: str = ""

    def report(self) -> Report:
        """See ``Answer``."""
        return Report(
            title=f"{len(self.files)} file{'' if len(self.files) == 1 else 's'} for {self.target}",
            tables=(
                Table(
                    title="Files",
                    columns=("name", "lines"),
                    rows=tuple((f.name, str(f.text.count("\n"))) for f in self.files),
                ),
            ),
            next_command=command(
                "export", self.plan_path, "--to", "bench", "--workload", "chat", "--out", "bench"
            )
            if self.plan_path and self.target != "bench"
            else "",
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "target": self.target,
            "files": [{"name": f.name, "text": f.text} for f in self.files],
        }

    def write(self, folder: Path) -> None:
        """Write every file into ``folder``; none is overwritten.

        Raises:
            SpecError: one of them exists already, or the folder cannot be written.
        """
        for file in self.files:
            if (folder / file.name).exists():
                raise SpecError(f"{folder / file.name}: exists already; choose another folder")
        for file in self.files:
            write_text(file.text, folder / file.name)


def export(
    plan: ServingPlan, target: str, *, model_path: str = "", workload: Workload | None = None
) -> ExportAnswer:
    """The files that start ``plan`` on ``target``.

    ``model_path`` is what the engine loads; "" takes the bundled model's hub id.

    Raises:
        UnsupportedError: the plan is for the package's own engine, or the target cannot start it.
    """
    if plan.engine == "plimsoll":
        raise UnsupportedError(
            "export: a plan with engine plimsoll is started by `plimsoll serve PLAN`; to export "
            "it, set engine to vllm, sglang or trtllm and judge it again with `plimsoll simulate`"
        )
    streams = model_of_plan(plan).streams
    if streams > 1:
        raise UnsupportedError(
            f"export: no engine written for runs a model with {streams} streams; export a plan of "
            "a plain model, or simulate this one"
        )
    context = context_for(plan, model_path=model_path, workload=workload)
    return ExportAnswer(target=target, files=export_plan(plan, target, context))


def context_for(
    plan: ServingPlan, *, model_path: str = "", workload: Workload | None = None
) -> ExportContext:
    """What exporters need beside the plan, from the model, the devices and the memory answer."""
    model = model_of_plan(plan)
    fleet = parse_fleet(plan.fleet)
    devices = {part.device.name: part.device for part in fleet.parts}
    nodes: dict[str, int] = {}
    for part in fleet.parts:
        nodes[part.device.name] = max(part.node.num_devices, nodes.get(part.device.name, 0))
    facts = []
    for pool in plan.pools:
        device = devices.get(pool.device) or load_device(pool.device)
        memory = footprint(
            model,
            device,
            pool.parallel,
            weight_dtype=plan.weight_dtype,
            memory_fraction=pool.memory_fraction,
            max_batched_tokens=batched_tokens(pool, plan.max_model_len or model.max_context),
            max_num_seqs=pool.max_num_seqs,
        )
        known = pool_facts(
            device,
            weight_bytes=memory.weights_bytes,
            activation_bytes=memory.activations_bytes + memory.graphs_bytes,
            runtime_bytes=memory.reserve_bytes,
        )
        host = min(known.devices_per_host, nodes.get(device.name, known.devices_per_host))
        facts.append(replace(known, devices_per_host=host))
    path = model_path or _hub_id(model.source) or plan.model
    return ExportContext(
        model=path,
        context_tokens=model.max_context,
        pools=tuple(facts),
        checkpoint_dtype=stored_format(model),
        workload=workload,
    )


def _hub_id(source: str) -> str:
    """The hub repository a bundled model's source names: "org/name", else ""."""
    for word in source.replace(",", " ").split():
        parts = word.strip("()").split("/")
        if len(parts) == 2 and all(parts) and "." not in parts[0]:
            return word.strip("()")
    return ""


def targets() -> dict[str, tuple[str, ...]]:
    """Export targets and the versions each was written for."""
    return {name: tuple(exporter.versions) for name, exporter in EXPORTERS.items()}
