"""How a model's layers can overlap inside its devices, and what that takes off a step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from plimsoll.api.commands import command, workload_words
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.cost.overlap_profile import LANES
from plimsoll.planning.overlap_model import ModelOverlap, assumed_curves, search_model_overlap
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import plain
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Nano, Parallel, Pool, ServingPlan
from plimsoll.spec.workload_files import load_workload

__all__ = ["OverlapAnswer", "plan_overlap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapAnswer:
    """A searched overlap plan; ``serving_plan`` is a plan file's content that uses it."""

    found: ModelOverlap
    serving_plan: ServingPlan
    workload: WorkloadSpec
    assumptions: tuple[str, ...]
    plan_path: str = ""

    def report(self) -> Report:
        """See ``Answer``."""
        found, plan = self.found, self.found.plan
        devices = f"{self.serving_plan.num_devices} x {self.serving_plan.pools[0].device}"
        gain = plan.speedup - 1
        title = (
            f"Overlapping takes {percent_text(found.saved_s / found.step_s)} off a step of "
            f"{plan.batch_tokens:,} tokens"
            if gain > 0
            else f"No plan that overlaps is faster for a batch of {plan.batch_tokens:,} tokens"
        )
        batch = found.batch
        asked = ("plan", "overlap", self.serving_plan.model, "--on", self.serving_plan.fleet)
        words = (*asked, *workload_words(self.workload), "--batch", str(plan.batch_tokens))
        return Report(
            title=title,
            subtitle=f"{self.serving_plan.model} on {devices}, {plan.layers} layers; decodes "
            f"{batch.decodes:,} over {batch.decode_context:,} tokens of KV",
            command=command(*words),
            tables=(self._times(), self._resources(), self._operators(), self._pieces()),
            assumptions=self.assumptions,
            notes=plan.warnings,
            next_command=command("simulate", self.plan_path, *workload_words(self.workload))
            if self.plan_path
            else command(*words, "--out", "plan.yaml"),
        )

    def _times(self) -> Table:
        found, plan = self.found, self.found.plan
        rows = (
            ("one by one", _ms(plan.sequential_s), _ms(found.step_s)),
            ("overlapped", _ms(plan.iteration_s), _ms(found.step_s - found.saved_s)),
            (
                "gain",
                f"x {plan.speedup:.3f}",
                f"x {found.step_s / (found.step_s - found.saved_s):.3f}",
            ),
        )
        return Table(
            title="Time of a step",
            columns=("", "layers", "whole step"),
            rows=rows,
            notes=("whole step: with embedding, head, sampling and the engine's own time",),
        )

    def _resources(self) -> Table:
        rows = []
        for lane, alone, overlapped, share in _resource_shares(self.found):
            rows.append((lane, percent_text(alone), percent_text(overlapped), share))
        return Table(
            title="Resources",
            columns=("", "busy one by one", "busy overlapped", "share asked for"),
            rows=tuple(rows),
            notes=("busy: work alone on the device over the time of all layers",),
        )

    def _operators(self) -> Table:
        layers = self.found.plan.layers
        rows = tuple(
            (op.name, op.lane, _ms(op.best_s * layers), _ms(op.fixed_s * layers))
            for op in self.found.operators
        )
        return Table(
            title="Operators alone, all layers",
            columns=("", "lane", "whole batch", "again a piece"),
            rows=rows,
        )

    def _pieces(self) -> Table:
        rows = tuple(
            (
                piece.operator,
                f"{piece.first_token}-{piece.end_token}",
                f"{piece.share:.1f}",
                "next" if piece.ahead else "",
            )
            for piece in self.found.plan.pieces
        )
        return Table(
            title="Pieces of a layer, in order",
            columns=("", "tokens", "share", "layer"),
            rows=rows,
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        found = self.found
        return {
            "format_version": 1,
            "plan": plain(found.plan),
            "speedup": found.plan.speedup,
            "step_s": found.step_s,
            "overlapped_step_s": found.step_s - found.saved_s,
            "batch": plain(found.batch),
            "operators": [plain(op) for op in found.operators],
            "busy_fractions": {
                lane: {"one_by_one": alone, "overlapped": overlapped}
                for lane, alone, overlapped, _ in _resource_shares(found)
            },
            "serving_plan": plain(self.serving_plan),
            "assumptions": list(self.assumptions),
        }


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:.2f} ms"


