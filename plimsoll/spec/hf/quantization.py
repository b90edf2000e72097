"""Number formats of a checkpoint: ``quantization_config`` and ``hf_quant_config.json``.

Both are lists of rules over module names ("everything in fp8 except ...", "these layers in
nvfp4"). The rules are kept and asked for each part of each layer, so that mixed checkpoints
come out layer by layer. Exclusions come as module names, shell patterns and regular
expressions (``re:``). Embeddings are never quantized, the head only where it is listed.
Left out: formats of activations, which change no byte of weights or cache.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.fields import Fields

__all__ = ["CheckpointFormats", "formats_from_quant_config", "kv_cache_format"]

_ALGORITHMS = {
    "FP8": DType.FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": DType.FP8,
    "FP8_PB_WO": DType.FP8_BLOCK,
    "FP8_BLOCK_SCALES": DType.FP8_BLOCK,
    "NVFP4": DType.NVFP4,
    "W4A16_NVFP4": DType.NVFP4,
    "NVFP4_AWQ": DType.NVFP4,
    "W4A8_NVFP4_FP8": DType.NVFP4,
    "MXFP4": DType.MXFP4,
    "W4A8_MXFP4_FP8": DType.MXFP4,
    "MXFP8": DType.MXFP8,
    "INT4_AWQ": DType.INT4,
    "W4A16_AWQ": DType.INT4,
    "W4A8_AWQ": DType.INT4,
    "W4A16_GPTQ": DType.INT4,
    "W4A16": DType.INT4,
    "W8A16": DType.INT8,
    "INT8_SQ": DType.INT8,
    "W8A8_SQ_PER_CHANNEL": DType.INT8,
}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?=$|[.*])(.*)$")
_MTP_LAYER = re.compile(r"^mtp\.(?:layers\.)?(\d+)(?=$|[.*])(.*)$")
_PATTERN_CHARS = 300
_MTP = -1
"""Stands for any multi-token-prediction layer in the rules."""


def _matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` (a name, a shell pattern) covers module ``name``."""
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")
    return f".{pattern}." in f".{name}."


@dataclass
class _Rules:
    """Patterns by layer number, those for every layer, and regular expressions."""

    by_layer: dict[int, list[tuple[str, DType]]] = field(default_factory=dict)
    everywhere: list[tuple[str, DType]] = field(default_factory=list)
    expressions: list[tuple[re.Pattern[str], DType]] = field(default_factory=list)

    def add(self, pattern: str, dtype: DType, fields: Fields, where: str) -> None:
        if len(pattern) > _PATTERN_CHARS:
            raise fields.fail(where, f"a pattern of {len(pattern)} characters is too long")
        if pattern.startswith("re:"):
            try:
                self.expressions.append((re.compile(pattern[3:]), dtype))
            except (re.error, RecursionError, OverflowError):
                raise fields.fail(where, f"{pattern!r} is not a regular expression") from None
            return
        for finder, mtp in ((_LAYER, pattern.startswith("mtp")), (_MTP_LAYER, True)):
            match = finder.search(pattern)
            if match:
                number = _MTP if mtp else int(match.group(1)[:9])
                rest = match.group(2).removeprefix(".")
                self.by_layer.setdefault(number, []).append((rest or "*", dtype))
                return
        if pattern.startswith("mtp"):
            self.by_layer.setdefault(_MTP, []).append(("*", dtype))
            return
        self.everywhere.append((pattern, dtype))

    def find(self, layer: int, is_mtp: bool, names: Iterable[str]) -> DType | None:
        own = self.by_layer.get(layer, [])
        if is_mtp:
            own = own + self.by_layer.get(_MTP, [])
        for name in names:
            for pattern, dtype in own:
                if _matches(name, pattern):
                    return dtype
            full = f"model.layers.{layer}.{name}"
            for pattern, dtype in self.everywhere:
                if _matches(full, pattern):
                    return dtype
            for expression, dtype in self.expressions:
                if expression.match(full):
                    return dtype
        return None


@dataclass(kw_only=True)
class CheckpointFormats:
    """What each module of a checkpoint is stored in.

    ``base`` is the unquantized format, ``default`` that of matrices no rule names;
    ``experts_only``: everything but the routed experts is unquantized.
    """

    base: DType = DType.BF16
    default: DType = DType.BF16
    experts: DType | None = None
    experts_only: bool = False
    kv_cache: DType = DType.BF16
    head: DType | None = None
    method: str = "none"
    excluded: _Rules = field(default_factory=_Rules)
    included: _Rules = field(default_factory=_Rules)

    def of(self, layer: int, part: str, names: tuple[str, ...], *, is_mtp: bool = False) -> DType:
        """The format of the module that goes by one of ``names`` in ``layer``."""
        if self.excluded.find(layer, is_mtp, names) is not None:
            return self.base
        listed = self.included.find(layer, is_mtp, names)
        if listed is not None:
            return listed
        if part == "experts" and self.experts is not None:
            return self.experts
        if self.experts_only and part != "experts":
            return self.base
        return self.default

    @property
    def lm_head(self) -> DType:
        """The output head: quantized only where a rule names it."""
        return self.head or self.base


def _algorithm(fields: Fields, name: str, value: Any) -> DType:
    if not isinstance(value, str):
        raise fields.fail(name, f"{value!r} is not the name of an algorithm")
    found = _ALGORITHMS.get(value.upper())
    if found is None:
        raise UnsupportedError(
            f"{fields.where}: {name}: quantization {value!r} is not known; "
            f"known are {', '.join(sorted(_ALGORITHMS))}"
        )
    return found


