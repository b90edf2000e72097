"""What an engine can be started with, so that no plan is recommended which will not start.

The facts of each engine are in ``library/engine_limits.yaml``; here they become reasons in
words to skip a shape, a number format or a step policy. A host is what one operating system
sees: a node, or a tray of four devices in a rack-wide domain. Exporters refuse the same
things by field; a test holds the two together. Leaves out: limits of one release that a plan
has no field for.
Source: as stated for each engine in the data file.
"""

import functools
import importlib.resources
from collections.abc import Sequence

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from plimsoll.planning.parallel_shapes import Site
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel, PrefillFirst, ServingPlan, StepPolicyConfig

__all__ = [
    "EngineLimits",
    "arithmetic_limit",
    "devices_per_host",
    "engine_lacks",
    "engine_limits",
    "format_limit",
    "handover_limit",
    "runnable_policies",
    "shape_limit",
    "stored_format",
]

_FLOATS = (DType.BF16, DType.FP16, DType.FP32)
_RACK_DEVICES = 16
_TRAY_DEVICES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """One engine's entry of the data file, which says what each field means."""

    policies: tuple[str, ...]
    handover_stages: int
    width_and_ranks: bool
    one_host: bool
    whole_prompts: bool
    online_weights: tuple[DType, ...]
    kv_formats: tuple[DType, ...]
    widens_on: tuple[str, ...]
    vendors: tuple[str, ...]
    swaps: bool
    moves_running: bool
    source: str


@functools.cache
def engine_limits(engine: str) -> EngineLimits:
    """What the engine runs, from the data file."""
    path = importlib.resources.files("plimsoll") / "library" / "engine_limits.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return TypeAdapter(EngineLimits).validate_python(content[engine])


def stored_format(model: ModelSpec) -> DType:
    """The format of the checkpoint's weights; of a quantized one, that of its smallest."""
    q = model.quantization
    if q.method == "none":
        return q.ffn
    return min((q.ffn, q.experts, q.mixer), key=lambda dtype: dtype.bits)


def devices_per_host(site: Site) -> int:
    """Devices one operating system sees on this part of a fleet."""
    full = site.device.devices_per_node
    return min(_TRAY_DEVICES if full > _RACK_DEVICES else full, max(site.nodes))


def format_limit(
    engine: str, model: ModelSpec, weight_dtype: DType | None, kv_dtype: DType | None
) -> str:
    """Why the engine cannot serve the checkpoint in these formats, or ""."""
    limits, stored = engine_limits(engine), stored_format(model)
    makes = limits.online_weights if stored in _FLOATS else ()
    if weight_dtype not in (None, stored, *makes):
        return (
            f"{engine} does not make {weight_dtype} weights of a checkpoint stored in {stored}; "
            f"name a checkpoint stored in {weight_dtype}"
        )
    if kv_dtype is not None and kv_dtype not in limits.kv_formats:
        return f"{engine} has no setting for a KV cache of {kv_dtype.value}"
    return ""


def arithmetic_limit(engine: str, device: Device, weight_dtype: DType | None) -> str:
    """Why the device cannot multiply weights of this format under the engine, or ""."""
    if weight_dtype is None or weight_dtype.math in device.peak_flops_per_s:
        return ""
    if device.family in engine_limits(engine).widens_on:
        return ""
    return f"{device.name} does not multiply {weight_dtype}, and {engine} does not widen it there"


def shape_limit(engine: str, site: Site, parallel: Parallel) -> str:
    """Why the engine cannot start a replica cut like this on these devices, or ""."""
    limits, host = engine_limits(engine), devices_per_host(site)
    if limits.vendors and site.device.vendor.lower() not in limits.vendors:
        return f"{engine} runs on devices of {', '.join(limits.vendors)} only"
    if parallel.attention_dp > 1 and parallel.tp > 1 and not limits.width_and_ranks:
        return f"{engine} splits attention by width or by request, not both"
    if parallel.num_devices > host:
        if limits.one_host:
            return f"{engine} is started here on one host of {host} devices a replica"
        if parallel.num_devices % host:
            return f"a replica over several hosts would leave one of {host} devices partly used"
    return ""


def handover_limit(engine: str, parallel: Parallel) -> str:
    """Why such a replica can neither hand KV over nor take it, or ""."""
    most = engine_limits(engine).handover_stages
    if most and parallel.pp > most:
        return f"disaggregated with pp above {most}, which {engine} cannot move KV between"
    return ""


def engine_lacks(plan: ServingPlan) -> str:
    """What the plan's policies ask of its engine that it has no setting for, or ""."""
    if plan.engine == "plimsoll":
        return ""
    limits = engine_limits(plan.engine)
    for pool in plan.pools:
        if pool.policy.kind not in limits.policies:
            return f"{plan.engine} does not run {pool.policy.kind}"
        if getattr(pool.policy, "preempt", "recompute") == "swap" and not limits.swaps:
            return f"{plan.engine} recomputes what it preempts and does not swap"
    if getattr(plan.router, "migrate", False) and not limits.moves_running:
        return f"{plan.engine} does not move running requests between replicas"
    return ""


def runnable_policies(
    engine: str, policies: Sequence[StepPolicyConfig], longest_tokens: int
) -> tuple[StepPolicyConfig, ...]:
    """Those of the policies that the engine has settings for.

    ``longest_tokens`` is the longest sequence that the engine is started for.

    Raises:
        UnsupportedError: none of them.
    """
    limits = engine_limits(engine)
    known = [p for p in policies if p.kind in limits.policies]
    if not known:
        asked = ", ".join(dict.fromkeys(p.kind for p in policies))
        raise UnsupportedError(
            f"{engine} does not run {asked}; it runs {', '.join(limits.policies)}. "
            "Choose among these, or another engine"
        )
    found = tuple(
        p
        for p in known
        if not isinstance(p, PrefillFirst)
        or limits.whole_prompts
        or p.max_batched_tokens >= longest_tokens
    )
    if not found:
        raise UnsupportedError(
            f"{engine} runs prompts first and whole only with a token budget of the longest "
            f"sequence, {longest_tokens:,} tokens; raise the budget, lower the longest request "
            "(max_model_len), or use chunked-prefill"
        )
    return found
