"""vLLM: ``vllm serve`` lines for each host, a YAML configuration for each pool, the router.

``parse_vllm`` reads the scripts back into the plan's fields.
"""

import argparse
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from plimsoll.report.export import site as sites
from plimsoll.report.export.bare_hosts import check_engine, host_scripts, url_of
from plimsoll.report.export.contract import ExportContext, ExportedFile
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import (
    check_plan,
    front_port,
    place,
    pool_names,
)
from plimsoll.report.export.routing import VLLM_ROUTER, router_notes, vllm_router
from plimsoll.report.export.shell import Launch, command, script
from plimsoll.report.export.vllm_arguments import (
    KV_DTYPES,
    KV_ROLES,
    ONLINE,
    engine_arguments,
    launch,
)
from plimsoll.report.export.yaml_text import mapping
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.plan import ChunkedPrefill, Parallel, Pool, ServingPlan

__all__ = ["VERSIONS", "ParsedDeployment", "export", "parse_vllm", "serve_command"]

VERSIONS = ("vLLM 0.33.0", VLLM_ROUTER)


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """The files of a deployment on bare hosts.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, "vllm")
    check_engine(plan, "vllm", "vllm")
    instances = place(plan, context, "vllm")
    num_hosts = 1 + max(max(i.hosts) for i in instances)
    launches: dict[int, list[Launch]] = {}
    for instance in instances:
        for host in instance.hosts:
            vendor = context.pools[instance.pool_index].vendor
            at = sites.of_instance(instance, host, num_hosts, vendor)
            process = launch(plan, instance.pool_index, context, at, "vllm")
            launches.setdefault(host, []).append(process)
    files = host_scripts(header(plan, "Start the vLLM engines.", VERSIONS), launches, num_hosts)
    for index, name in enumerate(pool_names(plan)):
        top = header(plan, f"For vllm serve --config, one engine of pool {name}.", VERSIONS)
        data: dict[str, Any] = {"model": context.model}
        for flag, value in engine_arguments(plan, index, context, sites.Site(), "vllm"):
            name_or_value = context.name if flag == "--served-model-name" else _scalar(value)
            data[flag.removeprefix("--")] = name_or_value
        files.append(ExportedFile(name=f"{name}.yaml", text=comment(top) + mapping(data)))
    if len(instances) > 1:
        urls: dict[str, list[str]] = {"both": [], "prefill": [], "decode": []}
        for instance in instances:
            urls[plan.pools[instance.pool_index].role].append(url_of(instance, num_hosts))
        process = vllm_router(
            plan,
            port=front_port(),
            engines=urls["both"] + urls["decode"],
            prefill=urls["prefill"],
        )
        top = header(plan, "Start the router, on host 0.", VERSIONS) + router_notes(plan)
        text = script(comment(top), [process], needs=sites.script_needs(num_hosts))
        files.append(ExportedFile(name="router.sh", text=text, executable=True))
    return tuple(files)


def serve_command(plan: ServingPlan, context: ExportContext, pool_index: int = 0) -> str:
    """The one ``vllm serve`` command of an engine, for showing beside a plan.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, "vllm")
    check_engine(plan, "vllm", "vllm")
    return command(launch(plan, pool_index, context, sites.Site(), "vllm"))


def _scalar(value: str | None) -> Any:
    """A value as YAML should hold it: numbers and JSON as such, an option without one True."""
    try:
        return True if value is None else json.loads(value)
    except json.JSONDecodeError:
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDeployment:
    """What the start scripts say, in the plan's terms. ``online`` is the online format."""

    model: str
    served_name: str
    max_model_len: int
    kv_dtype: DType | None
    online: DType | None
    pools: tuple[Pool, ...]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("model")
    for flag in ("tensor", "pipeline", "data"):
        parser.add_argument(f"--{flag}-parallel-size", type=int, required=True)
    for flag in ("max-model-len", "max-num-batched-tokens", "max-num-seqs", "block-size"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, required=True)
    parser.add_argument("--enable-expert-parallel", action="store_true")
    parser.add_argument("--enable-chunked-prefill", action="store_true", required=True)
    parser.add_argument(
        "--enable-prefix-caching", action=argparse.BooleanOptionalAction, required=True
    )
    parser.add_argument("--async-scheduling", action="store_true")
    for flag in ("served-model-name", "kv-cache-dtype"):
        parser.add_argument(f"--{flag}", required=True)
    for flag in ("quantization", "dtype", "kv-transfer-config", "host", "port", "nnodes"):
        parser.add_argument(f"--{flag}")
    for flag in ("node-rank", "master-addr", "master-port", "data-parallel-rpc-port"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--headless", action="store_true")
    return parser


def _commands(texts: Iterable[str]) -> Iterable[list[str]]:
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            if "vllm serve " in line and not line.lstrip().startswith("#"):
                words = [w for w in shlex.split(line) if w != "&"]
                yield words[words.index("serve") + 1 :]


def parse_vllm(texts: Iterable[str], *, device: str) -> ParsedDeployment:
    """Read start scripts back; equal neighbors become replicas of one pool.

    Raises:
        SpecError: no command, an option this exporter does not write, or two models.
    """
    pools: list[Pool] = []
    seen: set[tuple[Any, ...]] = set()
    for words in _commands(texts):
        try:
            a, unknown = _parser().parse_known_args(words)
        except argparse.ArgumentError as error:
            raise SpecError(f"vllm serve command: {error}") from None
        if unknown:
            raise SpecError(f"vllm serve command: unknown {' '.join(unknown)}")
        if a.headless:
            continue
        ranks = a.data_parallel_size
        transfer = json.loads(a.kv_transfer_config) if a.kv_transfer_config else {}
        roles = {v: k for k, v in KV_ROLES.items()}
        pool = Pool(
            role=roles.get(transfer.get("kv_role"), "both"),  # type: ignore[arg-type]
            device=device,
            parallel=Parallel(
                tp=a.tensor_parallel_size,
                pp=a.pipeline_parallel_size,
                attention_dp=ranks,
                ep=a.tensor_parallel_size * ranks if a.enable_expert_parallel else 1,
            ),
            policy=ChunkedPrefill(
                token_budget=a.max_num_batched_tokens * ranks, ahead=bool(a.async_scheduling)
            ),
            max_num_seqs=a.max_num_seqs * ranks,
            memory_fraction=a.gpu_memory_utilization,
            block_tokens=a.block_size,
            prefix_caching=a.enable_prefix_caching,
        )
        kv = {v: k for k, v in KV_DTYPES.items()}.get(a.kv_cache_dtype)
        floats = {"bfloat16": DType.BF16, "float16": DType.FP16, "float32": DType.FP32}
        online = {v: k for k, v in ONLINE.items()}.get(a.quantization) or floats.get(a.dtype)
        seen.add((a.model, a.served_model_name, a.max_model_len, kv, online))
        if pools and replace(pools[-1], replicas=1) == pool:
            pools[-1] = replace(pool, replicas=pools[-1].replicas + 1)
        else:
            pools.append(pool)
    if len(seen) != 1:
        raise SpecError(f"found vllm serve commands of {len(seen)} deployments; expected one")
    ((model, name, length, kv, online),) = seen
    return ParsedDeployment(
        model=model,
        served_name=name,
        max_model_len=length,
        kv_dtype=kv,
        online=online,
        pools=tuple(pools),
    )
