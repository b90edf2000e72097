"""The arguments of one SGLang engine, option by option, and what SGLang cannot express.

Meanings that differ from the plan's. ``--mem-fraction-static`` is the share that weights and
KV take of the memory that was free before the model loaded; activations and graphs come from
the rest, so the plan's fraction is converted with the memory answer. ``--tp-size`` counts all
devices of a stage, data-parallel attention ranks included. ``--chunked-prefill-size`` and
``--max-running-requests`` are of the whole engine and divided among the ranks by SGLang.
Prompts go first unless ``--enable-mixed-chunk`` joins chunks and decodes in one batch, the
decodes counted in the chunk. Preemption ("retraction") is by recomputation. Sources:
sglang/srt/arg_groups, managers/schedule_policy.py and model_executor of SGLang 0.5.23.
"""

from plimsoll.report.export.contract import ExportContext, PoolFacts, refuse
from plimsoll.report.export.layout import context_tokens, per_rank
from plimsoll.report.export.shell import Launch
from plimsoll.report.export.site import Site
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.plan import ChunkedPrefill, Pool, PrefillFirst, ServingPlan

__all__ = ["bootstrap_port", "engine_arguments", "launch", "static_fraction"]

KV_DTYPES = {
    DType.BF16: "bf16",
    DType.FP8: "fp8_e4m3",
    DType.MXFP8: "mxfp8",
    DType.NVFP4: "nvfp4",
}
FLOATS = {DType.BF16: "bfloat16", DType.FP16: "float16", DType.FP32: "float32"}
ONLINE = {DType.FP8: "fp8", DType.MXFP8: "mxfp8"}


def bootstrap_port(site: Site) -> int:
    """The port of a prefill engine's bootstrap server."""
    return 8998 + site.seat


def static_fraction(pool: Pool, facts: PoolFacts, index: int, target: str) -> float:
    """``--mem-fraction-static`` for the plan's share of the whole device, rounded down.

    Raises:
        UnsupportedError: the memory answer is not known.
        InfeasibleError: no room for KV is left.
    """
    where = f"pools[{index}].memory_fraction"
    if facts.device_memory_bytes <= 0 or facts.weight_bytes <= 0:
        refuse(
            target,
            where,
            pool.memory_fraction,
            "the engine's fraction means something else and is converted with the memory answer",
            "give device_memory_bytes, weight_bytes, activation_bytes and runtime_bytes",
        )
    kv = facts.kv_bytes(pool.memory_fraction)
    if kv <= 0:
        raise InfeasibleError(
            f"export to {target}: {where} = {pool.memory_fraction} leaves no memory for KV after "
            "weights, activations and runtime; raise it or use more devices a replica",
            binding="memory",
        )
    free = facts.device_memory_bytes - facts.runtime_bytes
    return int((facts.weight_bytes + kv) / free * 1e4) / 1e4


def _policy(
    plan: ServingPlan, index: int, context: ExportContext, target: str
) -> tuple[tuple[str, str | None], ...]:
    pool = plan.pools[index]
    where = f"pools[{index}].policy"
    policy = pool.policy
    if not isinstance(policy, (ChunkedPrefill, PrefillFirst)):
        refuse(
            target,
            f"{where}.kind",
            policy.kind,
            "SGLang runs prompts first, or chunks mixed with decodes, nothing else",
            "use chunked-prefill or prefill-first",
        )
    if policy.preempt != "recompute":
        refuse(
            target,
            f"{where}.preempt",
            policy.preempt,
            "SGLang retracts requests and computes them again",
            "use recompute",
        )
    if isinstance(policy, PrefillFirst):
        longest = context_tokens(plan, context)
        if policy.max_batched_tokens < longest:
            refuse(
                target,
                f"{where}.max_batched_tokens",
                policy.max_batched_tokens,
                "SGLang raises a smaller bound to the longest prompt it may get",
                f"use at least the context of {longest}, or chunked-prefill",
            )
        return (
            ("--chunked-prefill-size", "-1"),
            ("--max-prefill-tokens", str(policy.max_batched_tokens)),
        )
    if policy.max_partial_prefills != 1:
        refuse(
            target,
            f"{where}.max_partial_prefills",
            policy.max_partial_prefills,
            "SGLang keeps one chunked prompt at a time",
            "use 1",
        )
    share = per_rank(policy.token_budget, pool, f"{where}.token_budget", target)
    if pool.role != "decode" and share % pool.block_tokens:
        refuse(
            target,
            f"{where}.token_budget",
            policy.token_budget,
            f"a chunk must be whole pages of {pool.block_tokens} tokens",
            "use a multiple of block_tokens",
        )
    arguments: tuple[tuple[str, str | None], ...] = (
        ("--chunked-prefill-size", str(policy.token_budget)),
        ("--max-prefill-tokens", str(policy.token_budget)),
    )
    if pool.role == "both":
        arguments += (("--enable-mixed-chunk", None),)
    return arguments


