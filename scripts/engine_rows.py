"""Rows of measured deployments as arrays for the fit of engine profiles: pieces on basis clocks.

Each row is solved once with the profiles on disk, which fixes how many requests run at once and
how many workers there are. The pieces of the closed form are linear in the clock's seconds, so
they are taken on clocks of one thing each: every part that has a factor
(``plimsoll/cost/engine_factors.py``), once with the factor for prompts at 1 and once at 2, and one
second of host time a step, a sequence and a step with prompts. The fit adds them up with its own
weights, whatever the closed form's formula is.
Source of rows: ../shared/data/silicon/silicon_train.csv.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.engine_factors import PARTS, part_of, spans_nodes
from plimsoll.cost.host import EngineProfile, StepFactors, common_costs, engine_profile
from plimsoll.cost.operators import Setting, StepProgram, step_program
from plimsoll.cost.step import ReplicaClock
from plimsoll.planning.closed_loop import (
    LoopPieces,
    aggregated_pieces,
    decode_step_s,
    prompt_alone_s,
)
from plimsoll.planning.deployment_loop import (
    LoopSolver,
    SolvedLoop,
    loop_load,
    shared_by_workers_s,
)
from plimsoll.planning.deployment_model import expert_width
from plimsoll.planning.deployment_settings import settings_of
from plimsoll.spec.deployment import DeploymentRow
from plimsoll.spec.deployment_rows import read_deployments
from plimsoll.spec.errors import PlimsollError
from plimsoll.spec.plan import Parallel

__all__ = ["COUNTS", "ENGINES", "TIMES", "FitRow", "columns", "fit_rows"]

ENGINES = ("vllm", "sglang", "trtllm")
TIMES = tuple(name for name in LoopPieces._fields if name.endswith("_s"))
COUNTS = tuple(name for name in LoopPieces._fields if name not in TIMES)
"""Pieces that are no times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One row: what was measured, how it was solved, and its pieces.

    ``times`` are [basis, ``TIMES``] seconds, ``checked`` [basis] those of a step that checks
    drafts; ``facts`` numbers of the row, the counts among the pieces included.
    """

    row: DeploymentRow
    solved: SolvedLoop
    times: np.ndarray
    checked: np.ndarray
    facts: dict[str, float]


class _Bases:
    """Basis clocks of workers, and whether a worker spans nodes."""

    def __init__(self) -> None:
        self.found: dict[object, tuple[list[ReplicaClock], bool]] = {}

    def of(self, solved: SolvedLoop, parallel: Parallel) -> tuple[list[ReplicaClock], bool]:
        """Clocks in the order of ``engine_fit.basis_weights``."""
        s = solved.settings
        key = (s.model, s.device.name, s.kv_dtype, s.engine, parallel)
        if key not in self.found:
            setting = Setting(
                model=s.model,
                device=s.device,
                parallel=parallel,
                weight_dtype=None,
                kv_dtype=s.kv_dtype,
                devices_per_node=s.device.devices_per_node,
                calibration=calibration_for(s.device),
                engine=_bare(s.engine),
                routing_exponent=0.0,
            )
            self.found[key] = (_basis(setting), spans_nodes(setting))
        return self.found[key]


def _bare(engine: str) -> EngineProfile:
    return replace(
        engine_profile(engine),
        step_s=0.0,
        sequence_s=0.0,
        prompt_step_s=0.0,
        prompt_launch_s=0.0,
        factors=StepFactors(),
    )


def _basis(setting: Setting) -> list[ReplicaClock]:
    program, bare = step_program(setting), setting.engine
    doubled = setting._replace(engine=replace(bare, factors=StepFactors(prompts=2.0)))
    clocks = []
    for part in PARTS:
        alone = StepProgram(
            tuple(op for op in program.tokens if part_of(op) == part),
            tuple(op for op in program.decodes if part_of(op) == part),
            tuple(op for op in program.prefills if part_of(op) == part),
        )
        clocks += [ReplicaClock(setting, alone), ReplicaClock(doubled, alone)]
    nothing = StepProgram((), (), ())
    for name in ("step_s", "sequence_s", "prompt_step_s"):
        engine = replace(bare, **{name: 1.0})
        clocks.append(ReplicaClock(setting._replace(engine=engine), nothing))
    return clocks


def fit_rows(path: Path) -> tuple[list[FitRow], int]:
    """The rows that can be solved and have measurements, and how many cannot."""
    solver, bases = LoopSolver(), _Bases()
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
        found.append(_fit_row(row, solved, solver, bases))
    return found, refused


def _fit_row(row: DeploymentRow, solved: SolvedLoop, solver: LoopSolver, bases: _Bases) -> FitRow:
    s = solved.settings
    decode, running = s.decode.parallel, solved.running
    clocks, across = bases.of(solved, decode)
    context = s.prompt_tokens + s.output_tokens / 2
    drafts = common_costs().draft_tokens
    checked = [c.verify_step_s(running, round(running * context), drafts) for c in clocks]
    prompt_across = across
    if s.prefill is None:
        load = loop_load(s, s.decode.count)
        budget = engine_profile(s.engine).token_budget
        pieces = [
            aggregated_pieces(c, load, running=running, budget=budget, ranks=decode.attention_dp)
            for c in clocks
        ]
    else:
        load = loop_load(s, 1)
        prompt_clocks, prompt_across = bases.of(solved, s.prefill.parallel)
        held = solver.most_running(s, decode) * s.decode.count
        most = float(min(s.in_flight, held))
        pieces = [
            _apart(solved, a, b, running, most, context)
            for a, b in zip(clocks, prompt_clocks, strict=True)
        ]
    times = np.array([[getattr(piece, name) for name in TIMES] for piece in pieces])
    facts = {name: float(getattr(pieces[0], name)) for name in COUNTS}
    facts |= {
        "engine": float(ENGINES.index(s.engine)),
        "aggregated": float(s.prefill is None),
        "in_flight": float(load.in_flight),
        "prompt_tokens": s.prompt_tokens,
        "output_tokens": s.output_tokens,
        "spread": s.load.length_spread,
        "load_rounds": float(s.load.rounds),
        "decode_ranks": float(decode.attention_dp),
        "apart_steps": float(load.apart_steps),
        "speculation": s.speculation,
        "experts": float(expert_width(s.model) > 0),
        "across": float(across),
        "prompt_across": float(prompt_across),
        "few": float(s.in_flight < common_costs().few_requests),
        "tpot_s": (row.tpot_ms or 0.0) / 1e3,
        "ttft_s": (row.ttft_ms or 0.0) / 1e3,
    }
    return FitRow(row=row, solved=solved, times=times, checked=np.array(checked), facts=facts)


def _apart(
    solved: SolvedLoop,
    clock: ReplicaClock,
    prompt_clock: ReplicaClock,
    running: int,
    most: float,
    context: float,
) -> LoopPieces:
    s = solved.settings
    assert s.prefill is not None
    step_s = decode_step_s(clock, running, context)
    budget = engine_profile(s.engine).token_budget
    return LoopPieces(
        token_s=step_s,
        step_s=step_s,
        prompt_s=0.0,
        shared_prompt_s=shared_by_workers_s(
            prompt_clock, s, s.prefill.parallel, solved.prefill_workers
        ),
        alone_s=prompt_alone_s(prompt_clock, max(1, round(s.prompt_tokens)), budget),
        running=most,
        budget=budget,
        ranks=s.prefill.parallel.attention_dp,
        workers=solved.prefill_workers,
    )


def columns(rows: Sequence[FitRow]) -> dict[str, np.ndarray]:
    """Facts as [rows], times as [rows, basis, ``TIMES``], checked steps as [rows, basis]."""
    found = {name: np.array([row.facts[name] for row in rows]) for name in rows[0].facts}
    found["times"] = np.stack([row.times for row in rows])
    found["checked"] = np.stack([row.checked for row in rows])
    return found


if __name__ == "__main__":
    rows, refused = fit_rows(Path(sys.argv[1]))
    print(f"{len(rows)} rows, {refused} cannot be solved")
