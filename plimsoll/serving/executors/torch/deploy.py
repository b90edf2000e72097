"""From a plan and a model folder to a run that can start: instances, workers, memory.

KV memory of a worker is stated in bytes and cut into blocks. What the real engine cannot do of a
plan is refused before anything starts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plimsoll.cost.clock import LinearClock, StepClock
from plimsoll.models.loading import build, load_config
from plimsoll.models.sharding import Shard, cut_model
from plimsoll.serving.conflicts import check_policies
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.ranks import GroupWorker
from plimsoll.serving.executors.torch.worker import (
    LocalWorker,
    ProcessWorker,
    WorkerSetup,
    make_runner,
)
from plimsoll.serving.policy import ClusterPolicy, StepPolicy
from plimsoll.serving.simulate.batch_groups import NeedsBatch
from plimsoll.serving.simulate.run import batched_tokens, policy_for, router_for, scaled
from plimsoll.serving.simulate.swapping import swap_spec
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import KvPoolRouter, Parallel, ServingPlan

__all__ = ["ModelFacts", "deploy", "instance_specs", "model_facts"]

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_HOST_SHARE = 2
"""Host memory for copies that are kept, in units of KV memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the folder says that an engine must know. ``kv_token_bytes`` in ``dtype``."""

    folder: Path
    vocab_size: int
    max_context: int
    eos_ids: tuple[int, ...]
    dtype: str
    kv_token_bytes: int
    has_states: bool


def model_facts(folder: Path, *, dtype: str = "") -> ModelFacts:
    """Read a model folder; no weights are read.

    Raises:
        SpecError, UnsupportedError: as ``models.loading``.
    """
    if dtype and dtype not in _BYTES:
        raise SpecError(f"dtype = {dtype}; expected one of {', '.join(_BYTES)}")
    config = load_config(folder)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    dtype = dtype or names.get(stored.removeprefix("torch."), "fp32")
    model = build(config, dtype=torch.float32, device="meta")
    numbers = sum(s.num_heads * (s.key_dim + s.value_dim) for s in model.kv_shapes.values())
    text = config.get("text_config") or config
    return ModelFacts(
        folder=folder,
        vocab_size=int(text["vocab_size"]),
        max_context=int(text.get("max_position_embeddings", 2048)),
        eos_ids=_eos_ids(folder, config),
        dtype=dtype,
        kv_token_bytes=max(1, numbers * _BYTES[dtype]),
        has_states=model.has_states,
    )


def _eos_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    found: Any = None
    path = folder / "generation_config.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise SpecError(f"{path}: not a JSON object ({error})") from None
    if found is None:
        found = config.get("eos_token_id")
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def instance_specs(
    plan: ServingPlan,
    facts: ModelFacts,
    *,
    kv_bytes: float,
    clock: StepClock | None = None,
) -> list[InstanceSpec]:
    """One a replica; ``kv_bytes`` of KV memory each.

    Raises:
        UnsupportedError: the plan cuts a replica in a way that the engine or the model has not.
        SpecError: the plan contradicts itself, or the memory does not hold one request.
    """
    if plan.streams > 1:
        raise UnsupportedError(
            f"plan: streams is {plan.streams}, and the engine here runs every token once; set "
            "streams: 1, or simulate the plan as it is"
        )
    check_policies(plan)
    found: list[InstanceSpec] = []
    if len({pool.parallel for pool in plan.pools}) > 1 and len({p.role for p in plan.pools}) > 1:
        raise UnsupportedError(
            "plan: KV is handed over between replicas cut alike only; give both pools the same "
            "tp and pp"
        )
    if isinstance(plan.router, KvPoolRouter):
        raise UnsupportedError(
            "plan: router kv-pool is simulated only, since the workers of a server do not meet to "
            "attend for each other; use another router, such as least-demand"
        )
    max_len = min(plan.max_model_len or facts.max_context, facts.max_context)
    for pool in plan.pools:
        if getattr(pool.policy, "ahead", False) and pool.parallel.num_devices > 1:
            raise UnsupportedError(
                "plan: steps are formed ahead on replicas of one device only, since other ranks do "
                "not hear the tokens drawn; set the policy's ahead to false"
            )
        if getattr(pool.policy, "overlap", None) is not None:
            _check_overlap(pool.parallel)
        token_bytes = _token_bytes(facts, pool.parallel)
        blocks = int(kv_bytes // (token_bytes * pool.block_tokens))
        if blocks < 2:
            raise SpecError(
                f"KV memory of {kv_bytes:,.0f} bytes holds {blocks} blocks of "
                f"{pool.block_tokens} tokens at {token_bytes:,} bytes a token; give more"
            )
        blocks = min(blocks, -(-(max_len + 1) // pool.block_tokens) * pool.max_num_seqs)
        budget = batched_tokens(pool, max_len)
        swapping = swap_spec(
            pool,
            block_bytes=token_bytes * pool.block_tokens,
            pieces_per_block=1,
            link_bytes_per_s=1e9,
            has_states=facts.has_states,
        )
        if swapping and pool.parallel.num_devices > 1:
            raise UnsupportedError(
                "plan: policy fairswap runs on replicas of one device only, since ranks do not "
                "agree when a copy is done; use another policy"
            )
        spec_clock = clock or LinearClock(
            step_base_s=1e-3, token_s=1e-6, num_stages=pool.parallel.pp
        )
        if spec_clock.num_stages != pool.parallel.pp:
            raise UnsupportedError(
                f"plan: pp = {pool.parallel.pp}, but the clock is of {spec_clock.num_stages} stage"
            )
        spec = InstanceSpec(
            role=pool.role,
            clock=spec_clock,
            policy=policy_for(pool, spec_clock),
            num_blocks=blocks,
            block_tokens=pool.block_tokens,
            host_blocks=_HOST_SHARE * blocks if swapping and swapping.reuse else blocks,
            max_num_seqs=pool.max_num_seqs,
            max_model_len=max_len,
            prefix_caching=pool.prefix_caching and not facts.has_states and budget > 0,
            swapping=swapping,
        )
        found += [spec] * pool.replicas
    return scaled(found, plan)


def _check_overlap(parallel: Parallel) -> None:
    """What is overlapped here are the collectives of tensor parallel ranks with arithmetic."""
    if parallel.tp == 1 or parallel.pp > 1:
        raise UnsupportedError(
            f"plan: policy.overlap with tp = {parallel.tp} and pp = {parallel.pp}; this engine "
            "overlaps the sums of tensor parallel ranks with arithmetic, nothing else; set it to "
            "null, or use tp above 1 and pp = 1"
        )


def _token_bytes(facts: ModelFacts, parallel: Parallel) -> int:
    """KV bytes of a token over all ranks of a replica; more than the model's where ranks copy."""
    if parallel.num_devices == 1:
        return facts.kv_token_bytes
    if parallel.attention_dp != 1 or parallel.ep != 1:
        raise UnsupportedError(
            "plan: this engine cuts replicas by tp and pp only; use attention_dp = ep = 1, or "
            "export the plan"
        )
    numbers = 0
    for rank in range(parallel.num_devices):
        model = build(load_config(facts.folder), dtype=torch.float32, device="meta")
        cut_model(model, _shard(rank, parallel))
        numbers += sum(s.num_heads * (s.key_dim + s.value_dim) for s in model.kv_shapes.values())
    return max(1, numbers * _BYTES[facts.dtype])


