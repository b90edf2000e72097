"""Simulate every plan of a space on one workload: no ranking by formula, nothing left out.

Where a search judges a handful of plans, a sweep runs all of them, which is affordable when
policies and batch limits are fixed and only the ways of cutting the model vary. Each plan's
makespan, mean latency and joules are kept; a plan that cannot start is kept with the reason.
Equal devices are interchangeable, so each way of cutting appears once. Energy counts all devices
of the plan from the first arrival to the last token, idle time included.
Source: arXiv 2411.17651 (plans judged by a simulator of iteration-level batching).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from plimsoll.cost.power import InstancePower, at_clock, run_power
from plimsoll.cost.step_demand import step_demand
from plimsoll.planning.parallel_shapes import Skips
from plimsoll.planning.plan_space import Candidate, SpaceOptions, enumerate_plans
from plimsoll.planning.workers import Workers
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.slo import Slo
from plimsoll.spec.workload import Workload

__all__ = ["PlanRun", "SweepLook", "fleet_at_clock", "full_plans", "heuristic_plan", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRun:
    """One plan on the workload; ``problem`` says why it could not start, "" if it did.

    ``total_s`` is from the first arrival to the last token.
    """

    plan: ServingPlan
    total_s: float = float("inf")
    mean_e2e_s: float = float("inf")
    energy_j: float = float("inf")
    clock_fraction: float = 1.0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLook:
    """Runs one (plan, clock fraction); picklable, for workers."""

    model: ModelSpec
    fleet: Fleet
    workload: Workload
    seed: int = 0

    def __call__(self, item: tuple[ServingPlan, float]) -> PlanRun:
        """The run of ``item``."""
        plan, clock = item
        fleet = fleet_at_clock(self.fleet, clock)
        try:
            record = simulate_plan(plan, self.model, fleet, self.workload, seed=self.seed)
        except InfeasibleError as error:
            return PlanRun(plan=plan, clock_fraction=clock, problem=str(error))
        requests = record.requests
        begin_s = float(self.workload.arrival_s[0])
        device = fleet.parts[0].device
        instances = []
        for pool in plan.pools:
            demand = step_demand(
                self.model,
                device,
                weight_dtype=plan.weight_dtype,
                kv_dtype=plan.kv_dtype,
                attention_dp=pool.parallel.attention_dp,
            )
            instance = InstancePower(
                power=device.power, num_devices=pool.parallel.num_devices, demand=demand
            )
            instances.extend([instance] * pool.replicas)
        served = requests.ok & (requests.output_tokens >= self.workload.output_tokens)
        if not served.all():
            words = f"{int((~served).sum())} requests are too long for it"
            return PlanRun(plan=plan, clock_fraction=clock, problem=words)
        power = run_power(
            record.steps,
            instances,
            end_s=float(requests.finished_s.max()),
            output_tokens=int(requests.output_tokens.sum()),
        )
        return PlanRun(
            plan=plan,
            total_s=float(requests.finished_s.max()) - begin_s,
            mean_e2e_s=float(requests.e2e_s.mean()),
            energy_j=power.total_j - device.power.idle_w * plan.num_devices * begin_s,
            clock_fraction=clock,
        )


def fleet_at_clock(fleet: Fleet, clock_fraction: float) -> Fleet:
    """The fleet with every device's core clock locked at a fraction of its maximum."""
    parts = tuple(
        replace(part, node=replace(part.node, device=at_clock(part.device, clock_fraction)))
        for part in fleet.parts
    )
    return replace(fleet, parts=parts)


def full_plans(
    model: ModelSpec,
    model_name: str,
    fleet: Fleet,
    options: SpaceOptions,
    skips: Skips | None = None,
) -> list[ServingPlan]:
    """Every plan of the space that uses all devices; ``skips`` counts what was left out."""
    found: list[Candidate] = [
        candidate
        for candidate in enumerate_plans(model, fleet, options, skips)
        if candidate.num_devices == fleet.num_devices
    ]
    return [c.plan(model_name, fleet.text, options, Slo()) for c in found]


def heuristic_plan(plans: Sequence[ServingPlan], fleet: Fleet) -> ServingPlan:
    """Tensor parallelism over a whole node, pipeline stages over nodes: the usual rule of thumb.

    Raises:
        InfeasibleError: the plans hold no such plan.
    """
    node = fleet.parts[0].node.num_devices
    stages = sum(part.num_nodes for part in fleet.parts)

    def is_usual(pool: Pool) -> bool:
        cut = pool.parallel
        return (cut.tp, cut.pp, cut.attention_dp, cut.ep) == (node, stages, 1, 1)

    for plan in plans:
        if len(plan.pools) == 1 and is_usual(plan.pools[0]):
            return plan
    raise InfeasibleError(
        f"no plan cuts {stages} stages of {node} devices each on {fleet.text}",
        binding="parallel shapes",
    )


def sweep(
    plans: Sequence[ServingPlan],
    look: SweepLook,
    workers: Workers,
    *,
    clock_fractions: Sequence[float] = (1.0,),
) -> list[PlanRun]:
    """Every plan at every clock, in order.

    Raises:
        InfeasibleError: no plan could start; it lists what stopped each.
    """
    items = [(plan, clock) for plan in plans for clock in clock_fractions]
    runs = list(workers.map(look, items))
    if not any(run.problem == "" for run in runs):
        reasons = list(dict.fromkeys(run.problem for run in runs)) or ["the space holds no plan"]
        raise InfeasibleError(
            f"none of {len(plans)} plans can start: {'; '.join(reasons)}",
            binding=reasons[0],
        )
    return runs
