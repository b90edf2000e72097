"""Time the host adds to an engine step: scheduling, input preparation, sampling, detokenizing.

Host time of a step = per step + per sequence in it; the share that the engine hides behind the
device's work is already taken off. With overlapped scheduling and captured graphs little is left.
Older engines launch the kernels of prompts one by one, which sets a least time for such steps.
Request arrival handling (tokenizing, HTTP) is not on the step's path and is not in the clock.
"""

import functools
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from plimsoll.spec.errors import UnsupportedError, suggest
from plimsoll.spec.io import PLAIN, from_data

__all__ = ["EngineProfile", "FittedConstant", "engine_profile"]

Seconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstant:
    """A constant of a profile that was fitted: standard error and what it was fitted on."""

    __pydantic_config__: ClassVar = PLAIN
    standard_error: Annotated[float, Field(ge=0)]
    fitted_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an engine adds to its kernels, and which kernels it uses.

    ``step_s`` and ``sequence_s`` are host time not hidden; the device's part of a step that runs
    prompts takes at least ``prompt_launch_s``. ``request_s`` is spent on a request before it is
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
    prompt_launch_s: Seconds = 0.0
    request_s: Seconds = 0.0
    quantize_fraction: Annotated[float, Field(ge=0, le=1)]
    expert_exchange: Literal["all-gather", "all-to-all"]
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
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
        raise UnsupportedError(
            f"no engine profile {name!r}; there are {', '.join(known)}.{suggest(name, known)}"
        )
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return from_data(EngineProfile, data, where=f"library/engines/{name}.yaml")
