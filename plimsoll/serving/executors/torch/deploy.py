"""From a plan and a model folder to a run that can start: instances, workers, memory.

KV memory of a worker is stated in bytes and cut into blocks. What the real engine cannot do of a
plan is refused before anything starts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plimsoll.cost.clock import LinearClock, StepClock
from plimsoll.models.loading import build, load_config
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.worker import (
    LocalWorker,
    ProcessWorker,
    WorkerSetup,
    make_runner,
)
from plimsoll.serving.simulate.run import batched_tokens, policy_for, router_for
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import ServingPlan

__all__ = ["ModelFacts", "deploy", "instance_specs", "model_facts"]

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


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
        UnsupportedError: the plan cuts a replica over several devices.
        SpecError: the memory does not hold one request.
    """
    found: list[InstanceSpec] = []
    max_len = min(plan.max_model_len or facts.max_context, facts.max_context)
    for pool in plan.pools:
        if pool.parallel.num_devices != 1:
            raise UnsupportedError(
                f"plan: a pool cuts a replica over {pool.parallel.num_devices} devices; this "
                "engine runs tp = pp = 1, use more replicas or export the plan"
            )
        blocks = int(kv_bytes // (facts.kv_token_bytes * pool.block_tokens))
        if blocks < 2:
            raise SpecError(
                f"KV memory of {kv_bytes:,.0f} bytes holds {blocks} blocks of "
                f"{pool.block_tokens} tokens at {facts.kv_token_bytes:,} bytes a token; give more"
            )
        blocks = min(blocks, -(-(max_len + 1) // pool.block_tokens) * pool.max_num_seqs)
        budget = batched_tokens(pool, max_len)
        spec_clock = clock or LinearClock(step_base_s=1e-3, token_s=1e-6)
        spec = InstanceSpec(
            role=pool.role,
            clock=spec_clock,
            policy=policy_for(pool, spec_clock),
            num_blocks=blocks,
            block_tokens=pool.block_tokens,
            host_blocks=blocks,
            max_num_seqs=pool.max_num_seqs,
            max_model_len=max_len,
            prefix_caching=pool.prefix_caching and not facts.has_states and budget > 0,
        )
        found += [spec] * pool.replicas
    return found


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
) -> LiveRun:
    """A run that is not started yet. ``processes`` puts each replica into a process of its own;
    without, all run in threads of this one."""
    specs = instance_specs(plan, facts, kv_bytes=kv_bytes, clock=clock)
    setup = WorkerSetup(
        folder=facts.folder,
        num_blocks=0,
        block_tokens=specs[0].block_tokens,
        dtype=facts.dtype,
        device=device,
        num_threads=num_threads,
        eos_ids=facts.eos_ids,
        tokenizer=tokenizer,
    )

    def start(index: int, answer: Callable[[Any], None]) -> LocalWorker | ProcessWorker:
        spec = specs[index]
        mine = replace(
            setup,
            num_blocks=spec.num_blocks,
            block_tokens=spec.block_tokens,
            disk_folder=disk_folder and disk_folder / f"worker-{index}",
        )
        if processes:
            return ProcessWorker(mine, answer)
        return LocalWorker(make_runner(mine), answer)

    return LiveRun(
        specs,
        router_for(plan.router),
        start,
        eos_ids=facts.eos_ids,
        seed=seed,
        keep=keep,
        check_books=check_books,
    )
