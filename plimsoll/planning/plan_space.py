"""The plans worth considering: replicas x parallel shapes x formats x policies x batch limits.

A *shape* is one replica cut one way in one number format on one kind of device; a *candidate*
is counts of shapes with policies: aggregated (one pool) or disaggregated (a prefill and a
decode pool). The order is fixed: parts of the fleet as written, then formats, then degrees
from small to large. Limits on devices, watts and money are applied as counts of devices.
Leaves out: pools of unlike shapes beyond prefill/decode, uneven pipelines.
Source: the plan spaces of arXiv 2401.09670 and arXiv 2411.17651.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from plimsoll.planning.engine_limits import (
    arithmetic_limit,
    format_limit,
    handover_limit,
    runnable_policies,
    shape_limit,
)
from plimsoll.planning.parallel_shapes import Site, Skips, parallel_shapes, replicas_that_fit
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError, suggest
from plimsoll.spec.hardware import Device, Fleet
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    LeastWorkRouter,
    Parallel,
    Pool,
    PrefillFirst,
    ServingPlan,
    SplitFuse,
    StepPolicyConfig,
)
from plimsoll.spec.slo import Slo

__all__ = [
    "Candidate",
    "Mode",
    "Shape",
    "SpaceOptions",
    "aggregated",
    "allowed_devices",
    "counts_of",
    "decode_policy",
    "disaggregated",
    "enumerate_plans",
    "enumerate_shapes",
    "is_legal",
    "pair_counts_of",
    "policies_for",
    "runnable",
    "usable_sites",
]

Mode = Literal["aggregated", "disaggregated"]
_BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
_MAX_SEQS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_PREFILL_SEQS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceOptions:
    """What may be tried.

    ``weight_dtypes`` / ``kv_dtypes``: formats beside the checkpoint's own (None), which is
    always tried unless the tuple leaves it out. ``policies`` empty: those the engine runs, with
    ``budgets``. ``include`` / ``exclude`` are device names. Limits of 0 mean unlimited:
    ``max_devices``, ``power_w`` (devices at their peak), ``usd_per_hour``. ``varied`` names the
    policies that the leaders of a search are tried under at its end
    (``planning.policy_variants``); with
    ``any_engine`` they may be chosen though the engine lacks them. ``streams`` of the model that
    is searched for, 1 also where its configuration says so.
    """

    engine: Literal["vllm", "sglang", "trtllm"] = "vllm"
    modes: tuple[Mode, ...] = ("aggregated", "disaggregated")
    weight_dtypes: tuple[DType | None, ...] = (None,)
    kv_dtypes: tuple[DType | None, ...] = (None,)
    policies: tuple[StepPolicyConfig, ...] = ()
    budgets: tuple[int, ...] = _BUDGETS
    max_num_seqs: tuple[int, ...] = _MAX_SEQS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_devices: int = 0
    power_w: float = 0.0
    usd_per_hour: float = 0.0
    memory_fraction: float = 0.9
    max_model_len: int = 0
    streams: int = 1
    prefix_caching: bool = True
    varied: tuple[str, ...] = ()
    any_engine: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One replica: where, how it is cut, and its number formats."""

    site_index: int
    device: str
    parallel: Parallel
    weight_dtype: DType | None
    kv_dtype: DType | None

    @property
    def num_devices(self) -> int:
        """Devices of one replica."""
        return self.parallel.num_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan in the making: pools, each on one part of the fleet, in the same formats."""

    pools: tuple[Pool, ...]
    site_indices: tuple[int, ...]
    weight_dtype: DType | None
    kv_dtype: DType | None

    @property
    def mode(self) -> Mode:
        """Whether prefill and decode run apart."""
        return "aggregated" if self.pools[0].role == "both" else "disaggregated"

    @property
    def num_devices(self) -> int:
        """Devices of all pools."""
        return sum(pool.num_devices for pool in self.pools)

    def plan(self, model: str, fleet: str, options: SpaceOptions, slo: Slo) -> ServingPlan:
        """The plan file's content."""
        return ServingPlan(
            model=model,
            fleet=fleet,
            engine=options.engine,
            weight_dtype=self.weight_dtype,
            kv_dtype=self.kv_dtype,
            max_model_len=options.max_model_len,
            streams=options.streams,
            pools=self.pools,
            router=LeastWorkRouter() if self.mode == "aggregated" else DisaggRouter(),
            slo=slo,
        )


def policies_for(options: SpaceOptions) -> tuple[StepPolicyConfig, ...]:
    """Step policies to try: the user's, or those the engine runs at each budget.

    All run decodes and prompts in chunks up to a budget; SGLang may run whole prompts before
    decodes instead.
    """
    if options.policies:
        return options.policies
    chunked = [ChunkedPrefill(token_budget=b) for b in options.budgets]
    if options.engine != "sglang":
        return tuple(chunked)
    return (*(PrefillFirst(max_batched_tokens=b) for b in options.budgets), *chunked)


