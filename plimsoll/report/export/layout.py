"""Where the engines of a plan run: hosts, devices and ports, and the checks all targets share.

Replicas are placed in order, each on the first host of its device with room; a replica larger
than a host takes whole fresh hosts. Ports follow the position on the host. This is the layout
of the launch scripts; Kubernetes targets place pods themselves and use only the counts.
"""

from dataclasses import dataclass

from plimsoll.report.export.contract import ExportContext, PoolFacts, check_text, refuse
from plimsoll.spec.errors import SpecError
from plimsoll.spec.plan import DisaggRouter, Pool, ServingPlan

__all__ = [
    "FIRST_PORT",
    "Instance",
    "check_plan",
    "context_tokens",
    "front_port",
    "hosts_per_replica",
    "per_rank",
    "place",
    "pool_names",
]

FIRST_PORT = 8000
PORT_STEP = 100
"""Between engines on one host: SGLang takes a run of ports after its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One replica of one pool on its hosts; ``devices`` are indices on each of them."""

    pool_index: int
    replica_index: int
    hosts: tuple[int, ...]
    devices: tuple[int, ...]
    seat: int
    """Position among the instances whose first host is the same."""
    port: int


def check_plan(plan: ServingPlan, context: ExportContext, target: str) -> None:
    """Refuse what no target can start.

    Raises:
        SpecError: plan and context do not belong together, or roles and router disagree.
    """
    check_text("model", context.model)
    check_text("served name", context.name)
    if len(context.pools) != len(plan.pools) or not plan.pools:
        raise SpecError(
            f"export to {target}: the plan has {len(plan.pools)} pools and the context facts "
            f"of {len(context.pools)}; give the facts of each pool, in order"
        )
    if context.context_tokens < 1:
        raise SpecError(f"export to {target}: context_tokens must be at least 1")
    if plan.max_model_len > context.context_tokens:
        raise SpecError(
            f"export to {target}: max_model_len = {plan.max_model_len} is more than the model's "
            f"own context of {context.context_tokens}; lower it or set 0"
        )
    roles = {pool.role for pool in plan.pools}
    disaggregated = isinstance(plan.router, DisaggRouter)
    if disaggregated != (roles == {"prefill", "decode"}) or (
        not disaggregated and roles != {"both"}
    ):
        raise SpecError(
            f"export to {target}: router {plan.router.kind} with pools of roles "
            f"{', '.join(sorted(roles))}; a disaggregated router needs prefill and decode pools "
            "and nothing else, the other routers pools of role both"
        )
    if plan.scaling is not None:
        refuse(
            target,
            "scaling",
            f"from {plan.scaling.min_instances} instances",
            "the number of replicas is fixed in what is written",
            "leave scaling out, or serve the plan with `plimsoll serve`",
        )
    if isinstance(plan.router, DisaggRouter):
        default = DisaggRouter().unstarted_fraction
        if plan.router.unstarted_fraction != default:
            refuse(
                target,
                "router.unstarted_fraction",
                plan.router.unstarted_fraction,
                "no engine takes this limit as a setting",
                f"leave it at {default} and judge the plan with that",
            )
    for i, (pool, facts) in enumerate(zip(plan.pools, context.pools, strict=True)):
        if facts.devices_per_host < 1:
            raise SpecError(f"export to {target}: pools[{i}]: devices_per_host must be at least 1")
        hosts_per_replica(pool, facts, i, target)


def context_tokens(plan: ServingPlan, context: ExportContext) -> int:
    """The longest sequence to serve."""
    return plan.max_model_len or context.context_tokens


def pool_names(plan: ServingPlan) -> tuple[str, ...]:
    """A short name for each pool: its role, numbered where a role comes twice."""
    words = {"both": "server", "prefill": "prefill", "decode": "decode"}
    names = [words[pool.role] for pool in plan.pools]
    return tuple(
        name if names.count(name) == 1 else f"{name}-{names[:i].count(name)}"
        for i, name in enumerate(names)
    )


def hosts_per_replica(pool: Pool, facts: PoolFacts, index: int, target: str) -> int:
    """Hosts one replica of the pool spans."""
    num_devices = pool.parallel.num_devices
    if num_devices <= facts.devices_per_host:
        return 1
    if num_devices % facts.devices_per_host:
        refuse(
            target,
            f"pools[{index}].parallel",
            f"{num_devices} devices a replica",
            f"it spans hosts of {facts.devices_per_host} devices and leaves one partly used",
            f"choose degrees whose product is a multiple of {facts.devices_per_host}",
        )
    return num_devices // facts.devices_per_host


def per_rank(total: int, pool: Pool, where: str, target: str) -> int:
    """A bound of one replica as each of its attention-data-parallel ranks has it."""
    ranks = pool.parallel.attention_dp
    if total % ranks:
        refuse(
            target,
            where,
            total,
            f"each of {ranks} attention-data-parallel ranks gets an equal share of it",
            f"use a multiple of {ranks}",
        )
    return total // ranks


def place(plan: ServingPlan, context: ExportContext, target: str) -> tuple[Instance, ...]:
    """Hosts, devices and ports of every replica."""
    used: list[tuple[str, int]] = []
    seats: dict[int, int] = {}
    placed: list[tuple[int, int, tuple[int, ...], tuple[int, ...], int]] = []
    for p, (pool, facts) in enumerate(zip(plan.pools, context.pools, strict=True)):
        spread = hosts_per_replica(pool, facts, p, target)
        size = pool.parallel.num_devices // spread
        for r in range(pool.replicas):
            hosts: tuple[int, ...] = ()
            if spread == 1:
                hosts = tuple(
                    h
                    for h, (device, taken) in enumerate(used)
                    if device == pool.device and taken + size <= facts.devices_per_host
                )[:1]
            if not hosts:
                hosts = tuple(range(len(used), len(used) + spread))
                used.extend((pool.device, 0) for _ in hosts)
            start = used[hosts[0]][1]
            for h in hosts:
                used[h] = (pool.device, start + size)
            seat = seats.get(hosts[0], 0)
            seats[hosts[0]] = seat + 1
            placed.append((p, r, hosts, tuple(range(start, start + size)), seat))
    return tuple(
        Instance(
            pool_index=p,
            replica_index=r,
            hosts=hosts,
            devices=devices,
            seat=seat,
            port=FIRST_PORT if len(placed) == 1 else FIRST_PORT + PORT_STEP * (seat + 1),
        )
        for p, r, hosts, devices, seat in placed
    )


def front_port() -> int:
    """The port clients talk to: of the only engine, or of the router before several."""
    return FIRST_PORT
