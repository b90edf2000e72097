"""A serving plan: which replicas, how each is cut up, and which policies decide. Plain data.

The plan file is the interface between search, simulator, runtime and exporters. Parallel
degrees multiply to the devices of one replica: ``tp * pp * attention_dp``. With
``attention_dp`` > 1 each rank group of ``tp`` devices serves its own requests' attention
while the experts are spread over all of them (``ep`` of them by expert, the rest by width).
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.io import PLAIN
from plimsoll.spec.overlap import OverlapPlan
from plimsoll.spec.slo import Slo

__all__ = [
    "ChunkedPrefill",
    "DisaggRouter",
    "FairSwap",
    "FreenessRouter",
    "KvPoolRouter",
    "LeastDemandRouter",
    "LeastWorkRouter",
    "Nano",
    "OrcaConfig",
    "Parallel",
    "Pool",
    "PrefillFirst",
    "PrefixAffineRouter",
    "PrefixGroups",
    "RoundRobinRouter",
    "RouterConfig",
    "Scaling",
    "ServingPlan",
    "SplitFuse",
    "StepPolicyConfig",
]

Degree = Annotated[int, Field(gt=0, le=4096)]
Streams = Annotated[int, Field(gt=0, le=1024)]
Fraction = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How one replica is cut: tensor, pipeline, attention-data and expert parallel degrees."""

    __pydantic_config__: ClassVar = PLAIN
    tp: Degree = 1
    pp: Degree = 1
    attention_dp: Degree = 1
    ep: Degree = 1

    @property
    def num_devices(self) -> int:
        """Devices of one replica."""
        return self.tp * self.pp * self.attention_dp

    @property
    def moe_tp(self) -> int:
        """Devices that share one expert's width."""
        return max(1, self.tp * self.attention_dp // self.ep)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrcaConfig:
    """Iteration-level batching: whole prompts run together with decodes. arXiv (OSDI'22) Orca."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["orca"] = "orca"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFirst:
    """vLLM's first scheduler: waiting prompts go before decodes, whole; preempt when full."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["prefill-first"] = "prefill-first"
    max_batched_tokens: Annotated[int, Field(gt=0)] = 8192
    preempt: Literal["recompute", "swap"] = "recompute"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedPrefill:
    """Sarathi / vLLM V1: decodes first, then prompt chunks up to a token budget.

    ``ahead``: decode steps are formed while the ones before run (asynchronous scheduling); what
    arrives then waits a step longer.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["chunked-prefill"] = "chunked-prefill"
    token_budget: Annotated[int, Field(gt=0)] = 2048
    max_partial_prefills: Annotated[int, Field(gt=0)] = 1
    preempt: Literal["recompute", "swap"] = "recompute"
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFuse:
    """DeepSpeed-FastGen: every pass filled to exactly the budget. 0: chosen from the cost model."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["splitfuse"] = "splitfuse"
    token_budget: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FairSwap:
    """FastSwitch: priorities change every 1/``update_frequency`` steps; who must yield is swapped.

    ``priorities``: drawn anew, drawn from a Markov chain, or by tokens served to a request's class.
    ``groups``: blocks in runs; ``asynchronous``: copies beside the steps; ``reuse``: host copies
    are kept. ``launch_s`` of each copy of a run; ``bytes_per_s`` 0: as the device's host link.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["fairswap"] = "fairswap"
    update_frequency: Fraction = 0.04
    token_budget: Annotated[int, Field(gt=0)] = 512
    priorities: Literal["random", "markov", "served-tokens"] = "served-tokens"
    groups: bool = True
    asynchronous: bool = True
    reuse: bool = True
    launch_s: Annotated[float, Field(ge=0, le=1)] = 10e-6
    bytes_per_s: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nano:
    """NanoFlow: every step one dense batch, decodes first; a prompt starts only if the predicted
    peak of KV fits, with ``mean_output_tokens`` for each request.

    ``overlap``: how the layers of a step overlap inside the devices, as ``plimsoll plan overlap``
    writes it; null: operators one by one. ``ahead`` as in chunked prefill.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["nano"] = "nano"
    token_budget: Annotated[int, Field(gt=0)] = 2048
    mean_output_tokens: Annotated[float, Field(gt=0)] = 256.0
    ahead: bool = False
    overlap: OverlapPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroups:
    """BatchLLM: a batch known ahead in groups that share a prefix, memory filled as predicted.

    ``mean_output_tokens`` 0: the workload's own mean. ``kv_fraction`` of memory may be filled as
    predicted. ``shared_attention``: simulate an engine that reads a shared prefix once a step.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["prefix-groups"] = "prefix-groups"
    token_budget: Annotated[int, Field(gt=0)] = 2048
    mean_output_tokens: Annotated[float, Field(ge=0)] = 0.0
    kv_fraction: Fraction = 0.95
    preempt: Literal["recompute", "swap"] = "swap"
    shared_attention: bool = False


StepPolicyConfig = Annotated[
    OrcaConfig | PrefillFirst | ChunkedPrefill | SplitFuse | FairSwap | Nano | PrefixGroups,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobinRouter:
    """Each request to the next replica in turn."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["round-robin"] = "round-robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastWorkRouter:
    """Each request to the replica with the fewest tokens still to process."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["least-work"] = "least-work"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastDemandRouter:
    """Each request to the replica with the least KV memory held and asked for."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["least-demand"] = "least-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAffineRouter:
    """To the replica that holds the longest prefix, unless it is overloaded.

    ``max_load_ratio``: how much more work than the least loaded replica it may have.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["prefix-affine"] = "prefix-affine"
    max_load_ratio: Annotated[float, Field(ge=1)] = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggRouter:
    """Prefill on one pool, decode on another; the decode side pulls the KV when it has room.

    ``unstarted_fraction``: share of a decode pool's blocks that pulled but not yet running
    requests may hold.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["disaggregated"] = "disaggregated"
    unstarted_fraction: Fraction = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FreenessRouter:
    """Llumnix: to the replica with most decode steps left before its memory is full; running
    requests move live from replicas below ``low_steps`` to replicas above ``high_steps``.

    ``headroom_tokens`` stay free beside high-priority requests; ``migrate`` false: no moves.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["freeness"] = "freeness"
    low_steps: Annotated[float, Field(ge=0)] = 10.0
    high_steps: Annotated[float, Field(gt=0)] = 60.0
    headroom_tokens: Annotated[int, Field(ge=0)] = 0
    migrate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPoolRouter:
    """Infinite-LLM: to the replica with the least KV memory asked for; replicas short of it have
    old blocks held by others, which attend to them there.

    ``mode`` ledger: whenever one is short; throughput: for waiting requests only where it raises
    tokens per second. A replica aims at twice ``reserve_fraction`` of its blocks free and lends
    ``lent_fraction`` of them, more only to contexts longer than a replica; reports of free blocks
    are up to ``heartbeat_s`` old; what is recalled comes back within ``recall_s``.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["kv-pool"] = "kv-pool"
    mode: Literal["ledger", "throughput"] = "throughput"
    reserve_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    lent_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    heartbeat_s: Annotated[float, Field(ge=0)] = 0.5
    recall_s: Annotated[float, Field(ge=0)] = 2.0


RouterConfig = Annotated[
    RoundRobinRouter
    | LeastWorkRouter
    | LeastDemandRouter
    | PrefixAffineRouter
    | DisaggRouter
    | FreenessRouter
    | KvPoolRouter,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How many of a plan's replicas are up: at least ``min_instances``, at most all.

    ``first_instances`` are up at the beginning; 0: all. Below ``low_steps`` decode steps until the
    memory of those that are up is full, for ``hold_s``, one is started; above ``high_steps`` one is
    drained and stopped; then nothing is done for ``cooldown_s``. A start takes ``start_s`` in the
    simulator; a real engine takes what it takes.
    """

    __pydantic_config__: ClassVar = PLAIN
    min_instances: Degree = 1
    first_instances: Annotated[int, Field(ge=0)] = 0
    low_steps: Annotated[float, Field(ge=0)] = 10.0
    high_steps: Annotated[float, Field(gt=0)] = 60.0
    hold_s: Annotated[float, Field(ge=0)] = 10.0
    cooldown_s: Annotated[float, Field(ge=0)] = 10.0
    start_s: Annotated[float, Field(ge=0)] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Equal replicas with one role.

    ``max_num_seqs`` bounds the requests that run at once in one replica;
    ``memory_fraction`` is the share of device memory the engine may take in all.
    """

    __pydantic_config__: ClassVar = PLAIN
    role: Literal["both", "prefill", "decode"] = "both"
    device: str
    replicas: Degree = 1
    parallel: Parallel = field(default_factory=Parallel)
    policy: StepPolicyConfig = field(default_factory=ChunkedPrefill)
    max_num_seqs: Annotated[int, Field(gt=0)] = 256
    memory_fraction: Fraction = 0.9
    block_tokens: Annotated[int, Field(gt=0)] = 16
    prefix_caching: bool = True

    @property
    def num_devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.parallel.num_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """Everything needed to simulate, run or export a deployment of one model.

    ``model`` is a bundled name or a path; ``fleet`` the hardware as the user wrote it.
    ``weight_dtype`` / ``kv_dtype`` None: as the checkpoint says. ``max_model_len`` 0: the
    model's own context. ``streams``: parallel streams that each token runs in, 1: as the
    model's own configuration says (``spec/streams.py``). ``engine`` "plimsoll" is the package's
    own (``plimsoll serve``), simulated from what ``plimsoll calibrate`` measured. ``scaling``
    None: all replicas are always up.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    kind: Literal["serving"] = "serving"
    model: str
    fleet: str
    engine: Literal["vllm", "sglang", "trtllm", "plimsoll"] = "vllm"
    weight_dtype: DType | None = None
    kv_dtype: DType | None = None
    max_model_len: Annotated[int, Field(ge=0)] = 0
    streams: Streams = 1
    pools: tuple[Pool, ...]
    router: RouterConfig = field(default_factory=LeastWorkRouter)
    scaling: Scaling | None = None
    slo: Slo = field(default_factory=Slo)
    notes: tuple[str, ...] = field(default=())

    @property
    def num_devices(self) -> int:
        """Devices of all pools."""
        return sum(pool.num_devices for pool in self.pools)

    @property
    def served(self) -> str:
        """The model in words, with the streams that the plan gives it."""
        return self.model if self.streams == 1 else f"{self.model}, {self.streams} streams"
