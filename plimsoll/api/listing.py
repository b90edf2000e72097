"""What the package knows by name."""

import itertools
from dataclasses import dataclass
from typing import Any

from plimsoll.report.document import Report, Table
from plimsoll.spec.errors import SpecError, suggest

__all__ = ["KINDS", "ListAnswer", "listing"]

_NOUNS = {
    "models": "models",
    "hardware": "devices",
    "workloads": "workloads",
    "policies": "policies",
    "catalog": "systems in the catalog",
    "exports": "export targets",
}
KINDS = tuple(_NOUNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """One table of names; ``groups`` names the group of each row, if rows are grouped."""

    kind: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    next_command: str
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        return Report(
            title=f"{len(self.rows)} {_NOUNS[self.kind]}",
            tables=(Table(title="", columns=self.columns, rows=self._spaced(), notes=self.notes),),
            next_command=self.next_command,
        )

    def _spaced(self) -> tuple[tuple[str, ...], ...]:
        """The rows with an empty one between groups."""
        spaced: list[tuple[str, ...]] = []
        for k, row in enumerate(self.rows):
            if k and self.groups and self.groups[k] != self.groups[k - 1]:
                spaced.append(("",) * len(row))
            spaced.append(row)
        return tuple(spaced)

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

    found = []
    for name in bundled_models():
        model = load_model(name)
        total = total_parameters(model)
        row = (
            name,
            f"{total / 1e9:,.4g} B" if total < 1e12 else f"{total / 1e9:,.0f} B",
            f"{active_parameters(model) / 1e9:.3g} B",
            model.quantization.experts.value,
            f"{model.max_context:,}",
        )
        found.append((_family(name), total, row))
    found.sort(key=lambda item: (item[0], item[1], item[2]))
    return ListAnswer(
        kind="models",
        columns=("model", "parameters", "active", "weights", "context"),
        rows=tuple(row for _, _, row in found),
        groups=tuple(family for family, _, _ in found),
        notes=(
            "derived from each configuration; parameters with embeddings, active a token without "
            "the input embedding; any other model is named by its config.json",
        ),
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
        notes=(
            "data sheet values; bandwidth of memory; fp16 where there is no bf16; any other "
            "device is named by a YAML file",
        ),
        next_command="plimsoll fit llama-3.1-70b --on 8xH100-SXM",
    )


def _workloads() -> ListAnswer:
    from plimsoll.spec.workload_files import bundled_recipe, bundled_workloads

    recipes = {name: bundled_recipe(name) for name in bundled_workloads()}
    return ListAnswer(
        kind="workloads",
        columns=("workload", "what it is", "statistics from"),
        rows=tuple(
            (name, recipe.description, recipe.lengths.source) for name, recipe in recipes.items()
        ),
        notes=("any trace file, or lengths as in 4000/500, does as well",),
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
        (
            system.id,
            system.title,
            f"arXiv {system.arxiv}" if system.arxiv else "own",
            str(len(system.checks)),
        )
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


def _family(name: str) -> str:
    """The letters a model's name starts with."""
    return "".join(itertools.takewhile(str.isalpha, name))


def _first_line(cls: type) -> str:
    import sys

    module = sys.modules[cls.__module__].__doc__ or ""
    return module.strip().splitlines()[0]
