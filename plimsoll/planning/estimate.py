"""Every shape of a replica in every role, measured once and judged by the closed forms.

A shape's clock is sampled into a table; its curves then cover all policies, batch limits and
replica counts of a role. What cannot work is dropped with the reason: no room for the model or
the longest request, or a bound that one request alone misses. Batch limits beyond what memory
holds are the same plan and counted as such. Leaves out: how pools act on each other
(``planning/combine.py`` multiplies and pairs).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from plimsoll.planning.attainment import Limit, State, best_states, margins, state_at_rate
from plimsoll.planning.bounds import latency_problem, memory_problem
from plimsoll.planning.objective import Objective
from plimsoll.planning.parallel_shapes import Site
from plimsoll.planning.physics import Physics, ReplicaRoom
from plimsoll.planning.plan_space import Shape, SpaceOptions, counts_of, is_legal, policies_for
from plimsoll.planning.steady_state import Curves, decode_curves, mixed_curves, prefill_curves
from plimsoll.planning.step_table import StepTable, sample_clock
from plimsoll.planning.traffic import Traffic
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.slo import Slo

__all__ = ["Demand", "PoolEstimate", "Role", "ShapeRecord", "estimate_pool", "measure_shape"]

Floats = npt.NDArray[np.float64]
Role = Literal["both", "prefill", "decode"]
_KV_SLACK = 0.95  # contexts differ between requests, and a full cache preempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What plans are asked for; ``load_per_s`` 0: no load is given, only its shape.

    ``joint_percentile`` > 0: that share of requests must meet all targets together.
    """

    traffic: Traffic
    slo: Slo
    objective: Objective
    load_per_s: float
    longest_tokens: int
    joint_percentile: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRecord:
    """A shape with its memory and sampled clock; ``problem`` per role is why it is dropped.

    ``max_num_seqs`` are the settings worth trying, ``batch_limits`` what each allows in memory;
    ``counts`` the numbers of replicas that fit.
    """

    shape: Shape
    counts: tuple[int, ...]
    room: ReplicaRoom | None
    table: StepTable | None
    max_num_seqs: tuple[int, ...]
    batch_limits: tuple[float, ...]
    problem: dict[Role, str]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEstimate:
    """One shape in one role: rates a replica sustains, [replica counts, batch limits, policies].

    ``replicas`` are the counts of the first axis; other counts use the next smaller one.
    ``e2e_s`` is the mean time from arrival to last token at the load (only for latency).
    """

    record: ShapeRecord
    replicas: tuple[int, ...]
    state: State
    limits: tuple[str, ...]
    curves: Curves
    e2e_s: Floats
    first_token_margin: Floats

    def row(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Index on the first axis for each count."""
        return np.asarray(np.searchsorted(self.replicas, counts, side="right") - 1)


def measure_shape(
    shape: Shape,
    sites: Sequence[Site],
    options: SpaceOptions,
    physics: Physics,
    demand: Demand,
    *,
    roles: Sequence[Role],
) -> ShapeRecord:
    """Memory and clock of a shape, or why it is dropped."""
    traffic = demand.traffic
    counts = tuple(counts_of(shape, list(sites), options))
    context = traffic.decode_context_tokens
    problem: dict[Role, str] = dict.fromkeys(roles, "")
    table: StepTable | None = None
    room: ReplicaRoom | None = None
    seqs: tuple[int, ...] = ()
    limits: tuple[float, ...] = ()
    origin = ""
    try:
        allowed = sorted(set(options.max_num_seqs))
        room = physics.room(
            shape,
            context_tokens=context,
            max_batched_tokens=_typical_budget(options),
            max_num_seqs=allowed[0],
        )
        reason = memory_problem(room, demand.longest_tokens)
        if not reason:
            most = max(1.0, room.most_requests * _KV_SLACK)
            seqs = tuple(n for i, n in enumerate(allowed) if i == 0 or allowed[i - 1] < most)
            limits = tuple(max(1.0, min(float(n), most)) for n in seqs)
            clock = physics.clock(shape)
            origin = physics.origin(shape)
            table = sample_clock(
                clock,
                context_tokens=context,
                most_requests=max(2, -(-int(limits[-1]) // clock.num_stages)),
            )
    except UnsupportedError as error:
        reason = str(error)
    for role in roles:
        problem[role] = reason
        if not reason and table is not None:
            problem[role] = latency_problem(
                table, traffic, demand.slo, prefill=role != "decode", decode=role != "prefill"
            )
    return ShapeRecord(
        shape=shape,
        counts=counts,
        room=room,
        table=table,
        max_num_seqs=seqs,
        batch_limits=limits,
        problem=problem,
        origin=origin,
    )


def _typical_budget(options: SpaceOptions) -> int:
    """The middle of the budgets: what a step needs beside weights hangs on it a little."""
    ordered = sorted(options.budgets)
    return ordered[(len(ordered) - 1) // 2]


def _counts_axis(record: ShapeRecord, objective: Objective) -> tuple[int, ...]:
    if objective == "latency":
        return record.counts
    most = record.counts[-1]
    return tuple(2**i for i in range(most.bit_length()))


def estimate_pool(
    record: ShapeRecord,
    role: Role,
    options: SpaceOptions,
    demand: Demand,
    *,
    handover_s: float = 0.0,
) -> PoolEstimate:
    """The closed-form rates of a shape that has no problem in ``role``.

    ``handover_s`` delays the second token of a decode pool's requests.
    """
    table, traffic = record.table, demand.traffic
    assert table is not None
    replicas = _counts_axis(record, demand.objective)
    policies = policies_for(options)
    once: Floats = np.zeros(())
    metrics: tuple[str, ...] = ("ttft", "tpot", "itl", "e2e")
    if role == "both":
        curves = mixed_curves(
            table, traffic, policies, batch_limits=record.batch_limits, replicas=replicas
        )
        legal = np.array([[is_legal(p, n) for p in policies] for n in record.max_num_seqs])
        curves = replace(curves, valid=curves.valid & legal[:, :, None])
    elif role == "prefill":
        curves = prefill_curves(table, traffic, policies, replicas=replicas)
        metrics = ("ttft",)
    else:
        curves = decode_curves(table, traffic, batch_limits=record.batch_limits, replicas=replicas)
        metrics = ("tpot", "itl", "e2e")
        once = handover_s + curves.wait_s
    limits: list[Limit] = margins(
        curves,
        traffic,
        demand.slo,
        metrics=metrics,
        once_s=once,
        joint_percentile=demand.joint_percentile,
    )
    state = best_states(curves, traffic, limits)
    first = [one.margin for one in limits if one.name.startswith("TTFT")]
    e2e: Floats = np.zeros(())
    if demand.objective == "latency":
        share = demand.load_per_s / np.asarray(replicas, dtype=np.float64)[:, None, None]
        at = state_at_rate(curves, traffic, share)
        steps = max(traffic.mean_output_tokens - 1, 0.0)
        e2e = np.where(
            at.feasible,
            at.ttft_s * (role != "decode") + steps * at.token_s + handover_s * (role == "decode"),
            np.inf,
        )
    return PoolEstimate(
        record=record,
        replicas=replicas,
        state=state,
        limits=tuple(one.name for one in limits),
        curves=curves,
        e2e_s=e2e,
        first_token_margin=np.minimum.reduce(first) if first else np.asarray(np.inf),
    )
