"""What the package knows by name."""

from dataclasses import dataclass
from typing import Any

from plimsoll.report.document import Report, Table
from plimsoll.spec.errors import SpecError, suggest

__all__ = ["KINDS", "ListAnswer", "listing"]

KINDS = ("models", "hardware", "workloads", "policies", "catalog", "exports")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """One table of names."""

    kind: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    next_command: str

    def report(self) -> Report:
        """See ``Answer``."""
        return Report(
            title=f"{len(self.rows)} {self.kind}",
            tables=(Table(title=self.kind, columns=self.columns, rows=self.rows),),
            next_command=self.next_command,
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            self.kind: [dict(zip(self.columns, row, strict=True)) for row in self.rows],
        }


def listing(kind: str) -> ListAnswer:
    """Names of one kind.

    Raises:
        SpecError: an unknown kind.
    """
    if kind not in KINDS:
        raise SpecError(
            f"list: {kind!r} is unknown; expected {', '.join(KINDS)}.{suggest(kind, KINDS)}"
        )
    return {
        "models": _models,
        "hardware": _hardware,
        "workloads": _workloads,
        "policies": _policies,
        "catalog": _catalog,
        "exports": _exports,
    }[kind]()


def _models() -> ListAnswer:
    from plimsoll.spec.model_files import bundled_models, load_model
    from plimsoll.spec.parameters import active_parameters, total_parameters

    rows = []
    for name in bundled_models():
        model = load_model(name)
        total, active = total_parameters(model), active_parameters(model)
        rows.append(
            (name, f"{total / 1e9:.4g} B", f"{active / 1e9:.3g} B", f"{model.max_context:,}")
        )
    return ListAnswer(
        kind="models",
        columns=("model", "parameters", "active", "context"),
        rows=tuple(rows),
        next_command="plimsoll fit llama-3.1-70b --on 8xH100-SXM",
    )


def _hardware() -> ListAnswer:
    from plimsoll.spec.dtype import DType
    from plimsoll.spec.fleet import bundled_devices

    rows = []
    for device in bundled_devices():
        bf16 = device.peak_flops_per_s.get(DType.BF16) or device.peak_flops_per_s.get(DType.FP16)
        price = device.price
        rows.append(
            (
                device.name,
                f"{device.memory_bytes / 1e9:.0f} GB",
                f"{device.memory_bytes_per_s / 1e12:.3g} TB/s",
                f"{bf16 / 1e12:.4g} TFLOP/s" if bf16 else "-",
                "-" if price is None else f"{price.usd_per_hour:.3g} USD/h",
                device.as_of if price is None else price.as_of,
            )
        )
    return ListAnswer(
        kind="hardware",
        columns=("device", "memory", "bandwidth", "bf16 dense", "price", "as of"),
        rows=tuple(rows),
        next_command="plimsoll fit llama-3.1-70b --on 8xH100-SXM",
    )


def _workloads() -> ListAnswer:
    from plimsoll.spec.workload_files import bundled_recipe, bundled_workloads

    rows = tuple((name, bundled_recipe(name).source) for name in bundled_workloads())
    return ListAnswer(
        kind="workloads",
        columns=("workload", "statistics from"),
        rows=rows,
        next_command="plimsoll plan llama-3.1-70b --on 8xH100-SXM --workload chat",
    )


def _policies() -> ListAnswer:
    from plimsoll.serving.policies import POLICIES
    from plimsoll.serving.routers import ROUTERS

    rows = [(kind, "step policy", _first_line(cls)) for kind, cls in POLICIES.items()]
    rows += [(kind, "router", _first_line(cls)) for kind, cls in ROUTERS.items()]
    return ListAnswer(
        kind="policies",
        columns=("kind", "decides", "how"),
        rows=tuple(rows),
        next_command="plimsoll plan llama-3.1-70b --on 8xH100-SXM --set policy=splitfuse",
    )


def _catalog() -> ListAnswer:
    from plimsoll.catalog import SYSTEMS

    rows = tuple(
        (system.id, system.title, f"arXiv {system.arxiv}", str(len(system.checks)))
        for system in SYSTEMS.values()
    )
    return ListAnswer(
        kind="catalog",
        columns=("id", "system", "source", "checks"),
        rows=rows,
        next_command="plimsoll reproduce long-context-peak",
    )


def _exports() -> ListAnswer:
    from plimsoll.report.export import EXPORTERS

    rows = tuple((name, ", ".join(e.versions)) for name, e in EXPORTERS.items())
    return ListAnswer(
        kind="exports",
        columns=("target", "written for"),
        rows=rows,
        next_command="plimsoll export plan.yaml --to vllm",
    )


def _first_line(cls: type) -> str:
    import sys

    module = sys.modules[cls.__module__].__doc__ or ""
    return module.strip().splitlines()[0]
