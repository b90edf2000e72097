"""The arguments of one vLLM engine, option by option, and what vLLM V1 cannot express.

Meanings that differ from the plan's: ``--max-num-seqs`` and ``--max-num-batched-tokens`` hold
for each data-parallel rank, so the plan's bounds of a replica are divided; expert parallel is
on or off, over all tensor x data ranks; preemption is by recomputation; a step takes running
requests first, then at most one partial prompt. ``--gpu-memory-utilization`` is the share of
the whole device that weights, activations and KV may take, as in the plan.
Sources: vllm/config/{cache,scheduler,parallel,quantization,kv_transfer}.py and
vllm/distributed/kv_transfer/kv_connector/v1/nixl of vLLM 0.33.0.
"""

import json

from plimsoll.report.export.contract import ExportContext, refuse
from plimsoll.report.export.layout import context_tokens, per_rank
from plimsoll.report.export.shell import Launch
from plimsoll.report.export.site import Site
from plimsoll.spec.dtype import DType
from plimsoll.spec.plan import ChunkedPrefill, Pool, ServingPlan

__all__ = ["KV_DTYPES", "KV_ROLES", "ONLINE", "Arguments", "engine_arguments", "launch"]

Arguments = tuple[tuple[str, str | None], ...]
"""Options in order; None for one without a value."""

KV_DTYPES = {
    DType.BF16: "bfloat16",
    DType.FP16: "float16",
    DType.FP8: "fp8",
    DType.NVFP4: "nvfp4",
}
ONLINE = {
    DType.FP8: "fp8_per_tensor",
    DType.FP8_BLOCK: "fp8_per_block",
    DType.MXFP8: "mxfp8",
    DType.MXFP4: "mxfp4",
}
"""Formats vLLM can quantize a 16-bit checkpoint to while loading, linear layers and experts."""

FLOATS = {DType.BF16: "bfloat16", DType.FP16: "float16", DType.FP32: "float32"}
KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def _budget(pool: Pool, index: int, target: str) -> int:
    where = f"pools[{index}].policy"
    policy = pool.policy
    if not isinstance(policy, ChunkedPrefill):
        refuse(
            target,
            f"{where}.kind",
            policy.kind,
            "vLLM V1 schedules decodes first and prompts in chunks, nothing else",
            "use chunked-prefill",
        )
    if policy.preempt != "recompute":
        refuse(
            target,
            f"{where}.preempt",
            policy.preempt,
            "vLLM V1 preempts by recomputation only",
            "use recompute",
        )
    if policy.max_partial_prefills != 1:
        refuse(
            target,
            f"{where}.max_partial_prefills",
            policy.max_partial_prefills,
            "vLLM V1 fills the budget in order of arrival, so one prompt a step is partial",
            "use 1",
        )
    return per_rank(policy.token_budget, pool, f"{where}.token_budget", target)


def _weights(plan: ServingPlan, context: ExportContext, target: str) -> Arguments:
    wanted, stored = plan.weight_dtype, context.checkpoint_dtype
    if wanted is None or wanted == stored:
        return ()
    if stored is None:
        refuse(
            target,
            "weight_dtype",
            wanted,
            "whether the engine must convert depends on how the checkpoint is stored",
            "give checkpoint_dtype in the context, or leave weight_dtype unset",
        )
    if stored not in FLOATS:
        refuse(
            target,
            "weight_dtype",
            wanted,
            f"vLLM does not convert a checkpoint stored in {stored}",
            f"name a checkpoint stored in {wanted}",
        )
    if wanted in FLOATS:
        return (("--dtype", FLOATS[wanted]),)
    if wanted not in ONLINE:
        refuse(
            target,
            "weight_dtype",
            wanted,
            "vLLM cannot quantize all linear layers to it while loading",
            f"name a checkpoint stored in {wanted}",
        )
    return (("--quantization", ONLINE[wanted]),)