def _weights(plan: ServingPlan, context: ExportContext, target: str) -> list[tuple[str, str]]:
    wanted, stored = plan.weight_dtype, context.checkpoint_dtype
    if wanted is None or wanted == stored:
        return []
    if stored is None or stored not in FLOATS or (wanted not in FLOATS and wanted not in ONLINE):
        have = "unknown" if stored is None else stored.value
        refuse(
            target,
            "weight_dtype",
            wanted,
            f"SGLang converts 16-bit checkpoints to {', '.join(ONLINE)} while loading and no "
            f"others (the checkpoint's format: {have})",
            f"name a checkpoint stored in {wanted} and its checkpoint_dtype",
        )
    if wanted in FLOATS:
        return [("--dtype", FLOATS[wanted])]
    return [("--quantization", ONLINE[wanted])]


def engine_arguments(
    plan: ServingPlan, index: int, context: ExportContext, site: Site, target: str
) -> tuple[tuple[str, str | None], ...]:
    """The options of one engine of ``plan.pools[index]``.

    Raises:
        UnsupportedError: a field has no counterpart in SGLang.
    """
    pool = plan.pools[index]
    parallel = pool.parallel
    where = f"pools[{index}]"
    ranks = parallel.tp * parallel.attention_dp
    if ranks % parallel.ep:
        refuse(
            target,
            f"{where}.parallel.ep",
            parallel.ep,
            f"experts are spread over a divisor of the {ranks} devices of a stage",
            f"use a divisor of {ranks}",
        )
    if plan.kv_dtype is not None and plan.kv_dtype not in KV_DTYPES:
        refuse(
            target,
            "kv_dtype",
            plan.kv_dtype,
            "SGLang has no KV cache of this format",
            f"use one of {', '.join(KV_DTYPES)}",
        )
    per_rank(pool.max_num_seqs, pool, f"{where}.max_num_seqs", target)
    fraction = static_fraction(pool, context.pools[index], index, target)
    arguments: list[tuple[str, str | None]] = [
        ("--served-model-name", context.name),
        ("--tp-size", str(ranks)),
        ("--pp-size", str(parallel.pp)),
        ("--ep-size", str(parallel.ep)),
        ("--dp-size", str(parallel.attention_dp)),
    ]
    if parallel.attention_dp > 1:
        arguments.append(("--enable-dp-attention", None))
    arguments += [
        ("--context-length", str(context_tokens(plan, context))),
        ("--max-running-requests", str(pool.max_num_seqs)),
        ("--mem-fraction-static", repr(fraction)),
        ("--page-size", str(pool.block_tokens)),
        ("--kv-cache-dtype", KV_DTYPES[plan.kv_dtype] if plan.kv_dtype else "auto"),
        *_weights(plan, context, target),
        ("--schedule-policy", "fcfs"),
        *_policy(plan, index, context, target),
    ]
    if not pool.prefix_caching:
        arguments.append(("--disable-radix-cache", None))
    if pool.role != "both":
        arguments += [
            ("--disaggregation-mode", pool.role),
            ("--disaggregation-transfer-backend", "nixl"),
            ("--disaggregation-bootstrap-port", str(bootstrap_port(site))),
        ]
        if pool.role == "decode" and pool.prefix_caching:
            arguments.append(("--disaggregation-decode-enable-radix-cache", None))
    return tuple(arguments)


def launch(
    plan: ServingPlan, index: int, context: ExportContext, site: Site, target: str
) -> Launch:
    """The process of one engine on one host."""
    words = ["python", "-m", "sglang.launch_server", "--model-path", context.model]
    words += ["--host", "0.0.0.0", "--port", str(site.port)]
    for flag, value in engine_arguments(plan, index, context, site, target):
        words += [flag] if value is None else [flag, value]
    if site.num_hosts > 1:
        words += ["--nnodes", str(site.num_hosts), "--node-rank", site.host_rank]
        words += ["--dist-init-addr", site.meeting_point(20000 + site.seat)]
    return Launch(argv=tuple(words), env=dict(site.env))
