"""Every dense family against transformers: full, chunked and cached passes; counts; round trips."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.loading import build, load, load_config, save
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.parameters import total_parameters
from tests.models.checkpoints import (
    full_logits,
    largest_differences,
    random_tokens,
    reference_logits,
    small_config,
    write_checkpoint,
)

TOLERANCE = 1e-4
GEMMA = {"sliding_window": 6, "query_pre_attn_scalar": 20, "tie_word_embeddings": True}
BY_TYPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases-tied": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 6}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "mistral-no-window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-upper-windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"attention_bias": True}),
    "phi3": ("phi3", {"hidden_size": 96}),
    "phi3-window-partial": (
        "phi3",
        {
            "hidden_size": 96,
            "sliding_window": 6,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
    "gemma2": ("gemma2", GEMMA),
    "gemma2-untied-tight-caps": (
        "gemma2",
        GEMMA
        | {
            "tie_word_embeddings": False,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": ("gemma3_text", GEMMA | {"num_hidden_layers": 7}),
    "gemma3-two-waves": (
        "gemma3_text",
        GEMMA
        | {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": BY_TYPE,
            "final_logit_softcapping": 3.0,
        },
    ),
}
in_every_case = pytest.mark.parametrize("case", CASES)


def config_of(case: str) -> Any:
    model_type, changes = CASES[case]
    return small_config(model_type, **changes)


@in_every_case
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    differences = largest_differences(config_of(case), tmp_path)
    assert max(differences.values()) < TOLERANCE, differences


@in_every_case
def test_parameters_are_what_the_specification_counts(case: str) -> None:
    config = config_of(case)
    ours = build(config.to_dict(), device="meta")
    spec = model_from_config(config.to_dict(), name=case, where="config.json")
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    assert parameter_count(ours) == theirs.num_parameters()  # type: ignore[arg-type]
    assert parameter_count(ours) == total_parameters(spec)  # type: ignore[arg-type]


@in_every_case
def test_saved_models_are_read_by_transformers(case: str, tmp_path: Path) -> None:
    """Read, written again and read by the other side: the same bits by the same names."""
    reference = write_checkpoint(config_of(case), tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    state = again.state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    tokens = random_tokens(9)
    assert torch.equal(reference_logits(reference, tokens), reference_logits(again, tokens))


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mistral-window", {"sliding_window": None}),
        ("qwen2-upper-windows", {"layer_types": ["full_attention"] * 3}),
        ("phi3-window-partial", {"sliding_window": 7}),
        ("gemma2-untied-tight-caps", {"attn_logit_softcapping": None}),
        ("gemma2-untied-tight-caps", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 21}),
        ("gemma2", {"layer_types": ["full_attention"] * 3}),
        ("gemma3-two-waves", {"rope_parameters": BY_TYPE | {"sliding_attention": {}}}),
        ("gemma3-two-waves", {"rope_parameters": BY_TYPE | {"full_attention": {}}}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
def test_every_setting_shows(case: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """With one setting changed the logits are others, so the tests above can fail."""
    write_checkpoint(config_of(case), tmp_path)
    tokens = random_tokens(20)
    before = full_logits(load(tmp_path), tokens)
    config = load_config(tmp_path) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (full_logits(load(tmp_path), tokens) - before).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("case", ["llama", "qwen3", "phi3", "gemma2", "gemma3"])
def test_bf16(case: str, tmp_path: Path) -> None:
    """As stored, and widened on loading; both beside transformers in the same format."""
    write_checkpoint(config_of(case), tmp_path, dtype=torch.bfloat16)
    tokens = random_tokens(20)

    def expected(dtype: torch.dtype) -> torch.Tensor:
        reference = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=dtype, attn_implementation="eager"
        )
        return reference_logits(reference, tokens)

    half = load(tmp_path)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]
    theirs = expected(torch.bfloat16)
    assert (full_logits(half, tokens) - theirs).std() < 0.05 * theirs.std()
    wide = full_logits(load(tmp_path, dtype=torch.float32), tokens)
    assert (wide - expected(torch.float32)).abs().max() < TOLERANCE


def test_a_multimodal_checkpoint_gives_its_language_model(tmp_path: Path) -> None:
    """Old and new names; the vision tower's tensors are left alone."""
    from safetensors.torch import load_file, save_file

    write_checkpoint(config_of("gemma3"), tmp_path)
    tokens = random_tokens(9)
    expected = full_logits(load(tmp_path), tokens)
    text = load_config(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for old, new in (("", "language_model."), ("model.", "model.language_model.")):
        tensors = {n.replace(old, new, 1): t for n, t in plain.items()}
        tensors["vision_tower.patch.weight"] = torch.zeros(2)
        save_file(tensors, tmp_path / "model.safetensors")
        assert torch.equal(full_logits(load(tmp_path), tokens), expected)