def _parallel(pool: Pool, index: int, site: Site, target: str) -> Arguments:
    parallel = pool.parallel
    ranks = parallel.tp * parallel.attention_dp
    if parallel.ep not in (1, ranks):
        refuse(
            target,
            f"pools[{index}].parallel.ep",
            parallel.ep,
            "vLLM spreads experts over all tensor and data ranks or over none",
            f"use 1 or {ranks}",
        )
    arguments: list[tuple[str, str | None]] = [
        ("--tensor-parallel-size", str(parallel.tp)),
        ("--pipeline-parallel-size", str(parallel.pp)),
        ("--data-parallel-size", str(parallel.attention_dp)),
    ]
    if parallel.ep > 1:
        arguments.append(("--enable-expert-parallel", None))
    if parallel.attention_dp > 1 and site.seat:
        arguments.append(("--data-parallel-rpc-port", str(29550 + site.seat)))
    return tuple(arguments)


def engine_arguments(
    plan: ServingPlan, index: int, context: ExportContext, site: Site, target: str
) -> Arguments:
    """The options of one engine of ``plan.pools[index]``.

    Raises:
        UnsupportedError: a field has no counterpart in vLLM V1.
    """
    pool = plan.pools[index]
    where = f"pools[{index}]"
    if pool.block_tokens % 16:
        refuse(
            target,
            f"{where}.block_tokens",
            pool.block_tokens,
            "the attention kernels take blocks of a multiple of 16 tokens",
            "use 16, 32, 64 or 128",
        )
    if plan.kv_dtype is not None and plan.kv_dtype not in KV_DTYPES:
        refuse(
            target,
            "kv_dtype",
            plan.kv_dtype,
            "vLLM has no KV cache of this format",
            f"use one of {', '.join(KV_DTYPES)}",
        )
    budget = _budget(pool, index, target)
    running = per_rank(pool.max_num_seqs, pool, f"{where}.max_num_seqs", target)
    if running > budget:
        refuse(
            target,
            f"{where}.max_num_seqs",
            pool.max_num_seqs,
            f"vLLM wants a token budget of at least one a request and this one is {budget} a rank",
            "raise token_budget or lower max_num_seqs",
        )
    arguments = [
        ("--served-model-name", context.name),
        *_parallel(pool, index, site, target),
        ("--max-model-len", str(context_tokens(plan, context))),
        ("--max-num-batched-tokens", str(budget)),
        ("--max-num-seqs", str(running)),
        ("--gpu-memory-utilization", repr(pool.memory_fraction)),
        ("--block-size", str(pool.block_tokens)),
        ("--kv-cache-dtype", KV_DTYPES[plan.kv_dtype] if plan.kv_dtype else "auto"),
        *_weights(plan, context, target),
        ("--enable-chunked-prefill", None),
        ("--enable-prefix-caching" if pool.prefix_caching else "--no-enable-prefix-caching", None),
    ]
    if isinstance(pool.policy, ChunkedPrefill) and pool.policy.ahead:
        arguments.append(("--async-scheduling", None))
    if pool.role != "both":
        if pool.parallel.pp > 1:
            refuse(
                target,
                f"{where}.parallel.pp",
                pool.parallel.pp,
                "vLLM's pull connector moves KV between unpipelined engines only",
                "use pp 1, or a colocated plan",
            )
        transfer = {"kv_connector": "NixlConnector", "kv_role": KV_ROLES[pool.role]}
        arguments.append(("--kv-transfer-config", json.dumps(transfer)))
    return tuple(arguments)


def launch(
    plan: ServingPlan, index: int, context: ExportContext, site: Site, target: str
) -> Launch:
    """The process of one engine on one host."""
    env = dict(site.env)
    if plan.pools[index].role != "both":
        env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(5600 + 100 * site.seat)
        if site.own_address:
            env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = site.own_address
    words = ["vllm", "serve", context.model, "--host", "0.0.0.0", "--port", str(site.port)]
    for flag, value in engine_arguments(plan, index, context, site, target):
        words += [flag] if value is None else [flag, value]
    if site.num_hosts > 1:
        words += ["--nnodes", str(site.num_hosts), "--node-rank", site.host_rank]
        words += ["--master-addr", site.head, "--master-port", str(29501 + site.seat)]
        if site.host_rank != "0":
            words.append("--headless")
    return Launch(argv=tuple(words), env=env)