def _resource_shares(found: ModelOverlap) -> list[tuple[str, float, float, str]]:
    """(lane, busy fraction one by one, overlapped, shares its pieces ask for)."""
    plan = found.plan
    rows: list[tuple[str, float, float, str]] = []
    lane_of = {op.name: op.lane for op in found.operators}
    for lane in LANES:
        work_s = plan.layers * sum(op.best_s for op in found.operators if op.lane == lane)
        shares = sorted({p.share for p in plan.pieces if lane_of[p.operator] == lane})
        if not shares:
            continue
        asked = f"{shares[0]:.1f}" if len(shares) == 1 else f"{shares[0]:.1f} to {shares[-1]:.1f}"
        asked = "what is left" if lane == "compute" else asked
        rows.append((lane, work_s / plan.sequential_s, work_s / plan.iteration_s, asked))
    return rows


def plan_overlap(
    model: str,
    on: str,
    workload: WorkloadSpec,
    *,
    batch_tokens: int = 2048,
    tp: int = 0,
    engine: str = "vllm",
    budget_s: float = 120.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> OverlapAnswer:
    """Search an overlap plan; ``tp`` 0 takes every device.

    Raises:
        SpecError: hardware of more than one kind, a bad degree, a batch that cannot be cut.
        UnsupportedError: a model whose layers are not planned for.
        InfeasibleError: the weights leave no room for KV.
    """
    spec, fleet = load_model(model), parse_fleet(on)
    parts = {part.device.name: part for part in fleet.parts}
    if len(parts) > 1:
        raise SpecError(
            f"plan overlap: {on} mixes {' and '.join(parts)}; one replica is of one kind of device"
        )
    (part,) = parts.values()
    tp = tp or fleet.num_devices
    if not 0 < tp <= fleet.num_devices:
        raise SpecError(f"plan overlap: --tp {tp}; expected 1 to {fleet.num_devices}, as {on} has")
    if not 0 < budget_s < float("inf"):
        raise SpecError(f"plan overlap: a search budget of {budget_s:g} s; it must be above 0")
    traffic = load_workload(workload.text, seed=seed, num_requests=workload.num_requests)
    found = search_model_overlap(
        spec,
        part.device,
        Parallel(tp=tp),
        prompt_tokens=traffic.prompt_tokens,
        output_tokens=traffic.output_tokens,
        batch_tokens=batch_tokens,
        engine=engine,
        devices_per_node=part.node.num_devices,
        budget_s=budget_s,
        on_progress=progress,
    )
    policy = Nano(
        token_budget=batch_tokens,
        mean_output_tokens=float(traffic.output_tokens.mean()),
        overlap=found.plan,
    )
    pool = Pool(
        device=part.device.name,
        replicas=fleet.num_devices // tp,
        parallel=Parallel(tp=tp),
        policy=policy,
        max_num_seqs=batch_tokens,
    )
    notes = [*spec.assumptions, assumed_curves(part.device)]
    if found.batch.limited:
        notes.append(
            f"memory holds the KV of {found.batch.decodes:,} decodes, fewer than these lengths "
            "lead to; prompts fill the batch"
        )
    return OverlapAnswer(
        found=found,
        serving_plan=ServingPlan(model=model, fleet=on, engine=engine, pools=(pool,)),  # type: ignore[arg-type]
        workload=replace(workload, rate_per_s=None),
        assumptions=tuple(filter(None, notes)),
    )
