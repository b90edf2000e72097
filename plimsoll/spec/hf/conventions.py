"""What a model type does by convention although its config.json does not say so.

The facts are in ``library/hf_conventions.yaml``. A type that is not listed gets none of them,
and the reader notes the assumption: the fields decide, the name only fills in what they omit.
"""

import functools
import importlib.resources
from dataclasses import dataclass, field
from typing import Any

import yaml

__all__ = ["Conventions", "conventions_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """The unwritten choices of one model type; the defaults are those of Llama."""

    known: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    output_gate: bool = False
    norms: int = 2
    gated: bool | None = None
    """None: as the activation says."""
    tied: bool = False
    learned_positions: int | None = None
    """None: no learned positions."""
    final_norm_bias: bool = False
    shared_gate: bool = False
    shared_expert: bool = False
    expert_bias: bool = False
    router_bias: bool = False
    sinks: bool = False
    window_pattern: int = 0
    global_every: int = 0
    layer_scalar: bool = False
    four_h: bool = False
    vision: dict[str, int] = field(default_factory=dict)


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    path = importlib.resources.files("plimsoll") / "library" / "hf_conventions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe
    table: dict[str, dict[str, Any]] = content["types"]
    return table


def conventions_for(*model_types: str) -> Conventions:
    """The conventions of the first listed type; unknown ones get the defaults."""
    for model_type in model_types:
        found = _table().get(model_type)
        if found is not None:
            return Conventions(**found)
    return Conventions(known=False)
