"""Simulate a plan: instances from its pools, the cost model as the clock, its own policies.

Each replica gets a clock (``cost.step``), KV memory (``cost.memory``) and the step policy of its
pool; the plan's router sees them all. KV moves between replicas over the link they share. A
request reaches the router after what the plan's engine spends on it (``cost.host``). Plans for the
package's own engine run on the measured clock of a calibrated device instead.
Source of the parts: docs/concepts/simulator.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace

from plimsoll import __version__
from plimsoll.cost.clock import StepClock
from plimsoll.cost.host import engine_profile
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.measured_clock import MeasuredClock, measured_clock
from plimsoll.cost.memory import KvCapacity, kv_capacity
from plimsoll.cost.overlap_clock import OverlapClock
from plimsoll.cost.overlap_curves import overlap_curves
from plimsoll.cost.overlap_layer import ModelLayer
from plimsoll.cost.saturation import saturation_tokens
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.serving.conflicts import check_policies
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import POLICIES
from plimsoll.serving.policy import ClusterPolicy, StepPolicy
from plimsoll.serving.routers import ROUTERS, AutoscaledPolicy
from plimsoll.serving.simulate.batch_groups import NeedsBatch, grouped
from plimsoll.serving.simulate.lending import lending_of
from plimsoll.serving.simulate.placement import Seat, seats
from plimsoll.serving.simulate.swapping import swap_spec
from plimsoll.spec.errors import InfeasibleError, SpecError, UnsupportedError
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.io import plain
from plimsoll.spec.model import ModelSpec, MoeFfn
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    Nano,
    OrcaConfig,
    Pool,
    PrefillFirst,
    PrefixGroups,
    RouterConfig,
    Scaling,
    ServingPlan,
    SplitFuse,
)
from plimsoll.spec.record import RunRecord
from plimsoll.spec.units import format_bytes
from plimsoll.spec.workload import Workload

__all__ = [
    "batched_tokens",
    "build",
    "policy_for",
    "reach_s",
    "router_for",
    "scaled",
    "simulate_plan",
]

_MOST_SPLITFUSE_TOKENS = 8192


def simulate_plan(
    plan: ServingPlan,
    model: ModelSpec,
    fleet: Fleet,
    workload: Workload,
    *,
    seed: int = 0,
    max_sim_s: float = float("inf"),
    stop_if_hopeless: Callable[[float, int], bool] | None = None,
    faults: Sequence[Fault] = (),
    fast_forward: bool = True,
) -> RunRecord:
    """Serve ``workload`` with ``plan`` on the simulated clock.

    ``max_sim_s`` ends the run at that simulated time, the rest unfinished; so does
    ``stop_if_hopeless(now_s, requests ended)`` when it returns True.

    Raises:
        SpecError: the plan does not fit the fleet, contradicts itself, or has other streams than
            ``model``.
        InfeasibleError: the weights leave no room for KV.
    """
    instances, origins, transfer_s, kv_token_bytes = build(plan, model, fleet)
    clocks = [spec.clock for spec in instances]
    dealt = grouped(plan, instances, workload)
    instances, router = dealt or (instances, router_for(plan.router, plan.scaling))
    executor = SimulatedExecutor(
        instances,
        router,
        transfer_s=transfer_s,
        lending=lending_of(plan, model, seats(plan, fleet), clocks),
        reach_s=reach_s(plan, model, fleet),
        seed=seed,
        faults=faults,
        fast_forward=fast_forward,
    )
    meta = {
        "plan": plain(plan),
        "plimsoll": __version__,
        "origin": "modeled" if "modeled" in origins else "calibrated",
        "num_devices": plan.num_devices,
        "total_blocks": [spec.num_blocks for spec in instances],
        "classes": list(workload.classes),
        "kv_token_bytes": kv_token_bytes,
        "model": model.name,
        "executor": "simulated",
    }
    return executor.run(workload, until_s=max_sim_s, stop=stop_if_hopeless, meta=meta)


def build(
    plan: ServingPlan, model: ModelSpec, fleet: Fleet
) -> tuple[list[InstanceSpec], set[str], Callable[[int, int, int], float], float]:
    """Instances of a plan, the origins of their clocks, transfer times and KV bytes a token.

    ``model`` is that of ``model_of_plan``, streams and all.

    Raises:
        SpecError: the plan contradicts itself, or the model has other streams than it says.
    """
    check_policies(replace(plan, streams=max(plan.streams, model.streams)))
    if plan.streams not in (1, model.streams):
        raise SpecError(
            f"plan: streams is {plan.streams}, and {model.name} was given with {model.streams}; "
            "make the model with model_of_plan"
        )
    placed = seats(plan, fleet)
    clocks: dict[tuple[Pool, str, int], ReplicaClock | MeasuredClock] = {}
    capacities: dict[tuple[Pool, str], KvCapacity] = {}
    instances: list[InstanceSpec] = []
    clock_of: list[ReplicaClock | MeasuredClock] = []
    stepping: dict[tuple[Pool, str, int], StepClock] = {}
    max_len = plan.max_model_len or model.max_context
    token_bytes = kv_bytes_per_token(model, plan.kv_dtype or model.quantization.kv_cache)
    for seat in placed:
        pool = seat.pool
        key = (pool, seat.device.name, seat.devices_per_node)
        if key not in clocks:
            clocks[key] = _clock(plan, model, seat)
            stepping[key] = _stepping(pool, clocks[key])
            capacities[key[:2]] = _capacity(plan, model, seat, max_len)
        clock = clocks[key]
        capacity = capacities[key[:2]]
        cacheable = model.streams > 1 or capacity.blocks_per_request == 0
        clock_of.append(clock)
        host_bytes = sum(t.capacity_bytes for t in seat.device.tiers if t.kind == "ddr")
        block_bytes = max(token_bytes * capacity.block_tokens, 1.0)
        host_blocks = int(host_bytes * pool.parallel.num_devices / block_bytes)
        swapping = swap_spec(
            pool,
            block_bytes=block_bytes / pool.parallel.num_devices,
            pieces_per_block=2 * sum(group.count for group in model.layers),
            link_bytes_per_s=seat.device.host.bytes_per_s,
            has_states=capacity.blocks_per_request > 0,
        )
        instances.append(
            InstanceSpec(
                role=pool.role,
                clock=stepping[key],
                policy=policy_for(pool, clock),
                num_blocks=capacity.num_blocks,
                block_tokens=capacity.block_tokens,
                blocks_per_request=capacity.blocks_per_request,
                host_blocks=host_blocks if swapping else min(host_blocks, capacity.num_blocks),
                max_num_seqs=pool.max_num_seqs,
                max_model_len=max_len,
                prefix_caching=pool.prefix_caching and cacheable,
                swapping=swapping,
                block_bytes=block_bytes,
            )
        )

    def transfer_s(source: int, target: int, tokens: int) -> float:
        here, there = clock_of[source], clock_of[target]
        if isinstance(here, MeasuredClock) or isinstance(there, MeasuredClock):
            return here.swap_s(tokens) + there.swap_s(tokens)  # out of one worker, into the other
        same = placed[source].node == placed[target].node
        return here.transfer_s(tokens, there, same_node=same)

    origins = {clock.origin for clock in clock_of}
    return scaled(instances, plan), origins, transfer_s, token_bytes


def _clock(plan: ServingPlan, model: ModelSpec, seat: Seat) -> ReplicaClock | MeasuredClock:
    """The clock of a seat in the plan's engine."""
    pool = seat.pool
    if plan.engine == "plimsoll":
        if pool.parallel.num_devices != 1:
            raise UnsupportedError(
                f"plan: engine plimsoll on {pool.parallel.num_devices} devices a replica is not "
                "measured; simulate it with tp = pp = 1"
            )
        return measured_clock(model, seat.device, dtype=plan.weight_dtype)
    return replica_clock(
        model,
        seat.device,
        pool.parallel,
        weight_dtype=plan.weight_dtype,
        kv_dtype=plan.kv_dtype,
        engine=plan.engine,
        num_devices_per_node=seat.devices_per_node,
    )