def runnable(options: SpaceOptions, model: ModelSpec) -> SpaceOptions:
    """The options with exactly the policies that the engine can be started with.

    Raises:
        UnsupportedError: the engine runs none of those asked for.
    """
    longest = options.max_model_len or model.max_context
    policies = runnable_policies(options.engine, policies_for(options), longest)
    return replace(options, policies=policies)


def decode_policy(max_num_seqs: int) -> StepPolicyConfig:
    """What a decode pool runs; it sees no prompts, so its budget only has to hold the batch."""
    return ChunkedPrefill(token_budget=max(ChunkedPrefill().token_budget, max_num_seqs))


def is_legal(policy: StepPolicyConfig, max_num_seqs: int) -> bool:
    """Whether decodes alone stay within the policy's token budget."""
    if isinstance(policy, ChunkedPrefill | SplitFuse):
        return policy.token_budget == 0 or policy.token_budget >= max_num_seqs
    return True


def allowed_devices(site: Site, options: SpaceOptions) -> int:
    """Devices of a part that may be used at once under the limits.

    Raises:
        UnsupportedError: a money limit, and no price is known for the device.
    """
    most = site.num_devices
    if options.max_devices:
        most = min(most, options.max_devices)
    if options.power_w:
        most = min(most, int(options.power_w / site.device.power.peak_w + 1e-9))
    if options.usd_per_hour:
        price = site.device.price
        if price is None:
            raise UnsupportedError(
                f"a money limit was given, but no price is known for {site.device.name}; "
                "add a price to the device file"
            )
        most = min(most, int(options.usd_per_hour / price.usd_per_hour + 1e-9))
    return most


def usable_sites(fleet: Fleet, options: SpaceOptions) -> list[Site]:
    """Devices left after include and exclude, one site a kind, in the order written.

    Raises:
        SpecError: an included or excluded device is not in the fleet, or none is left.
    """
    names = {
        name.lower(): part.device.name
        for part in fleet.parts
        for name in (part.device.name, *part.device.aliases)
    }
    for asked in (*options.include, *options.exclude):
        if asked.lower() not in names:
            there = ", ".join(sorted({p.device.name for p in fleet.parts}))
            raise SpecError(
                f"{asked!r} is not in the fleet ({there}).{suggest(asked, list(names))}"
            )
    wanted = {names[n.lower()] for n in options.include} or set(names.values())
    wanted -= {names[n.lower()] for n in options.exclude}
    nodes: dict[str, list[int]] = {}
    devices: dict[str, Device] = {}
    for part in fleet.parts:
        if part.device.name in wanted:
            devices[part.device.name] = part.device
            nodes.setdefault(part.device.name, []).extend([part.node.num_devices] * part.num_nodes)
    if not nodes:
        raise SpecError("no device is left after include and exclude")
    return [Site(device=devices[name], nodes=tuple(sizes)) for name, sizes in nodes.items()]


def enumerate_shapes(
    model: ModelSpec, sites: list[Site], options: SpaceOptions, skips: Skips
) -> list[Shape]:
    """Every legal shape of one replica, on every part and in every format allowed.

    Raises:
        UnsupportedError: neither the engine nor the devices run any of the formats.
    """
    shapes = []
    refused: list[str] = []
    apart = "disaggregated" in options.modes
    asked = 0
    for index, site in enumerate(sites):
        most = allowed_devices(site, options)
        for weight in dict.fromkeys(options.weight_dtypes):
            for kv in dict.fromkeys(options.kv_dtypes):
                asked += 1
                reason = format_limit(options.engine, model, weight, kv)
                reason = reason or arithmetic_limit(options.engine, site.device, weight)
                if reason:
                    refused.append(reason)
                    skips[reason] += 1
                    continue
                for parallel in parallel_shapes(
                    model,
                    site,
                    max_devices=most,
                    engine=options.engine,
                    weight_dtype=weight,
                    skips=skips,
                ):
                    reason = shape_limit(options.engine, site, parallel)
                    if reason:
                        skips[reason] += 1
                        continue
                    if apart and (reason := handover_limit(options.engine, parallel)):
                        skips[reason] += 1
                    shapes.append(
                        Shape(
                            site_index=index,
                            device=site.device.name,
                            parallel=parallel,
                            weight_dtype=weight,
                            kv_dtype=kv,
                        )
                    )
    if len(refused) == asked:
        raise UnsupportedError("; ".join(dict.fromkeys(refused)))
    return shapes


def counts_of(shape: Shape, sites: list[Site], options: SpaceOptions) -> list[int]:
    """Numbers of replicas of a shape that its part holds under the limits."""
    site = sites[shape.site_index]
    most = allowed_devices(site, options) // shape.num_devices
    return [n for n in range(1, most + 1) if replicas_that_fit(site, [(shape.num_devices, n)])]


