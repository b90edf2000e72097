"""What a search is asked and what it answers, as plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field

from plimsoll.planning.combine import Estimate
from plimsoll.planning.frontier import ParetoPoint
from plimsoll.planning.goodput import Goodput
from plimsoll.planning.objective import Objective
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.policy_round import Tried
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.slo import Slo
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload

__all__ = ["Answer", "Choice", "Effort", "Progress", "Question", "SearchCounts"]

Progress = Callable[[int, int, str], None]
"""Called with (work done, work in all, the best so far in words)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to simulate: candidates in the first round, requests a probe in each round, the
    probes of each round, and requests of the last check on the workload itself."""

    num_candidates: int = 8
    round_requests: tuple[int, ...] = (600, 1500, 6000)
    round_probes: tuple[int, ...] = (3, 3, 5)
    check_requests: int = 20_000
    num_runners_up: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model, a fleet, traffic and a promise.

    ``must_carry``: plans must sustain the workload's own rate; otherwise only its shape counts.
    ``model_name`` is how plans name the model (a bundled name or a path).
    """

    model: ModelSpec
    model_name: str
    fleet: Fleet
    workload: Workload
    slo: Slo
    objective: Objective = "goodput"
    must_carry: bool = True
    options: SpaceOptions = field(default_factory=SpaceOptions)
    effort: Effort = field(default_factory=Effort)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCounts:
    """Plans enumerated, pruned (by reason), estimated and simulated; shapes skipped by reason."""

    enumerated: int
    pruned: dict[str, int]
    skipped_shapes: dict[str, int]
    estimated: int
    simulated: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A plan that was simulated.

    ``goodput``: the highest rate that held, None for a closed loop. ``at_load``: the run on the
    workload itself (or the slice named in the answer's notes), None if no load was given.
    ``score``: by the objective, from simulated figures; ``trade`` against the chosen plan.
    """

    plan: ServingPlan
    estimate: Estimate
    score: float
    goodput: Goodput | None
    at_load: Summary | None
    keeps_slo: bool
    origin: str
    trade: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The chosen plan, what else is worth knowing, and how the search went.

    ``binding``: what stops the chosen plan from carrying more. ``partial``: the search was
    interrupted, and this is the best so far. ``policies``: the leaders under other policies.
    """

    chosen: Choice
    runners_up: tuple[Choice, ...]
    pareto: tuple[ParetoPoint, ...]
    binding: str
    counts: SearchCounts
    notes: tuple[str, ...]
    policies: tuple[Tried, ...] = ()
    partial: bool = False
