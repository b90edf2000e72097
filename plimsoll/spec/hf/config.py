"""A model from its ``config.json``: the fields decide, the architecture's name does not.

A configuration of an unknown type is read like a known one; what its fields leave open is read
as Llama does it, and ``ModelSpec.assumptions`` says so. Encoder-decoder and encoder-only models
are refused: they are not served token by token. Left out: everything that changes neither
bytes nor operations (rotary settings, epsilons, token ids).
"""

from collections.abc import Mapping
from typing import Any

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.conventions import Conventions, conventions_for
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.hf.formats import apply_formats
from plimsoll.spec.hf.layers import count_layers, grouped, read_layers
from plimsoll.spec.hf.quantization import (
    CheckpointFormats,
    formats_from_quant_config,
    kv_cache_format,
)
from plimsoll.spec.hf.vision import read_vision
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.streams import PREFIX_TOKENS, with_streams

__all__ = ["model_from_config"]

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_INHERITED = (
    "tie_word_embeddings",
    "quantization_config",
    "torch_dtype",
    "dtype",
    "architectures",
    "max_position_embeddings",
    "vocab_size",
)
_DTYPES = {"bfloat16": DType.BF16, "float16": DType.FP16, "float32": DType.FP32}
_QUANTIZED_NAMES = ("fp8", "nvfp4", "mxfp4", "fp4", "int4", "int8", "awq", "gptq", "w4a16", "w8a8")


def _text_fields(data: Mapping[str, Any], where: str) -> Fields:
    """The language model's own section, with what it inherits from the top."""
    top = Fields(data, where=where)
    thinker = top.section("thinker_config")
    if thinker is not None:
        top = thinker
    section = top.section(*_TEXT_SECTIONS)
    if section is None:
        return top
    inherited = {k: top.data[k] for k in _INHERITED if top.data.get(k) is not None}
    merged = inherited | {k: v for k, v in section.data.items() if v is not None}
    return Fields(merged, where=section.where)


def _base_dtype(fields: Fields) -> DType:
    name, value = fields.find("torch_dtype", "dtype")
    if not name:
        fields.assume("no number format is given: unquantized weights are bf16")
        return DType.BF16
    found = _DTYPES.get(value.removeprefix("torch.")) if isinstance(value, str) else None
    if found is None:
        known = ", ".join(_DTYPES)
        raise fields.fail(name, f"unknown number format {value!r}; expected one of {known}")
    return found


def _formats(
    fields: Fields, name: str, quantization: Mapping[str, Any] | None, quant_where: str
) -> CheckpointFormats:
    base = _base_dtype(fields)
    section = fields.section("quantization_config", "compression_config")
    if section is None and quantization is not None:
        section = Fields(quantization, where=quant_where)
    if section is None:
        lowered = name.lower()
        if any(word in lowered for word in _QUANTIZED_NAMES):
            fields.assume(
                "the name speaks of quantized weights but no quantization settings were found: "
                f"weights are taken as {base.value}"
            )
        cache = base if base.bits == 16 else DType.BF16
        return CheckpointFormats(base=base, default=base, kv_cache=cache)
    formats = formats_from_quant_config(section, base, expert_dtype=fields.text("expert_dtype"))
    if quantization is not None and not section.has("kv_cache_scheme", "kv_cache_quant_algo"):
        formats.kv_cache = kv_cache_format(Fields(quantization, where=quant_where), base)
    return formats


def _learned_positions(fields: Fields, conventions: Conventions, context: int) -> int:
    if conventions.learned_positions is None:
        return 0
    return context + conventions.learned_positions


def _outer_parameters(fields: Fields, conventions: Conventions, hidden: int, layers: int) -> int:
    """Small parts outside the layers: norm biases, stream merging, per-layer embeddings."""
    extra = hidden if conventions.final_norm_bias else 0
    streams = fields.optional("hc_mult", default=0, most=1024)
    if streams:
        extra += streams * streams * hidden + streams + 1
    per_layer = fields.optional("hidden_size_per_layer_input", default=0, most=2**20)
    if per_layer:
        rows = fields.optional("vocab_size_per_layer_input", default=0, most=2**28)
        extra += (rows + hidden) * per_layer * layers + per_layer
        extra += layers * (2 * hidden * per_layer + hidden)
    return extra


