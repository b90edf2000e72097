"""Parameter counts against published figures, and against each other.

A published figure is met within 1 %, or within its own rounding where that is wider.
"""

import dataclasses

import pytest

from plimsoll.spec.dtype import DType
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import bundled_models, load_model
from plimsoll.spec.parameters import (
    active_parameters,
    layer_parameters,
    layer_weights,
    outer_weights,
    parameter_counts,
    total_parameters,
    weight_bytes,
    with_weight_dtype,
)
from tests.spec.model_configs import config_path, needs_configs

B = 1e9
HUB = "parameter count shown by the hub for the repository's safetensors"
CARD = "the model's card"
REPORT = "the model's technical report"

# configuration file, total, rounding of it, active (0: dense or not published), rounding of it,
# whether the published active figure counts the input embedding, source
PUBLISHED = [
    ("meta-llama--Meta-Llama-3.1-8B", 8.03, 0.005, 0, 0, False, HUB),
    ("meta-llama--Meta-Llama-3.1-70B", 70.55, 0.005, 0, 0, False, HUB),
    ("meta-llama--Meta-Llama-3.1-405B", 405.85, 0.005, 0, 0, False, HUB),
    ("Qwen--Qwen3-8B", 8.19, 0.005, 0, 0, False, HUB),
    ("Qwen--Qwen3-32B", 32.8, 0.05, 0, 0, False, CARD),
    ("Qwen--Qwen3-30B-A3B", 30.5, 0.05, 3, 0.5, False, CARD),
    ("Qwen--Qwen3-235B-A22B", 235, 0.5, 22, 0.5, True, CARD),
    ("Qwen--Qwen3-Coder-480B-A35B-Instruct", 480, 0.5, 35, 0.5, True, CARD),
    ("Qwen--Qwen3-VL-2B-Instruct", 2.13, 0.005, 0, 0, False, HUB),
    ("Qwen--Qwen3-VL-8B-Instruct", 8.77, 0.005, 0, 0, False, HUB),
    ("Qwen--Qwen3.5-27B", 27, 0.5, 0, 0, False, CARD),
    ("Qwen--Qwen3.5-35B-A3B", 35, 0.5, 3, 0.5, True, CARD),
    ("Qwen--Qwen3.5-122B-A10B", 122, 0.5, 10, 0.5, True, CARD),
    ("Qwen--Qwen3.5-397B-A17B", 397, 0.5, 17, 0.5, True, CARD),
    ("mistralai--Mixtral-8x7B-v0.1", 46.7, 0.05, 12.9, 0.05, True, "arXiv 2401.04088"),
    ("mistralai--Mixtral-8x22B-v0.1", 141, 0.5, 39, 0.5, True, CARD),
    ("deepseek-ai--DeepSeek-V3", 671, 0.5, 37, 0.5, False, "arXiv 2412.19437"),
    ("deepseek-ai--DeepSeek-R1", 671, 0.5, 37, 0.5, False, "arXiv 2501.12948"),
    ("deepseek-ai--DeepSeek-V4-Flash", 284, 0.5, 13, 0.5, False, CARD),
    ("deepseek-ai--DeepSeek-V4-Pro", 1600, 50, 49, 0.5, False, CARD),
    ("moonshotai--Kimi-K2-Instruct", 1026.5, 0.05, 32.6, 0.05, True, HUB + ", arXiv 2507.20534"),
    ("moonshotai--Kimi-K3", 2800, 50, 104, 0.5, False, REPORT),
    ("openai--gpt-oss-120b", 116.83, 0.005, 5.13, 0.005, False, "arXiv 2508.10925 table 1"),
    ("openai--gpt-oss-20b", 20.91, 0.005, 3.61, 0.005, False, "arXiv 2508.10925 table 1"),
    ("meta-llama--Llama-4-Scout-17B-16E-Instruct", 109, 0.5, 17, 0.5, True, CARD),
    ("meta-llama--Llama-4-Maverick-17B-128E-Instruct", 401.6, 0.05, 17, 0.5, True, HUB),
    ("MiniMaxAI--MiniMax-M2.5", 228.7, 0.05, 10, 0.5, False, HUB + " and " + CARD),
    ("zai-org--GLM-5", 744, 0.5, 0, 0, False, CARD),
    ("XiaomiMiMo--MiMo-V2-Flash", 309, 0.5, 15, 0.5, False, CARD),
    ("stepfun-ai--Step-3.7-Flash", 196, 0.5, 11, 0.5, True, CARD),
    ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6, 0.05, 3.2, 0.05, False, REPORT),
    ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6, 0.05, 3.6, 0.05, True, REPORT),
    ("nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8", 120.6, 0.05, 12.7, 0.05, True, REPORT),
    ("nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 550, 0.5, 55, 0.5, False, CARD),
    ("nvidia--Nemotron-H-56B-Base-8K", 56, 0.5, 0, 0, False, "arXiv 2504.03624"),
    ("nvidia--Llama-3_3-Nemotron-Super-49B-v1", 49.87, 0.005, 0, 0, False, HUB),
]

