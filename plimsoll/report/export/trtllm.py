"""TensorRT-LLM: the YAML of each pool for ``trtllm-serve``, start lines, the front.

Meanings that differ from the plan's. ``free_gpu_memory_fraction`` is the share for KV of what
is *free* once weights, activations and runtime are there, so the plan's share of the whole
device is converted with the memory answer. Attention data parallelism is all or nothing over
``tensor_parallel_size``, and then ``max_batch_size`` and ``max_num_tokens`` hold for each rank.
Requests past KV capacity queue without a word. MAX_UTILIZATION admits like the plan's policy
and pauses requests (KV computed again) when memory runs out. Several colocated engines stand
behind nginx, which knows round robin and fewest connections; a disaggregated plan behind
``trtllm-serve disaggregated``, which balances tokens.
Sources: documentation and examples of TensorRT-LLM 1.2 (llmapi/llm_args.py, examples/disaggregated,
serve/router.py), nginx ngx_http_upstream_module.
"""

from typing import Any

from plimsoll.report.export import site as sites
from plimsoll.report.export.bare_hosts import check_engine, host_scripts
from plimsoll.report.export.contract import ExportContext, ExportedFile, PoolFacts, refuse
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import (
    Instance,
    check_plan,
    context_tokens,
    front_port,
    hosts_per_replica,
    per_rank,
    place,
    pool_names,
)
from plimsoll.report.export.sglang_arguments import static_fraction
from plimsoll.report.export.shell import Launch, script
from plimsoll.report.export.yaml_text import mapping
from plimsoll.spec.dtype import DType
from plimsoll.spec.plan import (
    ChunkedPrefill,
    LeastWorkRouter,
    Pool,
    PrefixAffineRouter,
    RoundRobinRouter,
    ServingPlan,
)

__all__ = ["VERSIONS", "engine_settings", "export", "free_fraction", "launch"]

VERSIONS = ("TensorRT-LLM 1.2.1",)
KV_DTYPES = {DType.FP8: "fp8", DType.NVFP4: "nvfp4"}


def free_fraction(pool: Pool, facts: PoolFacts, index: int, target: str) -> float:
    """``free_gpu_memory_fraction`` for the plan's share of the whole device, rounded down.

    Raises:
        UnsupportedError: the memory answer is not known.
        InfeasibleError: no room for KV is left.
    """
    static_fraction(pool, facts, index, target)
    free = facts.kv_bytes(1.0)
    return int(facts.kv_bytes(pool.memory_fraction) / free * 1e4) / 1e4


def _budget(pool: Pool, index: int, target: str) -> int:
    where = f"pools[{index}].policy"
    policy = pool.policy
    if not isinstance(policy, ChunkedPrefill):
        refuse(
            target,
            f"{where}.kind",
            policy.kind,
            "in-flight batching runs decodes first and then prompts under one token limit",
            "use chunked-prefill",
        )
    for name, found, only in (
        ("preempt", policy.preempt, "recompute"),
        ("max_partial_prefills", policy.max_partial_prefills, 1),
    ):
        if found != only:
            refuse(target, f"{where}.{name}", found, "not a setting of this engine", f"use {only}")
    return per_rank(policy.token_budget, pool, f"{where}.token_budget", target)


