"""Number formats of checkpoints: which part is stored in what, and the size that follows."""

from typing import Any

import pytest

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.hf.quantization import formats_from_quant_config
from plimsoll.spec.model import Attention, Quantization
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import weight_bytes
from tests.spec.model_configs import config_path, needs_configs

BF16, FP8, BLOCK = DType.BF16, DType.FP8, DType.FP8_BLOCK
NVFP4, MXFP4, G32 = DType.NVFP4, DType.MXFP4, DType.INT4_G32
# file, (mixer, its output, dense, experts, shared experts, head, KV), where the part exists
EXPECTED: list[tuple[str, tuple[DType | None, ...]]] = [
    ("deepseek-ai--DeepSeek-V3", (BLOCK, BLOCK, BLOCK, BLOCK, BLOCK, BF16, BF16)),
    ("nvidia--DeepSeek-V3.1-NVFP4", (BF16, NVFP4, NVFP4, NVFP4, NVFP4, BF16, FP8)),
    ("nvidia--GLM-5-NVFP4", (BF16, BF16, NVFP4, NVFP4, NVFP4, BF16, FP8)),
    ("nvidia--GLM-5.2-NVFP4", (BF16, BF16, BF16, NVFP4, BF16, BF16, FP8)),
    ("deepseek-ai--DeepSeek-V4-Pro", (BLOCK, BLOCK, None, MXFP4, BLOCK, BF16, BF16)),
    ("nvidia--DeepSeek-V4-Pro-NVFP4", (BLOCK, BLOCK, None, NVFP4, BLOCK, BF16, BF16)),
    ("sgl-project--DeepSeek-V4-Pro-FP8", (BLOCK, BLOCK, None, BLOCK, BLOCK, BF16, BF16)),
    ("openai--gpt-oss-120b", (BF16, BF16, None, MXFP4, None, BF16, BF16)),
    ("moonshotai--Kimi-K2.5", (BF16, BF16, BF16, G32, BF16, BF16, BF16)),
    ("moonshotai--Kimi-K3", (BF16, BF16, BF16, MXFP4, BF16, BF16, BF16)),
    ("nvidia--Kimi-K2.6-NVFP4", (BF16, BF16, BF16, NVFP4, BF16, BF16, FP8)),
    ("nvidia--Llama-3.1-70B-Instruct-FP8", (FP8, FP8, FP8, None, None, BF16, FP8)),
    ("Qwen--Qwen3-32B-FP8-Static-PerTensor", (FP8, FP8, FP8, None, None, BF16, FP8)),
    ("nvidia--Qwen3.5-397B-A17B-NVFP4", (BF16, BF16, None, NVFP4, BF16, BF16, FP8)),
    ("nvidia--Qwen3.6-35B-A3B-NVFP4", (FP8, FP8, None, NVFP4, NVFP4, NVFP4, FP8)),
    ("nvidia--Gemma-4-26B-A4B-NVFP4", (BF16, BF16, BF16, NVFP4, None, BF16, FP8)),
    ("nvidia--Gemma-4-31B-IT-NVFP4", (BF16, BF16, NVFP4, None, None, BF16, FP8)),
    ("stepfun-ai--Step-3.7-Flash-FP8", (BLOCK, BLOCK, BLOCK, BLOCK, BLOCK, BF16, BF16)),
]


@needs_configs
@pytest.mark.parametrize("name,expected", EXPECTED, ids=lambda v: v if isinstance(v, str) else "")
def test_parts_of_real_checkpoints(name: str, expected: tuple[DType | None, ...]) -> None:
    found = load_model(config_path(name)).quantization
    parts = (
        found.mixer,
        found.mixer_output or found.mixer,
        found.ffn,
        found.experts,
        found.shared_experts,
        found.lm_head,
        found.kv_cache,
    )
    assert all(want is None or have is want for have, want in zip(parts, expected, strict=True))
    assert found.embedding is BF16


@needs_configs
@pytest.mark.parametrize(
    "name,size_bytes,source",
    [
        ("openai--gpt-oss-120b", 60.8 * 2**30, "arXiv 2508.10925 table 1"),
        ("openai--gpt-oss-20b", 12.8 * 2**30, "arXiv 2508.10925 table 1"),
        ("moonshotai--Kimi-K2.5", 595e9, "files of the repository"),
    ],
)
def test_sizes_of_published_checkpoints(name: str, size_bytes: float, source: str) -> None:
    found = weight_bytes(load_model(config_path(name)))
    assert found == pytest.approx(size_bytes, rel=0.01), source


