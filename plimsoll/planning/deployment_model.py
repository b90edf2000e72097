"""The model of a deployment row in the format the row names.

Tables name a model by its hub name and a format beside it; the checkpoint served is often not the
one of that name. Formats apply as published checkpoints of that format do: a format of 4 bits
leaves the mixers of expert models at 16 bits, weight-only integers hold only the routed experts.
Nothing named: as the model of that name is stored.
Leaves out: checkpoints that mix formats in other ways.
Source: quantization settings of the public NVFP4, FP8 and INT4 checkpoints.
"""

import functools
from dataclasses import replace

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.model import ModelSpec, MoeFfn
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import with_weight_dtype

__all__ = ["ServedModel", "expert_width", "served_model"]

_SUFFIXES = {
    "-NVFP4": "fp4",
    "-FP4": "fp4",
    "-FP8": "fp8",
    "-INT4": "int4",
    "-BF16": "bf16",
    "-MXFP4": "mxfp4",
}
_KNOWN = ("bf16", "fp16", "fp8", "fp4", "int4", "mxfp4", "int8")

ServedModel = tuple[ModelSpec, str, str]
"""The model, its format as a table spells it ("" for 16 bits or mixed), and what was assumed."""


@functools.cache
def served_model(name: str, precision: str) -> ServedModel:
    """The model ``name`` as served in ``precision``, "" if the row names none.

    Raises:
        SpecError: no such model, or a precision that is not known.
    """
    precision = precision.strip().lower()
    model, suffix = _find(name)
    note = ""
    wanted = precision or suffix
    if not wanted:
        stored = model.quantization
        wanted = "bf16" if stored.method == "none" else _spelled(_mostly(model))
        note = f"precision not named: {wanted}, as {model.name} is stored"
    if wanted not in _KNOWN:
        raise SpecError(f"precision {precision!r} is not one of {', '.join(_KNOWN)}")
    return _in_format(model, wanted), wanted, note


def _find(name: str) -> tuple[ModelSpec, str]:
    try:
        return load_model(name), ""
    except PlimsollError:
        for suffix, precision in _SUFFIXES.items():
            if name.upper().endswith(suffix):
                return load_model(name[: -len(suffix)]), precision
        raise


def _spelled(stored: DType) -> str:
    if stored is DType.NVFP4:
        return "fp4"
    if stored is DType.MXFP4:
        return "mxfp4"
    if stored in (DType.INT4, DType.INT4_G32):
        return "int4"
    return "fp8" if stored.bits < 16 else "bf16"


def _mostly(model: ModelSpec) -> DType:
    """The format of most weights: of routed experts, of the feed-forward part without them."""
    return model.quantization.experts if expert_width(model) else model.quantization.ffn


def _in_format(model: ModelSpec, precision: str) -> ModelSpec:
    stored, most = model.quantization, _mostly(model)
    has_experts = expert_width(model) > 0
    if precision in ("bf16", "fp16"):
        return model if stored.method == "none" else with_weight_dtype(model, DType.BF16)
    if precision == "fp8":
        narrow = most.bits < 8.6 and stored.ffn.bits < 8.6
        if narrow and most.bits > 7:
            return model
        return with_weight_dtype(model, DType.FP8_BLOCK if has_experts else DType.FP8)
    if precision == "fp4":
        if _spelled(most) in ("fp4", "mxfp4"):
            return model
        if not has_experts:
            return with_weight_dtype(model, DType.NVFP4)
        return _experts_in(model, DType.NVFP4, everything=True)
    if precision == "int8":
        return with_weight_dtype(model, DType.INT8)
    narrow_experts = DType.MXFP4 if precision == "mxfp4" else DType.INT4_G32
    if stored.experts is narrow_experts:
        return model
    if not has_experts:
        return with_weight_dtype(model, DType.INT4 if precision == "int4" else DType.MXFP4)
    return _experts_in(model, narrow_experts, everything=False)


def _experts_in(model: ModelSpec, dtype: DType, *, everything: bool) -> ModelSpec:
    """16 bits but for the routed experts, and all of the feed-forward part if ``everything``."""
    plain = with_weight_dtype(model, DType.BF16)
    held = plain.quantization
    held = replace(held, experts=dtype, method=dtype.value)
    if everything:
        held = replace(held, ffn=dtype, shared_experts=dtype)
    return replace(plain, quantization=held)


@functools.cache
def expert_width(model: ModelSpec) -> int:
    """Inner width of a routed expert, 0 for a model without experts."""
    widths = [g.layer.ffn.intermediate for g in model.layers if isinstance(g.layer.ffn, MoeFfn)]
    return widths[0] if widths else 0