# bundled name, total, rounding, source: models whose configuration is written from public shapes
BUNDLED = [
    ("llama-2-7b", 6.74, 0.005, HUB),
    ("llama-2-13b", 13.02, 0.005, HUB),
    ("llama-2-70b", 68.98, 0.005, HUB),
    ("llama-3.2-1b", 1.24, 0.005, HUB),
    ("llama-3.2-3b", 3.21, 0.005, HUB),
    ("mistral-7b", 7.25, 0.005, HUB),
    ("mistral-large-2", 123, 0.5, CARD),
    ("yi-34b-200k", 34.39, 0.005, HUB),
    ("qwen2.5-7b", 7.62, 0.005, HUB),
    ("qwen2.5-14b", 14.77, 0.005, HUB),
    ("qwen2.5-32b", 32.76, 0.005, HUB),
    ("qwen2.5-72b", 72.71, 0.005, HUB),
    ("qwen3-4b", 4.02, 0.005, HUB),
    ("qwen3-14b", 14.77, 0.005, HUB),
    ("gemma-2-9b", 9.24, 0.005, HUB),
    ("gemma-2-27b", 27.23, 0.005, HUB),
    ("gemma-3-12b", 12.19, 0.005, HUB),
    ("gemma-3-27b", 27.43, 0.005, HUB),
    ("phi-4", 14.66, 0.005, HUB),
    ("deepseek-v2", 236, 0.5, "arXiv 2405.04434"),
    ("deepseek-v2-lite", 15.7, 0.05, CARD),
    ("bloom-176b", 176.25, 0.005, HUB),
    ("falcon-180b", 180, 1.5, CARD),
    ("gpt-3-175b", 174.6, 0.05, "arXiv 2005.14165 table 2.1 (175.0, 174,600M exactly)"),
    ("opt-13b", 12.85, 0.005, HUB),
    ("opt-66b", 65.7, 0.05, "arXiv 2205.01068 appendix"),
    ("opt-175b", 175, 0.5, "arXiv 2205.01068 table 1"),
]

# small models of other families, exact counts of the reference implementations in thousands
SMALL = [
    (
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        124_439.808,
    ),
    (
        {
            "model_type": "opt",
            "activation_function": "relu",
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 2048,
            "vocab_size": 50272,
        },
        125_239.296,
    ),
    (
        {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
        },
        494_032.768,
    ),
    (
        {
            "model_type": "gemma",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "head_dim": 256,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "vocab_size": 256000,
            "max_position_embeddings": 8192,
            "hidden_act": "gelu",
        },
        2_506_172.416,
    ),
    (
        {
            "model_type": "gpt_neox",
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "vocab_size": 50304,
            "max_position_embeddings": 2048,
            "hidden_act": "gelu",
            "tie_word_embeddings": False,
        },
        70_426.624,
    ),
    (
        {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "head_dim": 64,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
        },
        1_235_814.400,
    ),
]