def _check(plan: ServingPlan, index: int, context: ExportContext, target: str) -> None:
    pool, parallel = plan.pools[index], plan.pools[index].parallel
    where = f"pools[{index}]"
    if context.name != context.model:
        refuse(
            target,
            "served_name",
            context.name,
            "trtllm-serve names the model after what it loads",
            "leave served_name empty",
        )
    if parallel.attention_dp > 1 and parallel.tp > 1:
        refuse(
            target,
            f"{where}.parallel.tp",
            f"{parallel.tp} with attention_dp {parallel.attention_dp}",
            "attention is split by width or by request over all devices, not both",
            "use tp 1 with attention_dp, or attention_dp 1",
        )
    if (parallel.tp * parallel.attention_dp) % parallel.ep:
        refuse(
            target,
            f"{where}.parallel.ep",
            parallel.ep,
            "expert and tensor parallel degrees of the experts multiply to all devices",
            f"use a divisor of {parallel.tp * parallel.attention_dp}",
        )
    if plan.weight_dtype is not None and plan.weight_dtype != context.checkpoint_dtype:
        refuse(
            target,
            "weight_dtype",
            plan.weight_dtype,
            "the engine runs a checkpoint in the format it is stored in",
            f"name a checkpoint stored in {plan.weight_dtype} and its checkpoint_dtype",
        )
    if plan.kv_dtype is not None and plan.kv_dtype not in KV_DTYPES:
        refuse(
            target,
            "kv_dtype",
            plan.kv_dtype,
            "the engine takes the checkpoint's own KV format or one of the quantized ones",
            f"leave it unset or use one of {', '.join(KV_DTYPES)}",
        )
    if pool.block_tokens < 8 or pool.block_tokens & (pool.block_tokens - 1):
        refuse(
            target,
            f"{where}.block_tokens",
            pool.block_tokens,
            "tokens_per_block must be a power of two of at least 8",
            "use 32 or 64",
        )
    if hosts_per_replica(pool, context.pools[index], index, target) > 1:
        refuse(
            target,
            f"{where}.parallel",
            f"{parallel.num_devices} devices a replica",
            "an engine over several hosts needs an MPI launcher of the cluster",
            "keep a replica within a host, or use the vllm, sglang or kubernetes target",
        )


def engine_settings(
    plan: ServingPlan, index: int, context: ExportContext, target: str
) -> dict[str, Any]:
    """The YAML content for one engine of ``plan.pools[index]``.

    Raises:
        UnsupportedError: a field has no counterpart in TensorRT-LLM.
    """
    _check(plan, index, context, target)
    pool, parallel = plan.pools[index], plan.pools[index].parallel
    ranks = parallel.tp * parallel.attention_dp
    settings: dict[str, Any] = {
        "backend": "pytorch",
        "tensor_parallel_size": ranks,
        "pipeline_parallel_size": parallel.pp,
        "moe_expert_parallel_size": parallel.ep,
        "moe_tensor_parallel_size": ranks // parallel.ep,
        "enable_attention_dp": parallel.attention_dp > 1,
        "max_batch_size": per_rank(pool.max_num_seqs, pool, f"pools[{index}].max_num_seqs", target),
        "max_num_tokens": _budget(pool, index, target),
        "max_seq_len": context_tokens(plan, context),
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            "free_gpu_memory_fraction": free_fraction(pool, context.pools[index], index, target),
            "enable_block_reuse": pool.prefix_caching,
            "tokens_per_block": pool.block_tokens,
            "dtype": KV_DTYPES[plan.kv_dtype] if plan.kv_dtype else "auto",
        },
        "scheduler_config": {
            "capacity_scheduler_policy": "MAX_UTILIZATION",
            "context_chunking_policy": "FIRST_COME_FIRST_SERVED",
        },
    }
    if pool.role == "prefill":
        settings["disable_overlap_scheduler"] = True
    if pool.role != "both":
        settings["cache_transceiver_config"] = {
            "backend": "NIXL",
            "max_tokens_in_buffer": context_tokens(plan, context),
        }
    return settings


def launch(context: ExportContext, config: str, port: int, env: dict[str, str]) -> Launch:
    """The process of one engine, its settings in the file ``config``."""
    words = ["trtllm-serve", context.model, "--host", "0.0.0.0", "--port", str(port)]
    words += ["--extra_llm_api_options", config]
    return Launch(argv=tuple(words), env=env)


def _authority(instance: Instance, num_hosts: int) -> str:
    host = "127.0.0.1" if num_hosts == 1 else f"HOST_{instance.hosts[0]}"
    return f"{host}:{instance.port}"


