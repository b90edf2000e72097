"""Mixtral, Qwen3-MoE and gpt-oss against transformers, and the experts against a plain sum."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.gpt_oss import place_gpt_oss
from plimsoll.models.loading import load, load_config, save
from plimsoll.models.mixtral import gated_unit
from plimsoll.models.moe import Experts, MoeMlp, Router, TopKSoftmaxRouter
from plimsoll.spec.errors import UnsupportedError
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

TOLERANCE = 5e-5
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 16,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"num_local_experts": 5}),
    "mixtral window, tied": (
        "mixtral",
        {"num_local_experts": 4, "sliding_window": 6, "tie_word_embeddings": True},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20},
    ),
    "qwen3_moe dense layers": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "norm_topk_prob": True,
            "attention_bias": True,
            "decoder_sparse_step": 2,
            "num_hidden_layers": 4,
            "mlp_only_layers": [3],
        },
    ),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 5, "sliding_window": 7, "rope_parameters": YARN}),
    "gpt_oss clamped": ("gpt_oss", {"num_local_experts": 5, "swiglu_limit": 0.4}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_count(case: str, tmp_path: Path) -> None:
    model_type, changes = CASES[case]
    config = small_config(model_type, **changes)
    differences = largest_differences(config, tmp_path)
    assert max(differences.values()) < TOLERANCE, differences
    spec = model_from_config(load_config(tmp_path), name="small", where="config.json")
    assert parameter_count(load(tmp_path)) == total_parameters(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_saved_again_transformers_reads_it(case: str, tmp_path: Path) -> None:
    model_type, changes = CASES[case]
    reference = write_checkpoint(small_config(model_type, **changes), tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    again = type(reference).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    tokens = random_tokens(9)
    assert torch.equal(reference_logits(reference, tokens), reference_logits(again, tokens))


@pytest.mark.parametrize("part", ["sinks", "gate.bias", "up_bias", "down_bias"])
def test_small_parts_of_gpt_oss_matter(part: str, tmp_path: Path) -> None:
    model_type, changes = CASES["gpt_oss"]
    write_checkpoint(small_config(model_type, **changes), tmp_path)
    model, tokens = load(tmp_path), random_tokens(20)
    before = full_logits(model, tokens)
    touched = 0
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(part):
                parameter.fill_(-1e9 if part == "sinks" else 0.0)
                touched += 1
    assert touched == 3
    assert (full_logits(model, tokens) - before).abs().max() > 1e-2


def test_windows_of_gpt_oss_matter(tmp_path: Path) -> None:
    model_type, changes = CASES["gpt_oss"]
    write_checkpoint(small_config(model_type, **changes), tmp_path)
    tokens = random_tokens(20)
    windowed = full_logits(load(tmp_path), tokens)
    config = load_config(tmp_path) | {"layer_types": ["full_attention"] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    full = full_logits(load(tmp_path), tokens)
    assert torch.allclose(full[:7], windowed[:7], atol=1e-5)
    assert (full[8:] - windowed[8:]).abs().max() > 1e-2


def test_quantized_gpt_oss_is_refused(tmp_path: Path) -> None:
    write_checkpoint(small_config("gpt_oss", num_local_experts=4), tmp_path)
    config = load_config(tmp_path) | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnsupportedError, match="quantized"):
        load(tmp_path)
    with pytest.raises(UnsupportedError, match="MXFP4"):
        list(place_gpt_oss("model.layers.0.mlp.experts.down_proj_blocks", torch.empty(1), {}))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 9])
def test_experts_are_a_weighted_sum(bias: bool, tokens: int) -> None:
    torch.manual_seed(0)
    experts = Experts(8, 6, 5, gated_unit("silu"), bias=bias)
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    x_TC = torch.randn(tokens, 8)
    weights_Tk, experts_Tk = TopKSoftmaxRouter(8, 5, 3)(x_TC)
    expected = torch.zeros_like(x_TC)
    for token in range(tokens):
        for weight, e in zip(weights_Tk[token], experts_Tk[token], strict=True):
            gate, up = experts.gate_proj[e] @ x_TC[token], experts.up_proj[e] @ x_TC[token]
            if bias:
                assert experts.gate_bias is not None and experts.up_bias is not None
                gate, up = gate + experts.gate_bias[e], up + experts.up_bias[e]
            y = experts.down_proj[e] @ (nn.functional.silu(gate) * up)
            if bias:
                assert experts.down_bias is not None
                y = y + experts.down_bias[e]
            expected[token] += weight * y
    assert torch.allclose(experts.looped(x_TC, weights_Tk, experts_Tk), expected, atol=1e-4)
    assert torch.allclose(experts.gathered(x_TC, weights_Tk, experts_Tk), expected, atol=1e-4)


def test_gradients_reach_router_and_chosen_experts() -> None:
    torch.manual_seed(0)
    mlp = MoeMlp(Router(8, 4, 2, normalize=True), Experts(8, 6, 4, gated_unit("silu")))
    mlp(torch.randn(5, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mlp.parameters())
