"""The deeper settings of a search, as ``--set name=value`` spells them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from plimsoll.planning.objective import Objective
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.policy_variants import chosen
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.plan import (
    ChunkedPrefill,
    OrcaConfig,
    PrefillFirst,
    SplitFuse,
    StepPolicyConfig,
)
from plimsoll.spec.units import parse_count, parse_quantity

__all__ = ["SETTINGS", "objective_option", "space_options"]

OBJECTIVES: tuple[Objective, ...] = ("goodput", "cost", "energy", "latency")
_POLICIES: dict[str, StepPolicyConfig] = {
    "orca": OrcaConfig(),
    "prefill-first": PrefillFirst(),
    "chunked-prefill": ChunkedPrefill(),
    "splitfuse": SplitFuse(),
}


def _dtypes(text: str, where: str) -> tuple[DType | None, ...]:
    found: list[DType | None] = []
    for word in text.split(","):
        if word in ("own", "checkpoint"):
            found.append(None)
        elif word in [dtype.value for dtype in DType]:
            found.append(DType(word))
        else:
            raise SpecError(
                f"{where}: unknown number format {word!r}; expected own (the checkpoint's), "
                f"{', '.join(dtype.value for dtype in DType)}"
            )
    return tuple(found)


def _counts(text: str, where: str) -> tuple[int, ...]:
    return tuple(parse_count(word, where=where) for word in text.split(","))


def _choice(known: Sequence[str]) -> Callable[[str, str], tuple[str, ...]]:
    def read(text: str, where: str) -> tuple[str, ...]:
        words = tuple(text.split(","))
        for word in words:
            if word not in known:
                raise SpecError(
                    f"{where}: unknown {word!r}; expected {', '.join(known)}.{suggest(word, known)}"
                )
        return words

    return read


def _switch(text: str, where: str) -> bool:
    if text not in ("on", "off"):
        raise SpecError(f"{where}: {text!r} is neither on nor off")
    return text == "on"


def _fraction(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise SpecError(f"{where}: {text!r} is not a fraction above 0 and at most 1")
    return value


def _streams(text: str, where: str) -> int:
    streams = parse_count(text, where=where)
    if streams < 1:
        raise SpecError(f"{where}: {streams} streams; expected 1 or more")
    return streams


SETTINGS: dict[str, str] = {
    "weights": "weight formats to try, as in own,fp8",
    "kv": "KV cache formats to try, as in own,fp8",
    "engine": "vllm, sglang or trtllm",
    "modes": "aggregated, disaggregated or both, comma between",
    "policy": "step policies to try: " + ", ".join(_POLICIES),
    "policies": "try the best plans under others too: all, or names as compare --policies has them",
    "token_budget": "token budgets to try, as in 2048,8192",
    "max_num_seqs": "batch limits to try, as in 64,256",
    "gpus": "use at most that many devices",
    "include": "only these devices of the fleet",
    "exclude": "not these devices of the fleet",
    "max_model_len": "longest request, as in 16k",
    "memory_fraction": "share of device memory the engine may take",
    "prefix_caching": "on or off",
    "streams": "parallel streams that the weights were trained for, as in 4",
    "workers": "processes or ray",
}
"""Every name ``--set`` takes, and what it means."""


def space_options(
    settings: Sequence[str], *, power: str | None = None, budget: str | None = None
) -> tuple[SpaceOptions, bool]:
    """The plan space that the options describe, and whether to search on Ray.

    Raises:
        SpecError: an unknown name, a bad value, a name given twice.
    """
    changes: dict[str, Any] = {}
    ray = False
    seen: set[str] = set()
    for item in settings:
        name, equals, text = item.partition("=")
        where = f"--set {name}"
        if not equals or not text:
            raise SpecError(f"--set {item!r}: expected name=value, as in weights=fp8")
        if name not in SETTINGS:
            raise SpecError(
                f"--set {name}: unknown; expected {', '.join(SETTINGS)}.{suggest(name, SETTINGS)}"
            )
        if name in seen:
            raise SpecError(f"--set {name}: given twice; use a comma between values")
        seen.add(name)
        if name in ("weights", "kv"):
            key = "weight_dtypes" if name == "weights" else "kv_dtypes"
            changes[key] = _dtypes(text, where)
        elif name == "engine":
            changes["engine"] = _choice(("vllm", "sglang", "trtllm"))(text, where)[0]
        elif name == "modes":
            changes["modes"] = _choice(("aggregated", "disaggregated"))(text, where)
        elif name == "policy":
            kinds = _choice(tuple(_POLICIES))(text, where)
            changes["policies"] = tuple(_POLICIES[kind] for kind in kinds)
        elif name == "policies":
            changes["varied"] = chosen(text, where)
            changes["any_engine"] = text.strip() != "all"
        elif name == "token_budget":
            changes["budgets"] = _counts(text, where)
        elif name == "max_num_seqs":
            changes["max_num_seqs"] = _counts(text, where)
        elif name == "gpus":
            changes["max_devices"] = parse_count(text, where=where)
            if not changes["max_devices"]:
                raise SpecError(f"{where}: zero devices carry nothing")
        elif name in ("include", "exclude"):
            changes[name] = tuple(text.split(","))
        elif name == "streams":
            changes["streams"] = _streams(text, where)
        elif name == "max_model_len":
            changes["max_model_len"] = parse_count(text, where=where)
        elif name == "memory_fraction":
            changes["memory_fraction"] = _fraction(text, where)
        elif name == "prefix_caching":
            changes["prefix_caching"] = _switch(text, where)
        else:
            ray = _choice(("processes", "ray"))(text, where)[0] == "ray"
    if power is not None:
        changes["power_w"] = parse_quantity(power, "power", where="--power")
    if budget is not None:
        changes["usd_per_hour"] = parse_quantity(budget, "price", where="--budget")
    for name in ("power_w", "usd_per_hour"):
        if changes.get(name) == 0:
            raise SpecError(f"--{'power' if name == 'power_w' else 'budget'}: zero carries nothing")
    return replace(SpaceOptions(), **changes), ray


def objective_option(text: str) -> Objective:
    """An objective by name."""
    for objective in OBJECTIVES:
        if objective == text:
            return objective
    raise SpecError(
        f"--objective: unknown {text!r}; expected {', '.join(OBJECTIVES)}."
        + suggest(text, OBJECTIVES)
    )
