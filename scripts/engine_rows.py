"""Rows of measured deployments as arrays for the fit of engine profiles: pieces by part of a step.

Each row is solved once with the profiles on disk, which fixes how many requests run at once and
how many workers there are; then every piece of the closed form is taken apart into the parts that
have factors (``plimsoll/cost/engine_factors.py``), by clocks that run one part alone. The fit
puts them together again with other factors and costs.
Source of rows: ../shared/data/silicon/silicon_train.csv.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.engine_factors import PARTS, part_of, spans_nodes
from plimsoll.cost.host import StepFactors, common_costs, engine_profile
from plimsoll.cost.operators import Setting, StepProgram, step_program
from plimsoll.cost.step import ReplicaClock
from plimsoll.planning.closed_loop import (
    chunk_starts,
    decode_step_s,
    prompt_alone_s,
    prompt_beside_s,
)
from plimsoll.planning.deployment_loop import LoopSolver, SolvedLoop, loop_load, warms_up
from plimsoll.planning.deployment_model import expert_width
from plimsoll.planning.deployment_settings import settings_of
from plimsoll.spec.deployment import DeploymentRow
from plimsoll.spec.deployment_rows import read_deployments
from plimsoll.spec.errors import PlimsollError
from plimsoll.spec.plan import Parallel

__all__ = ["ENGINES", "FIELDS", "FitRow", "columns", "fit_rows"]

ENGINES = ("vllm", "sglang", "trtllm")
FIELDS = (
    "plain",
    "checked",
    "beside",
    "alone",
    "mixed",
    "half",
)
"""Seconds by part: a decode step, the same with drafts checked, what a prompt adds beside it, a
prompt alone, a prompt where many share steps beside half the decodes, and those decodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One row: what was measured, how it was solved, and its pieces by part [field][part]."""

    row: DeploymentRow
    solved: SolvedLoop
    pieces: dict[str, list[float]]
    facts: dict[str, float]


class _Parts:
    """Clocks that run one part of a step alone, by worker."""

    def __init__(self) -> None:
        self.clocks: dict[object, list[ReplicaClock]] = {}
        self.across: dict[object, bool] = {}

    def of(self, solved: SolvedLoop, parallel: Parallel) -> tuple[list[ReplicaClock], bool]:
        """One clock a part, and whether the worker spans nodes."""
        s = solved.settings
        key = (s.model, s.device.name, s.kv_dtype, s.engine, parallel)
        if key not in self.clocks:
            bare = replace(
                engine_profile(s.engine),
                step_s=0.0,
                sequence_s=0.0,
                prompt_step_s=0.0,
                prompt_launch_s=0.0,
                factors=StepFactors(),
            )
            setting = Setting(
                model=s.model,
                device=s.device,
                parallel=parallel,
                weight_dtype=None,
                kv_dtype=s.kv_dtype,
                devices_per_node=s.device.devices_per_node,
                calibration=calibration_for(s.device),
                engine=bare,
                routing_exponent=0.0,
            )
            program = step_program(setting)
            self.clocks[key] = [ReplicaClock(setting, _only(program, part)) for part in PARTS]
            self.across[key] = spans_nodes(setting)
        return self.clocks[key], self.across[key]


def _only(program: StepProgram, part: str) -> StepProgram:
    return StepProgram(
        tuple(op for op in program.tokens if part_of(op) == part),
        tuple(op for op in program.decodes if part_of(op) == part),
        tuple(op for op in program.prefills if part_of(op) == part),
    )


def fit_rows(path: Path) -> tuple[list[FitRow], int]:
    """The rows that can be solved and have measurements, and how many cannot."""
    solver, parts = LoopSolver(), _Parts()
    found: list[FitRow] = []
    refused = 0
    for row in read_deployments(path).rows:
        if row.ttft_ms is None or row.tpot_ms is None:
            continue
        try:
            solved = solver.solve(settings_of(row))
        except PlimsollError:
            refused += 1
            continue
        found.append(_fit_row(row, solved, solver, parts))
    return found, refused


def _fit_row(row: DeploymentRow, solved: SolvedLoop, solver: LoopSolver, parts: _Parts) -> FitRow:
    s = solved.settings
    profile, common = engine_profile(s.engine), common_costs()
    load = loop_load(s, s.decode.count)
    context = s.prompt_tokens + s.output_tokens / 2
    prompt, budget = max(1, round(s.prompt_tokens)), profile.token_budget
    running, decode = solved.running, s.decode.parallel
    clocks, across = parts.of(solved, decode)
    apart = s.prefill is not None
    prompts_on = s.prefill.parallel if s.prefill is not None else decode
    prompt_clocks, prompt_across = parts.of(solved, prompts_on) if apart else (clocks, across)
    ranks = prompts_on.attention_dp
    half = 0 if apart else running // 2
    if apart:
        most = max(1, s.in_flight // (solved.prefill_workers * ranks))
    else:
        most = max(1, running // ranks)
    share = max(1, min(budget // prompt, most)) if prompt < budget else 1
    chunks = len(chunk_starts(prompt, budget))
    pieces = {
        "plain": [decode_step_s(clock, running, context) for clock in clocks],
        "checked": [
            clock.verify_step_s(running, round(running * context), common.draft_tokens)
            for clock in clocks
        ],
        "beside": [
            0.0 if apart else prompt_beside_s(clock, running, prompt, budget, context)
            for clock in clocks
        ],
        "alone": [prompt_alone_s(clock, prompt, budget) for clock in prompt_clocks],
        "mixed": [_shared_s(clock, prompt, budget, share, ranks, half) for clock in prompt_clocks],
        "half": [
            _half_s(clock, prompt, half) * chunks / (share * ranks) for clock in prompt_clocks
        ],
    }
    held = solver.most_running(s, decode)
    facts = {
        "engine": float(ENGINES.index(s.engine)),
        "aggregated": float(not apart),
        "in_flight": load.in_flight if not apart else float(s.in_flight),
        "all_in_flight": float(s.in_flight),
        "prompt_tokens": s.prompt_tokens,
        "output_tokens": s.output_tokens,
        "spread": s.load.length_spread,
        "rounds": float(s.load.rounds),
        "running": float(running) if not apart else float(min(s.in_flight, held * s.decode.count)),
        "sequences": float(-(-running // decode.attention_dp)),
        "ranks": float(decode.attention_dp),
        "chunks": float(chunks),
        "shared_steps": chunks / (share * ranks),
        "workers": float(solved.prefill_workers or 1),
        "speculation": s.speculation,
        "experts": float(expert_width(s.model) > 0),
        "warms_up": float(warms_up(s.model)),
        "across": float(across),
        "prompt_across": float(prompt_across),
        "few": float(s.in_flight < common.few_requests),
        "guessed": float(s.guessed),
        "devices": float(solved.num_devices),
        "tpot_s": (row.tpot_ms or 0.0) / 1e3,
        "ttft_s": (row.ttft_ms or 0.0) / 1e3,
    }
    return FitRow(row=row, solved=solved, pieces=pieces, facts=facts)


def _shared_s(
    clock: ReplicaClock, prompt: int, budget: int, share: int, ranks: int, half: int
) -> float:
    together = share * ranks
    chunks = chunk_starts(prompt, budget)
    return (
        sum(clock.step_s((chunk,) * together, half, half * prompt) for chunk in chunks) / together
    )


def _half_s(clock: ReplicaClock, prompt: int, half: int) -> float:
    return clock.step_s((), half, half * prompt) if half else 0.0


def columns(rows: Sequence[FitRow]) -> dict[str, np.ndarray]:
    """Facts as [rows] and pieces as [rows, parts]."""
    found = {name: np.array([row.facts[name] for row in rows]) for name in rows[0].facts}
    for name in FIELDS:
        found[name] = np.array([row.pieces[name] for row in rows])
    return found


if __name__ == "__main__":
    rows, refused = fit_rows(Path(sys.argv[1]))
    print(f"{len(rows)} rows, {refused} cannot be solved")
