"""The inverse question: the smallest and the cheapest hardware that carries a given load.

For each device offered, one to N nodes of it are ranked at once in the closed forms; plans that
come within a margin of the load are then served the load itself, fewest devices first (or
fewest dollars), until one keeps the promise. Prices are of devices alone, per hour. Leaves out:
fleets of several devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plimsoll.planning.combine import Estimate
from plimsoll.planning.infeasible import explain_ranking
from plimsoll.planning.judging import Judge, SimulatorJudge, Verdict
from plimsoll.planning.offered_load import busiest_slice
from plimsoll.planning.physics import Physics
from plimsoll.planning.question import Question
from plimsoll.planning.search import rank
from plimsoll.planning.workers import open_workers
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device, Fleet, FleetPart, Node
from plimsoll.spec.plan import ServingPlan

__all__ = ["Sized", "SizingAnswer", "nodes_of", "size"]

_MARGIN = 0.85  # plans estimated at this share of the load are tried: estimates err
_MOST_RUNS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """The fewest devices of one kind that carried the load, and the plan that did it.

    ``usd_per_hour`` is None where no price is known.
    """

    device: str
    num_devices: int
    usd_per_hour: float | None
    plan: ServingPlan
    estimate: Estimate
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingAnswer:
    """``cheapest`` is None where no device has a price. ``failed``: why others do not carry it."""

    smallest: Sized
    cheapest: Sized | None
    options: tuple[Sized, ...]
    failed: dict[str, str]


def nodes_of(device: Device, num_nodes: int) -> Fleet:
    """A fleet of that many full nodes."""
    node = Node(device=device, num_devices=device.devices_per_node)
    text = f"{num_nodes}x({device.devices_per_node}x{device.name})"
    return Fleet(parts=(FleetPart(node=node, num_nodes=num_nodes),), text=text)


def _slack(question: Question) -> Question:
    """The question at a load a margin below its own, fewest devices first."""
    load = question.workload
    slower = load.with_changes(arrival_s=load.arrival_s / _MARGIN)
    return replace(question, workload=slower, objective="size", must_carry=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OneDevice:
    question: Question
    num_nodes: int
    physics: Physics | None
    judge: Judge | None

    def __call__(self, device: Device) -> Sized | str:
        fleet = nodes_of(device, self.num_nodes)
        question = replace(self.question, fleet=fleet)
        asked = _slack(question)
        ranking, _, demand = rank(asked, physics=self.physics)
        if not ranking.estimates:
            again = explain_ranking(
                asked, ranking, demand, lambda q: rank(q, physics=self.physics)[0]
            )
            return str(again)
        judge = self.judge or SimulatorJudge(model=question.model, fleet=fleet, seed=question.seed)
        offered = busiest_slice(question.workload, question.effort.check_requests)
        order = sorted(ranking.estimates, key=lambda e: (e.candidate.num_devices, -e.rate_per_s))
        nearest = ""
        for estimate in _spread(order):
            plan = estimate.candidate.plan(
                question.model_name, fleet.text, question.options, question.slo
            )
            try:
                verdict = judge(plan, offered)
            except InfeasibleError as error:
                nearest = nearest or str(error)
                continue
            if verdict.holds:
                price = device.price
                return Sized(
                    device=device.name,
                    num_devices=plan.num_devices,
                    usd_per_hour=price.usd_per_hour * plan.num_devices if price else None,
                    plan=plan,
                    estimate=estimate,
                    verdict=replace(verdict, summary=None),
                )
            nearest = f"{plan.num_devices} devices: {verdict.missed} {verdict.shortfall:.3g} times"
        return f"no plan on up to {fleet.num_devices} devices carried the load ({nearest})"


def _spread(order: list[Estimate]) -> list[Estimate]:
    """The best plan of each device count, fewest first, then one with room to spare."""
    best: dict[int, Estimate] = {}
    for estimate in order:
        best.setdefault(estimate.candidate.num_devices, estimate)
    first = list(best.values())[: _MOST_RUNS - 1]
    most = max(order, key=lambda e: e.rate_per_s)
    return first if most in first else [*first, most]


def size(
    question: Question,
    devices: Sequence[Device],
    *,
    max_nodes: int = 4,
    jobs: int = 1,
    backend: Literal["processes", "ray"] = "processes",
    physics: Physics | None = None,
    judge: Judge | None = None,
) -> SizingAnswer:
    """The fewest devices, and the least money, that carry the question's load under its SLO.

    The question's fleet is not used.

    Raises:
        InfeasibleError: no device carries it within ``max_nodes`` nodes.
        SpecError: no device offered, or a closed-loop workload.
    """
    if not devices:
        raise SpecError("sizing: no device to try; name at least one")
    if question.workload.num_in_flight:
        raise SpecError(
            f"workload {question.workload.name} is a closed loop, which any hardware carries at "
            "some speed; sizing needs arrivals"
        )
    one = _OneDevice(question=question, num_nodes=max_nodes, physics=physics, judge=judge)
    with open_workers(jobs, backend=backend) as workers:
        found = list(workers.map(one, list(devices)))
    options = [f for f in found if isinstance(f, Sized)]
    failed = {
        device.name: result
        for device, result in zip(devices, found, strict=True)
        if isinstance(result, str)
    }
    if not options:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise InfeasibleError(
            f"none of the devices carries the load within {max_nodes} nodes: {reasons}",
            binding="hardware offered",
            nearest=next(iter(failed.values())),
            change="more nodes, other devices, or looser bounds",
        )
    priced = [o for o in options if o.usd_per_hour is not None]
    return SizingAnswer(
        smallest=min(options, key=lambda o: (o.num_devices, o.usd_per_hour or 0.0)),
        cheapest=min(priced, key=lambda o: (o.usd_per_hour or 0.0, o.num_devices), default=None),
        options=tuple(options),
        failed=failed,
    )
