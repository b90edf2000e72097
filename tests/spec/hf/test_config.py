"""Models read from configurations: every real file, every kind of layer, every kind of mistake."""

from typing import Any

import pytest

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    NoFfn,
    NoMixer,
    StateSpace,
)
from plimsoll.spec.model_files import load_model, load_quantization
from tests.spec.model_configs import (
    CONFIGS,
    config_data,
    config_files,
    config_path,
    needs_configs,
    quant_files,
)

PLAIN_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


def read(**changes: Any) -> ModelSpec:
    return model_from_config(PLAIN_LLAMA | changes, name="m", where="config.json")


def layers(model: ModelSpec) -> list[Layer]:
    return [group.layer for group in model.layers for _ in range(group.count)]


def load(name: str) -> ModelSpec:
    return load_model(config_path(name))


@needs_configs
def test_the_files_are_all_there() -> None:
    assert len(config_files()) == 84 and len(quant_files()) == 25
    assert len(list(CONFIGS.iterdir())) == 109


@needs_configs
@pytest.mark.parametrize("path", config_files(), ids=lambda p: p.name[: -len("_config.json")])
def test_every_configuration_loads_and_survives_writing(path: Any) -> None:
    model = load_model(path)
    assert model.name in path.name
    assert from_data(ModelSpec, plain(model), where="again") == model


@needs_configs
@pytest.mark.parametrize("path", quant_files(), ids=lambda p: p.name)
def test_every_quantization_file_loads(path: Any) -> None:
    formats = load_quantization(path)
    assert formats.default.bits < 16 or formats.included.by_layer


@needs_configs
def test_layer_counts_are_the_configured_ones() -> None:
    for path in config_files():
        data = config_data(path.name[: -len("_config.json")])
        text = data.get("text_config", data)
        if "num_hidden_layers" in text:
            assert load_model(path).num_layers == text["num_hidden_layers"], path.name


@needs_configs
def test_first_layers_are_dense_then_experts() -> None:
    found = layers(load("deepseek-ai--DeepSeek-V3"))
    assert [isinstance(layer.ffn, DenseFfn) for layer in found] == [True] * 3 + [False] * 58
    ffn = found[3].ffn
    assert isinstance(ffn, MoeFfn)
    assert (ffn.num_experts, ffn.top_k, ffn.intermediate, ffn.shared_intermediate) == (
        256,
        8,
        2048,
        2048,
    )
    assert all(isinstance(layer.mixer, LatentAttention) for layer in found)


@needs_configs
def test_experts_in_every_other_layer_and_chunks_in_three_of_four() -> None:
    model = load("meta-llama--Llama-4-Maverick-17B-128E-Instruct")
    found = layers(model)
    assert [isinstance(layer.ffn, MoeFfn) for layer in found] == [False, True] * 24
    chunks = [layer.mixer.chunk for layer in found if isinstance(layer.mixer, Attention)]
    assert chunks == [8192, 8192, 8192, 0] * 12
    assert any("chunks" in text for text in model.assumptions)


@needs_configs
def test_windows_follow_the_listed_layers() -> None:
    model = load("openai--gpt-oss-120b")
    windows = [x.mixer.window for x in layers(model) if isinstance(x.mixer, Attention)]
    assert windows == [128, 0] * 18
    first = model.layers[0].layer.mixer
    assert isinstance(first, Attention) and first.sinks and first.qkv_bias and first.output_bias


@needs_configs
def test_window_layers_may_have_heads_of_their_own() -> None:
    found = layers(load("XiaomiMiMo--MiMo-V2-Flash"))
    full, window = found[0].mixer, found[1].mixer
    assert isinstance(full, Attention) and isinstance(window, Attention)
    assert (full.num_kv_heads, full.window, full.sinks) == (4, 0, False)
    assert (window.num_kv_heads, window.window, window.sinks) == (8, 128, True)
    assert (window.head_dim, window.v_head_dim) == (192, 128)


@needs_configs
def test_global_layers_with_wide_heads_and_no_value_matrix() -> None:
    found = layers(load("google--gemma-4-26B-A4B"))
    window, full = found[0].mixer, found[5].mixer
    assert isinstance(full, Attention) and isinstance(window, Attention)
    assert (window.head_dim, window.num_kv_heads, window.values_from_keys) == (256, 8, False)
    assert (full.head_dim, full.num_kv_heads, full.values_from_keys) == (512, 2, True)
    ffn = found[0].ffn
    assert isinstance(ffn, MoeFfn) and ffn.dense_intermediate == 2112 and ffn.intermediate == 704


