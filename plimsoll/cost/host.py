"""What an engine adds to its kernels: host time of a step and of a request, and step by step.

Host time of a step = per step + per sequence in it + once where prompts run; the share that the
engine hides behind the device's work is already taken off. Older engines launch the kernels of
prompts one by one, which sets a least time for such steps. ``StepFactors`` hold how much longer
than its kernels' own measurements each part of a step takes in the running engine;
``RequestCosts`` what a request meets off the step's path: tokenizing, HTTP, steps it waits to be
admitted. Constants that no engine changes are in ``CommonCosts``.
Leaves out: differences between releases of an engine.
Source: library/engines/*.yaml, written by scripts/fit_engines.py.
"""

import functools
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from plimsoll.spec.errors import UnsupportedError, suggest
from plimsoll.spec.io import PLAIN, from_data

__all__ = [
    "CommonCosts",
    "EngineProfile",
    "FittedConstant",
    "RequestCosts",
    "StepFactors",
    "common_costs",
    "engine_profile",
]

_NOT_PROFILES = {"common", "error_bands", "settings"}
"""What else lies in the folder: ``common_costs``, bands, and how public runs were set up."""

Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstant:
    """A constant of a profile that was fitted: standard error and what it was fitted on."""

    __pydantic_config__: ClassVar = PLAIN
    standard_error: Annotated[float, Field(ge=0)]
    fitted_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFactors:
    """Time of a part of a step in the engine over its kernels' time alone.

    ``dense`` multiplies, routed ``experts``, ``attention`` (states included), ``all_reduce``
    (and hops between stages), ``exchange`` of tokens between experts, ``light`` kernels (norms,
    activations, rotary, cache writes). ``prompts`` is for all that prompts add to a step.
    """

    __pydantic_config__: ClassVar = PLAIN
    dense: Positive = 1.0
    experts: Positive = 1.0
    attention: Positive = 1.0
    all_reduce: Positive = 1.0
    exchange: Positive = 1.0
    light: Positive = 1.0
    prompts: Annotated[float, Field(ge=1)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCosts:
    """What the first token of a request waits for beside its prompt's own steps.

    ``fixed_s``, with ``expert_s`` more for models with experts, and ``prompt_token_s`` a prompt
    token pass before it reaches the scheduler; ``admission_steps`` run before it joins one
    (``few_admission`` of them where few are in flight), and
    ``rank_wait_steps`` more where attention is data parallel and prompts wait for those of other
    ranks. ``handover_s`` is added where another worker decodes.
    """

    __pydantic_config__: ClassVar = PLAIN
    fixed_s: Seconds = 0.0
    expert_s: Seconds = 0.0
    prompt_token_s: Seconds = 0.0
    admission_steps: Annotated[float, Field(ge=0)] = 0.0
    few_admission: Annotated[float, Field(gt=0, le=1)] = 1.0
    rank_wait_steps: Annotated[float, Field(ge=0)] = 0.0
    handover_s: Seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonCosts:
    """Constants that engines share.

    ``cross_node`` multiplies collectives whose group spans nodes; ``rank_overlap`` is the share
    of prompts on different attention ranks that run in the same steps; a speculative step checks
    ``draft_tokens`` a sequence and keeps ``accepted_tokens``; fewer than ``few_requests`` in
    flight are few.
    """

    __pydantic_config__: ClassVar = PLAIN
    cross_node: Annotated[float, Field(ge=1)]
    rank_overlap: Annotated[float, Field(ge=0, le=1)]
    draft_tokens: Annotated[int, Field(ge=1)]
    accepted_tokens: Annotated[float, Field(ge=1)]
    few_requests: Annotated[int, Field(ge=0)]
    source: str
    as_of: str
    fitted: dict[str, FittedConstant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an engine adds to its kernels, and which kernels it uses.

    ``step_s`` and ``sequence_s`` are host time not hidden, ``prompt_step_s`` more of it where
    prompts run; the device's part of a step that runs prompts takes at least
    ``prompt_launch_s``. ``token_budget`` is the prompt tokens of a step by default, and
    ``reserve_outputs`` the share of a request's output that must fit in the cache beside its
    prompt before it is admitted. ``request_s`` is spent on a request before it is
    first scheduled and after its first token. ``fitted`` holds constants that were fitted, by
    name. ``quantize_fraction`` is the share of activation quantization left as kernels of its
    own after fusion with the ones before. ``kernels`` names the kernel set in the calibration;
    ``expert_exchange`` is how tokens reach experts when attention is data parallel.
    """

    __pydantic_config__: ClassVar = PLAIN
    name: str
    kernels: Literal["vllm", "sglang", "trtllm"]
    step_s: Seconds
    sequence_s: Seconds
    prompt_step_s: Seconds = 0.0
    prompt_launch_s: Seconds = 0.0
    request_s: Seconds = 0.0
    quantize_fraction: Annotated[float, Field(ge=0, le=1)]
    expert_exchange: Literal["all-gather", "all-to-all"]
    token_budget: Annotated[int, Field(gt=0)] = 8192
    reserve_outputs: Annotated[float, Field(ge=0, le=1)] = 1.0
    factors: StepFactors = field(default_factory=StepFactors)
    request: RequestCosts = field(default_factory=RequestCosts)
    origin: Literal["calibrated", "modeled"]
    source: str
    as_of: str
    fitted: dict[str, FittedConstant] = field(default_factory=dict)


@functools.cache
def engine_profile(name: str) -> EngineProfile:
    """The bundled profile of ``name``: vllm, sglang, trtllm, or an older release as vllm-0.6.

    Raises:
        UnsupportedError: no profile of that name.
    """
    folder = resources.files("plimsoll.library") / "engines"
    stems = {f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")}
    known = sorted(stems - _NOT_PROFILES)
    if name not in known:
        raise UnsupportedError(
            f"no engine profile {name!r}; there are {', '.join(known)}.{suggest(name, known)}"
        )
    data = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return from_data(EngineProfile, data, where=f"library/engines/{name}.yaml")


@functools.cache
def common_costs() -> CommonCosts:
    """The bundled constants that engines share."""
    file = resources.files("plimsoll.library") / "engines" / "common.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return from_data(CommonCosts, data, where="library/engines/common.yaml")