def _stepping(pool: Pool, clock: ReplicaClock | MeasuredClock) -> StepClock:
    """The clock that steps of a pool run on: shorter where its policy overlaps operators."""
    if not isinstance(pool.policy, Nano) or pool.policy.overlap is None:
        return clock
    if isinstance(clock, MeasuredClock):
        raise UnsupportedError(
            "plan: policy.overlap on a measured clock, whose steps are not told apart by operator; "
            "set it to null"
        )
    layer = ModelLayer(clock.setting)
    return OverlapClock(clock, layer, pool.policy.overlap, overlap_curves())


def reach_s(plan: ServingPlan, model: ModelSpec, fleet: Fleet) -> Callable[[int], float] | None:
    """Seconds from a request's arrival to the scheduler, by prompt tokens; None for no time.

    The engine's tokenizing, HTTP and passing on, and the handover where another pool decodes.
    Leaves out the steps an engine lets pass before it admits a request (``admission_steps``).
    """
    if plan.engine == "plimsoll":
        measured = [s.device.measured for s in seats(plan, fleet) if s.device.measured]
        taken_s = max((m.engine.request_s.value for m in measured if m.engine), default=0.0)
        return lambda _: taken_s
    costs = engine_profile(plan.engine).request
    fixed_s, token_s = costs.fixed_s, costs.prompt_token_s
    if any(isinstance(group.layer.ffn, MoeFfn) for group in model.layers):
        fixed_s += costs.expert_s
    if isinstance(plan.router, DisaggRouter):
        fixed_s += costs.handover_s
    if fixed_s == 0.0 and token_s == 0.0:
        return None
    return lambda prompt_tokens: fixed_s + token_s * prompt_tokens