@needs_configs
def test_linear_attention_in_three_of_four_layers() -> None:
    found = layers(load("Qwen--Qwen3.5-397B-A17B"))
    kinds = [isinstance(layer.mixer, LinearAttention) for layer in found]
    assert kinds == [True, True, True, False] * 15
    assert isinstance(found[3].mixer, Attention) and found[3].mixer.output_gate


@needs_configs
def test_delta_attention_beside_latent_attention() -> None:
    found = layers(load("moonshotai--Kimi-K3"))
    latent = [i for i, layer in enumerate(found) if isinstance(layer.mixer, LatentAttention)]
    assert len(latent) == 24 and latent[0] == 3 and latent[-2:] == [91, 92]
    mixer = found[0].mixer
    assert isinstance(mixer, LinearAttention) and mixer.per_channel_decay
    assert mixer.gate_rank == 0 and mixer.decay_rank == 128
    ffn = found[1].ffn
    assert isinstance(ffn, MoeFfn) and ffn.latent_dim == 3584


@needs_configs
def test_one_block_layers_from_a_pattern() -> None:
    found = layers(load("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"))
    assert len(found) == 52
    assert isinstance(found[0].mixer, StateSpace) and isinstance(found[0].ffn, NoFfn)
    assert isinstance(found[1].mixer, NoMixer) and isinstance(found[1].ffn, MoeFfn)
    assert isinstance(found[5].mixer, Attention) and not found[1].ffn.gated
    assert all(layer.num_norms == 1 for layer in found)


@needs_configs
def test_blocks_chosen_one_by_one() -> None:
    found = layers(load("nvidia--Llama-3_3-Nemotron-Super-49B-v1"))
    assert sum(isinstance(layer.mixer, NoMixer) for layer in found) == 31
    widths = {layer.ffn.intermediate for layer in found if isinstance(layer.ffn, DenseFfn)}
    assert 28672 in widths and len(widths) > 3


@needs_configs
def test_compression_and_its_indexer() -> None:
    found = layers(load("deepseek-ai--DeepSeek-V4-Flash"))
    ratios = [x.mixer.kv_reduction for x in found if isinstance(x.mixer, Attention)]
    assert (ratios.count(1), ratios.count(4), ratios.count(128)) == (2, 21, 20)
    for layer in found:
        mixer = layer.mixer
        assert isinstance(mixer, Attention) and mixer.keys_are_values and mixer.window == 128
        assert (mixer.indexer is not None) == (mixer.kv_reduction == 4)


@needs_configs
def test_shared_indexers_and_sparse_blocks() -> None:
    shared = [
        x.mixer.indexer.shared
        for x in layers(load("zai-org--GLM-5.2"))
        if isinstance(x.mixer, LatentAttention) and x.mixer.indexer
    ]
    assert (shared.count(False), shared.count(True)) == (21, 57)
    found = layers(load("MiniMaxAI--MiniMax-M3"))
    assert isinstance(found[0].mixer, Attention) and found[0].mixer.indexer is None
    assert isinstance(found[3].mixer, Attention) and found[3].mixer.indexer is not None
    assert found[3].mixer.indexer.block_tokens == 128
    assert found[3].mixer.indexer.top_k == 16 * 128