# larger models whose fields are public, in billions with the rounding of the published figure
PUBLIC_FIELDS = [
    (  # Kimi-Linear-48B-A3B: 49.1 B, 3 B active (arXiv 2510.26692 and hub)
        {
            "model_type": "kimi_linear",
            "hidden_size": 2304,
            "num_hidden_layers": 27,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 9216,
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1024,
            "num_experts": 256,
            "num_experts_per_token": 8,
            "num_shared_experts": 1,
            "vocab_size": 163840,
            "model_max_length": 1048576,
            "hidden_act": "silu",
            "linear_attn_config": {
                "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
                "head_dim": 128,
                "kda_layers": [
                    1,
                    2,
                    3,
                    5,
                    6,
                    7,
                    9,
                    10,
                    11,
                    13,
                    14,
                    15,
                    17,
                    18,
                    19,
                    21,
                    22,
                    23,
                    25,
                    26,
                ],
                "num_heads": 32,
                "short_conv_kernel_size": 4,
            },
        },
        49.1,
        0.05,
        3,
        0.5,
    ),
    (  # Qwen3-Next-80B-A3B: 80 B, 3 B active (card)
        {
            "model_type": "qwen3_next",
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "intermediate_size": 5120,
            "full_attention_interval": 4,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "moe_intermediate_size": 512,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "shared_expert_intermediate_size": 512,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "hidden_act": "silu",
        },
        80,
        0.5,
        3,
        0.9,
    ),
    (  # GLM-4.5: 355 B, 32 B active (arXiv 2508.06471)
        {
            "model_type": "glm4_moe",
            "hidden_size": 5120,
            "num_hidden_layers": 92,
            "num_attention_heads": 96,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "n_routed_experts": 160,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
            "attention_bias": True,
            "use_qk_norm": True,
            "vocab_size": 151552,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_nextn_predict_layers": 1,
        },
        355,
        0.5,
        32,
        0.5,
    ),
    (  # MiniMax-Text-01: 456 B, 45.9 B active (arXiv 2501.08313)
        {
            "model_type": "minimax_text_01",
            "hidden_size": 6144,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 9216,
            "num_local_experts": 32,
            "num_experts_per_tok": 2,
            "attn_type_list": ([0] * 7 + [1]) * 10,
            "vocab_size": 200064,
            "max_position_embeddings": 10240000,
            "hidden_act": "silu",
        },
        456,
        0.5,
        45.9,
        0.05,
    ),
]


def close(found: float, published: float, rounding: float) -> bool:
    return abs(found - published) <= max(0.01 * published, rounding)


@needs_configs
@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0].split("--")[1])
def test_totals_and_active_parameters_are_the_published_ones(
    row: tuple[str, float, float, float, float, bool, str],
) -> None:
    name, total, rounding, active, active_rounding, embedding, source = row
    model = load_model(config_path(name))
    assert close(total_parameters(model) / B, total, rounding), source
    if active:
        found = active_parameters(model, embedding=embedding) / B
        assert close(found, active, active_rounding), source


@pytest.mark.parametrize("row", BUNDLED, ids=lambda row: row[0])
def test_bundled_models_have_the_published_size(row: tuple[str, float, float, str]) -> None:
    name, total, rounding, source = row
    assert close(total_parameters(load_model(name)) / B, total, rounding), source


@pytest.mark.parametrize("config,thousands", SMALL, ids=lambda v: str(v)[:24])
def test_small_models_are_counted_to_the_last_parameter(
    config: dict[str, object], thousands: float
) -> None:
    model = model_from_config(config, name="small", where="config.json")
    assert total_parameters(model) == round(thousands * 1000)


@pytest.mark.parametrize("row", PUBLIC_FIELDS, ids=lambda row: str(row[0]["model_type"]))
def test_models_given_by_their_public_fields(
    row: tuple[dict[str, object], float, float, float, float],
) -> None:
    config, total, rounding, active, active_rounding = row
    model = model_from_config(config, name="public", where="config.json")
    assert close(total_parameters(model) / B, total, rounding)
    assert close(active_parameters(model, head=False) / B, active, active_rounding)