def _nginx(plan: ServingPlan, servers: list[str]) -> str:
    if isinstance(plan.router, PrefixAffineRouter):
        refuse(
            "trtllm",
            "router.kind",
            plan.router.kind,
            "no router that knows prefixes stands before colocated engines of this target",
            "use least-work or round-robin, or the vllm or sglang engine",
        )
    rule = "" if isinstance(plan.router, RoundRobinRouter) else "    least_conn;\n"
    lines = "".join(f"    server {server} max_fails=0;\n" for server in servers)
    return (
        "events {}\nhttp {\n  upstream engines {\n"
        + rule
        + lines
        + "  }\n  server {\n"
        + f"    listen {front_port()};\n"
        + "    client_max_body_size 0;\n    location / {\n"
        + "      proxy_pass http://engines;\n      proxy_http_version 1.1;\n"
        + "      proxy_buffering off;\n      proxy_read_timeout 1h;\n"
        + "    }\n  }\n}\n"
    )


def _disaggregated(plan: ServingPlan, places: dict[str, list[str]]) -> dict[str, Any]:
    def side(role: str) -> dict[str, Any]:
        return {
            "num_instances": len(places[role]),
            "urls": places[role],
            "router": {"type": "load_balancing", "use_tokens": True},
        }

    return {
        "hostname": "0.0.0.0",
        "port": front_port(),
        "backend": "pytorch",
        "context_servers": side("prefill"),
        "generation_servers": side("decode"),
    }


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """The files of a deployment on bare hosts.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, "trtllm")
    check_engine(plan, "trtllm", "trtllm")
    names = pool_names(plan)
    settings = [engine_settings(plan, i, context, "trtllm") for i in range(len(plan.pools))]
    instances = place(plan, context, "trtllm")
    num_hosts = 1 + max(max(i.hosts) for i in instances)
    launches: dict[int, list[Launch]] = {}
    places: dict[str, list[str]] = {"both": [], "prefill": [], "decode": []}
    for instance in instances:
        vendor = context.pools[instance.pool_index].vendor
        at = sites.of_instance(instance, instance.hosts[0], num_hosts, vendor)
        process = launch(context, f"{names[instance.pool_index]}.yaml", at.port, dict(at.env))
        launches.setdefault(instance.hosts[0], []).append(process)
        places[plan.pools[instance.pool_index].role].append(_authority(instance, num_hosts))
    top = header(plan, "Start the TensorRT-LLM engines.", VERSIONS)
    files = host_scripts(top, launches, num_hosts)
    for index, name in enumerate(names):
        share = settings[index]["kv_cache_config"]["free_gpu_memory_fraction"]
        top = header(plan, f"For trtllm-serve, one engine of pool {name}.", VERSIONS)
        top += (
            f"free_gpu_memory_fraction {share!r} is of the memory free beside weights, activations "
            f"and runtime; the plan takes {plan.pools[index].memory_fraction!r} of the device.",
        )
        files.append(
            ExportedFile(name=f"{name}.yaml", text=comment(top) + mapping(settings[index]))
        )
    if num_hosts > 1:
        where: tuple[str, ...] = (
            "Replace each HOST_n by the address of that host (sed -i s/HOST_0/ADDRESS/).",
        )
    else:
        where = ()
    if places["prefill"]:
        top = header(plan, "For trtllm-serve disaggregated -c, on host 0.", VERSIONS) + where
        text = comment(top) + mapping(_disaggregated(plan, places))
        files.append(ExportedFile(name="disaggregated.yaml", text=text))
        front = Launch(argv=("trtllm-serve", "disaggregated", "-c", "disaggregated.yaml"))
        top = header(plan, "Start the front of the disaggregated engines.", VERSIONS)
        files.append(
            ExportedFile(name="router.sh", text=script(comment(top), [front]), executable=True)
        )
    elif len(instances) > 1:
        top = header(plan, "For nginx -c, on host 0.", (*VERSIONS, "nginx 1.18 and later"))
        if isinstance(plan.router, LeastWorkRouter):
            top += ("Load is counted in open requests here; the plan counts tokens to process.",)
        files.append(
            ExportedFile(
                name="nginx.conf", text=comment(top + where) + _nginx(plan, places["both"])
            )
        )
    return tuple(files)