@needs_configs
@pytest.mark.parametrize(
    "name,count",
    [
        ("deepseek-ai--DeepSeek-V3", 1),
        ("MiniMaxAI--MiniMax-M2.5", 3),
        ("stepfun-ai--Step-3.7-Flash", 3),
        ("Qwen--Qwen3.5-27B", 1),
        ("nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 2),
        ("Qwen--Qwen3-8B", 0),
    ],
)
def test_prediction_heads(name: str, count: int) -> None:
    assert sum(group.count for group in load(name).mtp) == count


def test_an_unknown_type_is_read_by_its_fields_and_says_so() -> None:
    model = read(model_type="llamoid", architectures=["LlamoidForCausalLM"])
    known = read()
    assert model.layers == known.layers
    assert any("'llamoid' is not known" in text for text in model.assumptions)
    assert any("tie_word_embeddings" in text for text in model.assumptions)
    assert known.assumptions == ()


def test_what_is_missing_is_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        model_from_config({"model_type": "llama", "num_attention_heads": 8}, name="m", where="c")
    for field in (
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
        "num_hidden_layers",
        "intermediate_size",
    ):
        assert field in str(caught.value)
    with pytest.raises(SpecError, match="num_experts_per_tok.*moe_intermediate_size"):
        data = {k: v for k, v in PLAIN_LLAMA.items() if k != "intermediate_size"}
        model_from_config(data | {"num_experts": 8}, name="m", where="c")


@pytest.mark.parametrize(
    "field,value,words",
    [
        ("num_hidden_layers", 0, "out of range"),
        ("num_hidden_layers", 10**9, "out of range"),
        ("num_hidden_layers", "32", "'32' is not a whole number"),
        ("num_attention_heads", -8, "out of range"),
        ("num_key_value_heads", 3, "8 attention heads cannot share 3 KV heads"),
        ("num_attention_heads", 7, "cannot share"),
        ("hidden_size", float("nan"), "not a whole number"),
        ("hidden_size", 256.5, "not a whole number"),
        ("hidden_size", True, "not a whole number"),
        ("vocab_size", [], "not a whole number"),
        ("max_position_embeddings", {"a": 1}, "not a whole number"),
        ("tie_word_embeddings", "yes", "not true or false"),
        ("hidden_act", 3, "not the name of an activation"),
        ("layer_types", ["full_attention"], "1 entries for 4 layers"),
        ("layer_types", ["full_attention"] * 3 + ["magic"], "unknown kind of layer 'magic'"),
        ("layer_types", ["sliding_attention"] * 4, "sliding_window: missing"),
        ("layer_types", "full_attention", "expected a list"),
        ("torch_dtype", "float7", "unknown number format"),
        ("hybrid_override_pattern", "MX", "unknown layer 'X'"),
        ("text_config", 5, "expected a mapping"),
        ("num_experts", 2**20, "out of range"),
        ("quantization_config", {"bits": 4}, "quant_method"),
    ],
)
def test_absurd_values_are_refused_in_one_line(field: str, value: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(**{field: value})
    message = str(caught.value)
    assert message.startswith("config.json") and "\n" not in message
    assert words in message and (field in message or "KV heads" in message)


def test_heads_that_do_not_divide_the_width_need_a_head_dim() -> None:
    with pytest.raises(SpecError, match="does not divide hidden_size"):
        read(num_attention_heads=6, num_key_value_heads=2)
    model = read(num_attention_heads=6, num_key_value_heads=2, head_dim=64)
    assert isinstance(model.layers[0].layer.mixer, Attention)


def test_more_experts_chosen_than_there_are() -> None:
    with pytest.raises(SpecError, match="9 of 8 experts"):
        read(num_experts=8, num_experts_per_tok=9, moe_intermediate_size=64)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_encoder_decoder": True},
        {"word_embed_proj_dim": 128},
        {"quantization_config": {"quant_method": "magic"}},
        {"quantization_config": {"quant_algo": "MAGIC"}},
        {"layer_types": ["mamba"] * 4, "mamba_dt_rank": 16},
        {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 16},
        {"mamba_d_state": 64, "mamba_d_ssm": 512},
        {"lru_width": 256},
        {"type_vocab_size": 2},
    ],
)
def test_what_is_not_described_is_said_to_be_unsupported(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        read(**changes)


@pytest.mark.parametrize(
    "changes,windows",
    [
        ({"sliding_window": 128}, [128] * 4),
        ({"sliding_window": None}, [0] * 4),
        ({"sliding_window": 128, "use_sliding_window": False}, [0] * 4),
        (
            {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 3},
            [0, 0, 0, 128],
        ),
        ({"sliding_window": 128, "sliding_window_pattern": 2}, [128, 0, 128, 0]),
        ({"sliding_window": 128, "model_type": "gemma2"}, [128, 0, 128, 0]),
        (
            {"sliding_window": 128, "layer_types": ["full_attention", "sliding_attention"] * 2},
            [0, 128, 0, 128],
        ),
    ],
)
def test_ways_to_say_which_layers_have_a_window(
    changes: dict[str, Any], windows: list[int]
) -> None:
    found = [x.mixer.window for x in layers(read(**changes)) if isinstance(x.mixer, Attention)]
    assert found == windows


@pytest.mark.parametrize(
    "changes,sparse",
    [
        ({}, [True] * 4),
        ({"first_k_dense_replace": 1}, [False, True, True, True]),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"mlp_only_layers": [2]}, [True, True, False, True]),
        ({"moe_layer_freq": [0, 1, 1, 0]}, [False, True, True, False]),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}, [False, True, True, False]),
        ({"moe_layers": [3]}, [False, False, False, True]),
    ],
)
def test_ways_to_say_which_layers_have_experts(changes: dict[str, Any], sparse: list[bool]) -> None:
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    found = layers(read(**moe, **changes))
    assert [isinstance(layer.ffn, MoeFfn) for layer in found] == sparse