def _shard(rank: int, parallel: Parallel) -> Shard:
    stage, tp_rank = divmod(rank, parallel.tp)
    return Shard(tp_rank=tp_rank, tp=parallel.tp, stage=stage, num_stages=parallel.pp)


def _devices(device: str, first: int, num: int) -> list[str]:
    """The devices of ranks ``first`` and on; one CPU serves all.

    Raises:
        UnsupportedError: fewer GPUs are here.
    """
    if device == "cpu":
        return [device] * num
    have = torch.cuda.device_count()
    if first + num > have:
        raise UnsupportedError(
            f"plan: takes {first + num} GPUs or more, {have} are here; lower tp, pp or replicas"
        )
    return [f"cuda:{first + i}" for i in range(num)]


def deploy(
    plan: ServingPlan,
    facts: ModelFacts,
    *,
    kv_bytes: float,
    device: str = "cpu",
    processes: bool = True,
    num_threads: int = 0,
    tokenizer: str = "",
    disk_folder: Path | None = None,
    clock: StepClock | None = None,
    keep: bool = False,
    check_books: bool = False,
    seed: int = 0,
    batch: tuple[Sequence[StepPolicy], ClusterPolicy] | None = None,
    shared_attention: bool = False,
) -> LiveRun:
    """A run that is not started yet. ``processes`` puts each replica into a process of its own;
    without, all run in threads of this one. ``batch``: policies, one a replica, and the router of
    a batch that is known ahead, in place of the plan's. ``shared_attention``: decodes read a prefix
    that they share once."""
    specs = instance_specs(plan, facts, kv_bytes=kv_bytes, clock=clock)
    router = router_for(plan.router, plan.scaling)
    if batch is not None:
        policies, router = batch
        specs = [replace(s, policy=own) for s, own in zip(specs, policies, strict=True)]
    if any(isinstance(spec.policy, NeedsBatch) for spec in specs):
        raise UnsupportedError(
            "plan: policy prefix-groups needs a batch that is known ahead; run `plimsoll batch`, "
            "or serve with another policy"
        )
    setup = WorkerSetup(
        folder=facts.folder,
        num_blocks=0,
        block_tokens=specs[0].block_tokens,
        dtype=facts.dtype,
        device=device,
        num_threads=num_threads,
        max_length=specs[0].max_model_len,
        eos_ids=facts.eos_ids,
        tokenizer=tokenizer,
        shared_attention=shared_attention,
    )

    cuts = [pool.parallel for pool in plan.pools for _ in range(pool.replicas)]
    overlaps = [
        getattr(pool.policy, "overlap", None) for pool in plan.pools for _ in range(pool.replicas)
    ]
    if any(cut.num_devices > 1 for cut in cuts) and not processes:
        raise UnsupportedError("plan: tp and pp above 1 need a process for each rank")

    def start(
        index: int, answer: Callable[[Any], None]
    ) -> LocalWorker | ProcessWorker | GroupWorker:
        spec, cut = specs[index], cuts[index]
        mine = replace(
            setup,
            num_blocks=spec.num_blocks,
            block_tokens=spec.block_tokens,
            overlap=overlaps[index],
            disk_folder=disk_folder and disk_folder / f"worker-{index}",
        )
        if cut.num_devices > 1:
            first = sum(c.num_devices for c in cuts[:index])
            names = _devices(device, first, cut.num_devices)
            ranks = [
                replace(
                    mine, device=name, disk_folder=mine.disk_folder and mine.disk_folder / str(rank)
                )
                for rank, name in enumerate(names)
            ]
            return GroupWorker(ranks, cut.tp, cut.pp, answer)
        if processes:
            return ProcessWorker(mine, answer)
        return LocalWorker(make_runner(mine), answer)

    return LiveRun(
        specs,
        router,
        start,
        eos_ids=facts.eos_ids,
        seed=seed,
        keep=keep,
        check_books=check_books,
    )