def batched_tokens(pool: Pool, max_model_len: int) -> int:
    """The most tokens one step of the pool's policy can run, which sizes activations."""
    policy = pool.policy
    if isinstance(policy, ChunkedPrefill | FairSwap | Nano | PrefixGroups):
        return policy.token_budget
    if isinstance(policy, PrefillFirst):
        return policy.max_batched_tokens
    if isinstance(policy, SplitFuse):
        return policy.token_budget or _MOST_SPLITFUSE_TOKENS
    assert isinstance(policy, OrcaConfig)
    return max_model_len


def router_for(config: RouterConfig, scaling: Scaling | None = None) -> ClusterPolicy:
    """The cluster policy a plan's router and scaling describe."""
    options = {k: v for k, v in asdict(config).items() if k != "kind"}
    router: ClusterPolicy = ROUTERS[config.kind](**options)
    if scaling is None:
        return router
    options = asdict(scaling)
    for name in ("first_instances", "start_s"):  # the instances' own
        del options[name]
    return AutoscaledPolicy(router, **options)


def scaled(instances: Sequence[InstanceSpec], plan: ServingPlan) -> list[InstanceSpec]:
    """Instances of a plan, those stopped that its scaling does not start with."""
    scaling = plan.scaling
    if scaling is None:
        return list(instances)
    first = scaling.first_instances or len(instances)
    return [
        replace(spec, at_start=i < first, start_s=scaling.start_s)
        for i, spec in enumerate(instances)
    ]


def policy_for(pool: Pool, clock: StepClock) -> StepPolicy:
    """The step policy a pool describes; budgets left open come from the clock."""
    config = pool.policy
    if isinstance(config, PrefixGroups):
        return NeedsBatch()
    options = {k: v for k, v in asdict(config).items() if k not in ("kind", "overlap")}
    if isinstance(config, SplitFuse) and config.token_budget == 0:
        options["token_budget"] = saturation_tokens(clock, most=_MOST_SPLITFUSE_TOKENS)
    kind = POLICIES[config.kind]
    known = {item.name for item in fields(kind)}
    policy: StepPolicy = kind(**{k: v for k, v in options.items() if k in known})
    return policy


def _capacity(plan: ServingPlan, model: ModelSpec, seat: Seat, max_len: int) -> KvCapacity:
    pool = seat.pool
    capacity = kv_capacity(
        model,
        seat.device,
        pool.parallel,
        weight_dtype=plan.weight_dtype,
        kv_dtype=plan.kv_dtype,
        memory_fraction=pool.memory_fraction,
        max_batched_tokens=batched_tokens(pool, max_len),
        max_num_seqs=pool.max_num_seqs,
        block_tokens=pool.block_tokens,
    )
    if capacity.num_blocks <= capacity.blocks_per_request:
        raise InfeasibleError(
            f"{model.name} leaves no room for KV on {seat.device.name} "
            f"({format_bytes(seat.device.memory_bytes)}) at tp {pool.parallel.tp}, "
            f"pp {pool.parallel.pp}",
            binding="device memory",
            change="raise tp or pp, or use a smaller weight format",
        )
    return capacity