def test_conventions_of_older_families() -> None:
    gpt = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    model = model_from_config(gpt | {"vocab_size": 100}, name="g", where="c")
    mixer, ffn = model.layers[0].layer.mixer, model.layers[0].layer.ffn
    assert isinstance(mixer, Attention) and mixer.qkv_bias and mixer.output_bias
    assert isinstance(ffn, DenseFfn) and ffn.intermediate == 256 and not ffn.gated and ffn.bias
    assert model.tied_embeddings and model.position_embeddings == 128
    falcon = {"model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    falcon |= {"num_attention_heads": 4, "multi_query": True, "max_position_embeddings": 128}
    mixer = model_from_config(falcon, name="f", where="c").layers[0].layer.mixer
    assert isinstance(mixer, Attention) and mixer.num_kv_heads == 1


def test_layers_that_share_their_cache() -> None:
    found = layers(read(num_kv_shared_layers=1))
    shares = [x.mixer.kv_from_layer_below for x in found if isinstance(x.mixer, Attention)]
    assert shares == [False, False, False, True]


def test_attention_layers_named_by_their_numbers() -> None:
    mamba = {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
    found = layers(read(attn_layer_indices=[2], **mamba))
    assert [isinstance(x.mixer, StateSpace) for x in found] == [True, True, False, True]
    assert all(isinstance(x.ffn, DenseFfn) for x in found)


def test_lightning_attention_in_listed_layers() -> None:
    found = layers(read(attn_type_list=[0, 0, 0, 1]))
    assert [isinstance(x.mixer, LinearAttention) for x in found] == [True, True, True, False]
    mixer = found[0].mixer
    assert isinstance(mixer, LinearAttention) and mixer.conv_kernel == 0


def test_a_vision_tower_is_counted_with_the_model() -> None:
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "patch_size": 4}
    model = read(vision_config=tower | {"spatial_merge_size": 2, "num_position_embeddings": 16})
    layer = 4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 + (4 * 32 + 64 + 32)
    projector = 128 * 128 + 128 * 256 + 128 + 256
    assert model.vision is not None
    assert model.vision.parameters == 2 * layer + 3 * 16 * 32 + 16 * 32 + projector


def test_a_name_that_promises_quantization_without_settings_is_noted() -> None:
    model = model_from_config(PLAIN_LLAMA, name="Some-8B-NVFP4", where="c")
    assert any("no quantization settings" in text for text in model.assumptions)
    assert model.quantization.mixer is DType.BF16


def test_a_configuration_of_streams_has_them() -> None:
    model = read(model_type="qwen2_parscale", parscale_n=8, parscale_n_tokens=48)
    assert model.streams == 8 and model.name == "m, 8 streams"
    mixer = layers(model)[0].mixer
    assert isinstance(mixer, Attention) and mixer.qkv_bias
    assert not any("not known" in text for text in model.assumptions)
    assert read(parscale_n=1).streams == 1 and read().streams == 1
    with pytest.raises(UnsupportedError, match="parscale_n_tokens is 24"):
        read(parscale_n=4, parscale_n_tokens=24)
    with pytest.raises(UnsupportedError, match="a layer here has a window"):
        read(parscale_n=4, sliding_window=128, layer_types=["sliding_attention"] * 4)
    with pytest.raises(SpecError, match="parscale_n"):
        read(parscale_n=0)