@needs_configs
def test_layers_that_deviate_carry_their_own_formats() -> None:
    model = load_model(config_path("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4"))
    own = [g.layer for g in model.layers if g.layer.formats is not None]
    assert model.quantization.mixer is NVFP4
    assert sum(isinstance(layer.mixer, Attention) for layer in own) == 6
    assert all(layer.formats is not None and layer.formats.mixer is BF16 for layer in own)
    for group in load_model(config_path("nvidia--GLM-5.2-NVFP4")).mtp:
        assert group.layer.formats is not None and group.layer.formats.experts is BF16


def read(settings: dict[str, Any]) -> Quantization:
    config = {
        "model_type": "mixtral",
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 100,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 128,
        "hidden_act": "silu",
        "torch_dtype": "float16",
        "quantization_config": settings,
    }
    return model_from_config(config, name="m", where="config.json").quantization


def group(num_bits: int, kind: str, size: int | None, strategy: str = "group") -> dict[str, Any]:
    weights = {"num_bits": num_bits, "type": kind, "group_size": size, "strategy": strategy}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


@pytest.mark.parametrize(
    "settings,experts",
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, DType.INT4),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, G32),
        ({"quant_method": "gptq", "bits": 8}, DType.INT8),
        ({"quant_method": "fp8"}, FP8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, BLOCK),
        ({"quant_method": "fbgemm_fp8"}, FP8),
        ({"quant_method": "mxfp4"}, MXFP4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, DType.INT8),
        ({"quant_algo": "NVFP4"}, NVFP4),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, FP8),
        (group(4, "float", 16), NVFP4),
        (group(4, "float", 32), MXFP4),
        (group(4, "int", 128), DType.INT4),
        (group(4, "int", 32), G32),
        (group(8, "int", None), DType.INT8),
        (group(8, "float", None, "channel"), FP8),
        (group(8, "float", None, "block"), BLOCK),
        (group(8, "float", 32), DType.MXFP8),
    ],
)
def test_methods_and_their_formats(settings: dict[str, Any], experts: DType) -> None:
    found = read(settings)
    assert found.experts is experts
    assert found.mixer is (DType.FP16 if settings.get("quant_method") == "mxfp4" else experts)
    assert found.embedding is found.lm_head is DType.FP16


@pytest.mark.parametrize(
    "patterns,mixer,experts",
    [
        (["lm_head"], FP8, FP8),
        (["self_attn"], BF16, FP8),
        (["model.layers.*.self_attn"], BF16, FP8),
        (["re:.*self_attn.*"], BF16, FP8),
        (["re:.*experts.*"], FP8, BF16),
        (["model.layers.0.self_attn*", "model.layers.1.self_attn*"], BF16, FP8),
        (["language_model.model.layers.0*", "language_model.model.layers.1.*"], BF16, BF16),
        (["model.layers.10.self_attn*"], FP8, FP8),
        (["model.layers.0.mlp.gate", "gate"], FP8, FP8),
        (["*.mlp.experts.*"], FP8, BF16),
    ],
)
def test_exclusions(patterns: list[str], mixer: DType, experts: DType) -> None:
    fields = Fields({"quant_method": "fp8", "ignore": patterns}, where="q")
    formats = formats_from_quant_config(fields, BF16)
    for layer in (0, 1):
        assert formats.of(layer, "mixer", ("self_attn.q_proj",)) is mixer
        assert formats.of(layer, "experts", ("mlp.experts.0.gate_proj",)) is experts


def test_a_prediction_head_is_excluded_by_either_of_its_names() -> None:
    for pattern in ("mtp*", "mtp.layers.0*", "model.layers.2*"):
        fields = Fields({"quant_algo": "NVFP4", "exclude_modules": [pattern]}, where="q")
        formats = formats_from_quant_config(fields, BF16)
        assert formats.of(2, "experts", ("mlp.experts.0.gate_proj",), is_mtp=True) is BF16
        assert formats.of(0, "experts", ("mlp.experts.0.gate_proj",)) is NVFP4


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"quant_method": "fp8", "ignore": ["re:("]}, "not a regular expression"),
        ({"quant_method": "fp8", "ignore": ["x" * 400]}, "too long"),
        ({"quant_method": "fp8", "ignore": "lm_head"}, "expected a list"),
        ({"quant_method": 8}, "expected a string"),
        ({"config_groups": {"group_0": {}}}, "weights: missing"),
        ({"config_groups": {"group_0": {"weights": {}}}}, "num_bits"),
    ],
)
def test_broken_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words.replace("(", r"\(")):
        read(settings)