def pair_counts_of(
    prefill: Shape, decode: Shape, sites: list[Site], options: SpaceOptions
) -> list[tuple[int, int]]:
    """Numbers of (prefill, decode) replicas that fit side by side under the limits.

    None where the engine cannot move KV between such replicas.
    """
    counts: list[tuple[int, int]] = []
    if any(handover_limit(options.engine, shape.parallel) for shape in (prefill, decode)):
        return counts
    for p in counts_of(prefill, sites, options):
        for d in counts_of(decode, sites, options):
            if not _within(prefill, p, decode, d, sites, options):
                break
            if prefill.site_index != decode.site_index or replicas_that_fit(
                sites[prefill.site_index], [(prefill.num_devices, p), (decode.num_devices, d)]
            ):
                counts.append((p, d))
    return counts


def _within(
    a: Shape, num_a: int, b: Shape, num_b: int, sites: list[Site], options: SpaceOptions
) -> bool:
    devices = [(sites[s.site_index].device, s.num_devices * n) for s, n in ((a, num_a), (b, num_b))]
    total = sum(n for _, n in devices)
    if a.site_index == b.site_index and total > allowed_devices(sites[a.site_index], options):
        return False
    if options.max_devices and total > options.max_devices:
        return False
    if options.power_w and sum(d.power.peak_w * n for d, n in devices) > options.power_w:
        return False
    spent = sum(d.price.usd_per_hour * n for d, n in devices if d.price is not None)
    return not (options.usd_per_hour and spent > options.usd_per_hour)


def _pool(
    shape: Shape,
    role: Literal["both", "prefill", "decode"],
    replicas: int,
    policy: StepPolicyConfig,
    max_num_seqs: int,
    options: SpaceOptions,
) -> Pool:
    """Equal replicas of a shape; bounds are raised to what its attention ranks share evenly."""
    ranks = shape.parallel.attention_dp
    whole = ranks * (Pool(device=shape.device).block_tokens if options.engine == "sglang" else 1)
    if isinstance(policy, ChunkedPrefill) and policy.token_budget % whole:
        policy = replace(policy, token_budget=_rounded_up(policy.token_budget, whole))
    return Pool(
        role=role,
        device=shape.device,
        replicas=replicas,
        parallel=shape.parallel,
        policy=policy,
        max_num_seqs=_rounded_up(max_num_seqs, ranks),
        memory_fraction=options.memory_fraction,
        prefix_caching=options.prefix_caching,
    )


def _rounded_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def aggregated(
    shape: Shape, replicas: int, policy: StepPolicyConfig, max_seqs: int, options: SpaceOptions
) -> Candidate:
    """One pool of equal replicas."""
    return Candidate(
        pools=(_pool(shape, "both", replicas, policy, max_seqs, options),),
        site_indices=(shape.site_index,),
        weight_dtype=shape.weight_dtype,
        kv_dtype=shape.kv_dtype,
    )


def _prefill_seqs(policy: StepPolicyConfig) -> int:
    legal = [n for n in (_PREFILL_SEQS, 64, 32, 16, 8, 4, 2) if is_legal(policy, n)]
    return legal[0] if legal else 1


def disaggregated(
    prefill: Shape,
    decode: Shape,
    counts: tuple[int, int],
    policy: StepPolicyConfig,
    max_seqs: int,
    options: SpaceOptions,
) -> Candidate:
    """A prefill pool with ``policy`` and a decode pool of at most ``max_seqs`` a replica."""
    return Candidate(
        pools=(
            _pool(prefill, "prefill", counts[0], policy, _prefill_seqs(policy), options),
            _pool(decode, "decode", counts[1], decode_policy(max_seqs), max_seqs, options),
        ),
        site_indices=(prefill.site_index, decode.site_index),
        weight_dtype=prefill.weight_dtype,
        kv_dtype=prefill.kv_dtype,
    )


def enumerate_plans(
    model: ModelSpec, fleet: Fleet, options: SpaceOptions, skips: Skips | None = None
) -> Iterator[Candidate]:
    """Every candidate, each once, in a fixed order; ``skips`` counts what was left out."""
    left_out = Skips() if skips is None else skips
    options = runnable(options, model)
    sites = usable_sites(fleet, options)
    shapes = enumerate_shapes(model, sites, options, left_out)
    policies = policies_for(options)
    if "aggregated" in options.modes:
        for shape in shapes:
            for count in counts_of(shape, sites, options):
                for policy in policies:
                    for seqs in options.max_num_seqs:
                        if not is_legal(policy, seqs):
                            left_out["token budget below the batch limit"] += 1
                            continue
                        yield aggregated(shape, count, policy, seqs, options)
    if "disaggregated" in options.modes:
        for prefill in shapes:
            for decode in shapes:
                if _formats(prefill) != _formats(decode):
                    continue
                for counts in pair_counts_of(prefill, decode, sites, options):
                    for policy in policies:
                        for seqs in options.max_num_seqs:
                            yield disaggregated(prefill, decode, counts, policy, seqs, options)


def _formats(shape: Shape) -> tuple[DType | None, DType | None]:
    return shape.weight_dtype, shape.kv_dtype