def _weights_format(group: Fields) -> DType:
    """The format of a ``config_groups`` entry, from its bits, type and group size."""
    weights = group.section("weights")
    if weights is None:
        raise group.fail("weights", "missing")
    bits = weights.required("num_bits", most=64)
    size = weights.optional("group_size", default=0, least=-1)
    kind = weights.text("type", default="int")
    weights.check_missing()
    if kind == "float" and bits == 4:
        return DType.MXFP4 if size == 32 else DType.NVFP4
    if kind == "float" and bits == 8:
        if weights.text("strategy") == "block":
            return DType.FP8_BLOCK
        return DType.MXFP8 if size == 32 else DType.FP8
    if kind == "int" and bits == 4:
        return DType.INT4_G32 if 0 < size <= 32 else DType.INT4
    if kind == "int" and bits == 8:
        return DType.INT8
    raise UnsupportedError(f"{weights.where}: weights of {bits} bits, type {kind!r}, are not known")


def kv_cache_format(fields: Fields, base: DType) -> DType:
    """The format of the KV cache that the settings name; 16 bits where they name none."""
    base = base if base.bits == 16 else DType.BF16
    name, value = fields.find("kv_cache_scheme", "kv_cache_quant_algo")
    if not name:
        return base
    if isinstance(value, dict):
        scheme = Fields(value, where=f"{fields.where}: {name}")
        bits = scheme.optional("num_bits", default=8, least=1, most=64)
        if bits == 8:
            return DType.INT8 if scheme.text("type", default="float") == "int" else DType.FP8
        if bits == 4:
            return DType.NVFP4
        return base
    if isinstance(value, str) and value.lower() in ("none", "auto"):
        return base
    return _algorithm(fields, name, value)


def _layer_rules(result: CheckpointFormats, fields: Fields) -> bool:
    """``quantized_layers``: a format for each named module. True if there were any."""
    layers = fields.section("quantized_layers")
    if layers is None:
        return False
    for module, settings in layers.data.items():
        if not isinstance(settings, Mapping):
            raise layers.fail(str(module)[:80], "expected a mapping")
        dtype = _algorithm(layers, str(module)[:80], settings.get("quant_algo"))
        result.included.add(str(module), dtype, layers, str(module)[:80])
        if str(module).endswith("lm_head"):
            result.head = dtype
    return True


def _group_rules(result: CheckpointFormats, fields: Fields) -> bool:
    """``config_groups``: a format for each group of targets. True if there were any."""
    groups = fields.section("config_groups")
    if groups is None:
        return False
    for name in groups.data:
        group = groups.section(name)
        if group is None:
            continue
        dtype = _weights_format(group)
        targets = group.names("targets")
        modules = [target for target in targets if target not in ("Linear", "Conv1d")]
        if len(modules) < len(targets) or not targets:
            result.default = dtype
        for module in modules:
            result.included.add(module, dtype, group, "targets")
            if module.endswith("lm_head"):
                result.head = dtype
    return True


def _read_method(result: CheckpointFormats, fields: Fields, method: str) -> None:
    """Formats that the method's name and its few settings decide."""
    bits = fields.optional("bits", "w_bit", default=4, least=1, most=64)
    size = fields.optional("group_size", "q_group_size", default=128, least=-1)
    if method in ("fp8", "fbgemm_fp8"):
        result.default = DType.FP8_BLOCK if fields.has("weight_block_size") else DType.FP8
    elif method == "mxfp4":
        result.default, result.experts_only = DType.MXFP4, True
    elif method == "mxfp8":
        result.default = DType.MXFP8
    elif method in ("awq", "gptq", "auto-round", "gptq_marlin", "awq_marlin"):
        if bits not in (4, 8):
            raise UnsupportedError(f"{fields.where}: {method} with {bits} bits is not known")
        narrow = DType.INT4_G32 if 0 < size <= 32 else DType.INT4
        result.default = narrow if bits == 4 else DType.INT8
    elif method == "bitsandbytes":
        result.default = DType.INT8 if fields.flag("load_in_8bit") else DType.INT4
    else:
        raise UnsupportedError(
            f"{fields.where}: quantization method {method!r} is not known; known are fp8, mxfp4, "
            "mxfp8, awq, gptq, compressed-tensors, modelopt and bitsandbytes"
        )


def formats_from_quant_config(
    fields: Fields, base: DType, *, expert_dtype: str = ""
) -> CheckpointFormats:
    """The formats that a ``quantization_config`` section or a quantization file describes.

    ``expert_dtype`` is the model configuration's own word on its experts ("fp4"), if any.
    """
    method = fields.text("quant_method") or ("modelopt" if fields.has("quant_algo") else "")
    result = CheckpointFormats(base=base, default=base, method=method or "none")
    mixed = _layer_rules(result, fields)
    grouped = False if mixed else _group_rules(result, fields)
    if method not in ("", "modelopt", "compressed-tensors"):
        _read_method(result, fields, method)
    elif not mixed and not grouped and fields.has("quant_algo"):
        result.default = _algorithm(fields, "quant_algo", fields.data["quant_algo"])
    elif not mixed and not grouped:
        fields.need("quant_method", "quant_algo", "config_groups")
        fields.check_missing()
    if expert_dtype == "fp4" and not mixed:
        result.experts = DType.MXFP4
    result.kv_cache = kv_cache_format(fields, base)
    whole_model = mixed and method not in ("", "modelopt", "compressed-tensors")
    if not whole_model:  # else: exclusions are from the listed formats, not from the method's
        for key in ("ignore", "exclude_modules", "modules_to_not_convert"):
            for pattern in fields.names(key):
                result.excluded.add(pattern, base, fields, key)
    return result