@needs_configs
def test_glm_5_publishes_its_active_parameters_without_the_head() -> None:
    """40 B (card)."""
    model = load_model(config_path("zai-org--GLM-5"))
    assert close(active_parameters(model, head=False) / B, 40, 0)


@needs_configs
def test_gemma_text_models_without_their_vision_tower() -> None:
    """Published without the tower: 25.2 B, 3.8 B active, and 30.7 B (the models' card)."""
    sparse = load_model(config_path("google--gemma-4-26B-A4B"))
    counts = parameter_counts(sparse)
    assert close((counts.total - counts.vision) / B, 25.2, 0.05)
    assert close(active_parameters(sparse) / B, 3.8, 0.05)
    dense = parameter_counts(load_model(config_path("nvidia--Gemma-4-31B-IT-NVFP4")))
    assert close((dense.total - dense.vision) / B, 30.7, 0.05)


@needs_configs
def test_deepseek_prediction_head_is_the_published_one() -> None:
    """11.5 B of its own (the repository's note on weights); 684.5 B with copied tables (hub)."""
    model = load_model(config_path("deepseek-ai--DeepSeek-V3"))
    counts = parameter_counts(model)
    assert close(counts.mtp / B, 11.5, 0.05)
    tables = 2 * model.vocab_size * model.hidden_size
    assert close((total_parameters(model, mtp=True) + tables) / B, 684.5, 0.05)
    assert total_parameters(model, mtp=True) == counts.total + counts.mtp


@needs_configs
def test_gpt_oss_parts_are_the_published_ones() -> None:
    """arXiv 2508.10925 table 1: MLP 114.71 B, attention 0.96 B, embedding and head 1.16 B."""
    counts = parameter_counts(load_model(config_path("openai--gpt-oss-120b")))
    assert close((counts.experts + counts.routers) / B, 114.71, 0.005)
    assert close(counts.mixers / B, 0.96, 0.005)
    assert close((counts.embedding + counts.lm_head) / B, 1.16, 0.005)


@pytest.mark.parametrize("name", bundled_models())
def test_parts_add_up(name: str) -> None:
    model = load_model(name)
    by_matrix = sum(
        group.count * weight.parameters
        for group in model.layers
        for weight in layer_weights(group.layer, model.hidden_size)
    ) + sum(weight.parameters for weight in outer_weights(model))
    assert by_matrix == total_parameters(model)
    assert active_parameters(model) <= active_parameters(model, embedding=True)
    assert active_parameters(model, embedding=True) <= total_parameters(model)
    assert all(layer_parameters(g.layer, model.hidden_size) > 0 for g in model.layers)


def test_weight_bytes_follow_the_formats() -> None:
    model = load_model("llama-3.1-70b")
    assert weight_bytes(model) == 2 * total_parameters(model)
    assert weight_bytes(with_weight_dtype(model, DType.FP32)) == 4 * total_parameters(model)
    assert with_weight_dtype(model, None) is model
    narrow = with_weight_dtype(model, DType.FP8)
    counts = parameter_counts(model)
    wide = counts.embedding + counts.lm_head + counts.norms
    assert weight_bytes(narrow) == 2 * wide + (counts.total - wide)


def test_an_override_removes_the_formats_of_single_layers() -> None:
    model = load_model("llama-3.1-8b")
    group = model.layers[0]
    own = dataclasses.replace(
        group.layer, formats=load_model("llama-3.1-70b-fp8").layers[0].layer.formats
    )
    mixed = dataclasses.replace(
        model, layers=(dataclasses.replace(group, layer=own),), mtp=(group,)
    )
    assert with_weight_dtype(mixed, DType.NVFP4).layers[0].layer.formats is None


def test_routed_experts_are_active_in_proportion() -> None:
    def active(top_k: int) -> int:
        config = {
            "model_type": "mixtral",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": top_k,
            "vocab_size": 100,
            "max_position_embeddings": 512,
            "hidden_act": "silu",
        }
        model: ModelSpec = model_from_config(config, name="m", where="c")
        return active_parameters(model)

    one = 2 * 3 * 64 * 128
    assert active(2) - active(1) == one
    assert active(8) - active(1) == 7 * one