def _streams(fields: Fields, where: str) -> int:
    """Parallel streams that the weights are for, 1 where no field speaks of them."""
    streams = fields.optional("parscale_n", default=1, least=1, most=1024)
    prefix = fields.optional("parscale_n_tokens", default=PREFIX_TOKENS)
    if streams > 1 and prefix != PREFIX_TOKENS:
        raise UnsupportedError(
            f"{where}: parscale_n_tokens is {prefix}; streams are counted with prefixes of "
            f"{PREFIX_TOKENS} tokens"
        )
    return streams


def model_from_config(
    data: Any,
    *,
    name: str,
    where: str,
    quantization: Mapping[str, Any] | None = None,
    quant_where: str = "",
) -> ModelSpec:
    """The model that a parsed ``config.json`` describes.

    Args:
        data: the parsed file.
        name: what the model is called.
        where: the file, for errors.
        quantization: the ``quantization`` section of a quantization file beside it, used
            where the configuration has no settings of its own; ``quant_where`` is its name.

    Raises:
        SpecError: fields are missing (all are named at once), of the wrong kind, or absurd.
        UnsupportedError: not a decoder, or a kind of layer or quantization not known.
    """
    top = Fields(data if isinstance(data, dict) else {}, where=where)
    if not isinstance(data, dict):
        raise top.fail("top level", f"{type(data).__name__} found; expected a mapping")
    if top.data.get("is_encoder_decoder") is True:
        raise UnsupportedError(f"{where}: encoder-decoder models are not described here")
    fields = _text_fields(data, where)
    if fields.has("type_vocab_size") and not fields.flag("is_decoder"):
        raise UnsupportedError(
            f"{where}: type_vocab_size is that of an encoder; only decoders are described here"
        )
    model_type = fields.text("model_type")
    conventions = conventions_for(model_type, top.text("model_type"))
    if not conventions.known:
        named = f"model type {model_type!r} is not known" if model_type else "no model type"
        fields.assume(f"{named}: read by its fields alone, the rest as in Llama")
    hidden = fields.required("hidden_size", "n_embd", "d_model", "n_embed", most=2**20)
    vocab = fields.required("vocab_size", "padded_vocab_size", most=2**28)
    context = fields.required(
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "max_sequence_length",
        "max_seq_len",
        "seq_length",
        "model_max_length",
    )
    num_layers = count_layers(fields)
    narrow = fields.optional("word_embed_proj_dim", default=hidden, least=1)
    if narrow != hidden and not fields.missing:
        raise UnsupportedError(
            f"{where}: word_embed_proj_dim {narrow} differs from hidden_size {hidden}; "
            "projected embeddings are not described here"
        )
    layers, ahead = read_layers(fields, conventions, hidden=hidden, num_layers=num_layers)
    if not fields.has("tie_word_embeddings") and not conventions.known:
        fields.assume("tie_word_embeddings is not given: the head has a matrix of its own")
    tied = fields.flag("tie_word_embeddings", default=conventions.tied)
    vision = read_vision(top, fields, hidden=hidden)
    formats = _formats(fields, name, quantization, quant_where)
    common, layers, ahead = apply_formats(layers, ahead, formats, hidden=hidden)
    streams = _streams(fields, where)
    model = ModelSpec(
        name=name,
        hidden_size=hidden,
        vocab_size=vocab,
        max_context=context,
        layers=grouped(layers),
        tied_embeddings=tied,
        position_embeddings=_learned_positions(fields, conventions, context),
        quantization=common,
        mtp=grouped(ahead),
        vision=vision,
        extra_parameters=_outer_parameters(fields, conventions, hidden, num_layers),
        source=where,
        assumptions=tuple(fields.assumptions),
    )
    return with_streams(model, streams)
