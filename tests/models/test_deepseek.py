"""DeepSeek-V2 and V3 against transformers, and latent attention against its unabsorbed form."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plimsoll.models.context import KvShape
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.deepseek import GroupedSigmoidRouter, GroupedSoftmaxRouter
from plimsoll.models.loading import build, load, load_config, save
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.parameters import total_parameters
from tests.models import checkpoints
from tests.models.checkpoints import (
    full_logits,
    largest_differences,
    random_tokens,
    reference_logits,
    small_config,
    write_checkpoint,
)

TOLERANCE = 5e-5
LATENT: dict[str, Any] = {
    "kv_lora_rank": 20,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_key_value_heads": 6,
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.9,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 16,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2 lite": ("deepseek_v2", {"q_lora_rank": None, "routed_scaling_factor": 1.0}),
    "v2 groups, yarn": (
        "deepseek_v2",
        {
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": YARN,
        },
    ),
    "v3": ("deepseek_v3", {"head_dim": 8, "n_group": 4, "topk_group": 2, "rope_parameters": YARN}),
    "v3 plain": (
        "deepseek_v3",
        {
            "head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "rope_interleave": False,
            "q_lora_rank": None,
        },
    ),
}


@pytest.fixture(autouse=True)
def random_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers holds the routers' corrections as buffers: make them random too."""
    randomize = checkpoints.randomize

    def with_buffers(model: nn.Module, seed: int = 0) -> None:
        randomize(model, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)

    monkeypatch.setattr(checkpoints, "randomize", with_buffers)


def small(case: str) -> Any:
    model_type, changes = CASES[case]
    return small_config(model_type, **(LATENT | changes))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_count(case: str, tmp_path: Path) -> None:
    differences = largest_differences(small(case), tmp_path)
    assert max(differences.values()) < TOLERANCE, differences
    model = load(tmp_path)
    spec = model_from_config(load_config(tmp_path), name="small", where="config.json")
    assert parameter_count(model) == total_parameters(spec)  # type: ignore[arg-type]
    shape = KvShape(num_heads=1, key_dim=28, value_dim=0, latent_dim=20)
    assert model.kv_shapes == dict.fromkeys(range(3), shape)


@pytest.mark.parametrize("case", ["v2 lite", "v3"])
def test_saved_again_transformers_reads_it(case: str, tmp_path: Path) -> None:
    reference = write_checkpoint(small(case), tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    again = type(reference).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    tokens = random_tokens(9)
    assert torch.equal(reference_logits(reference, tokens), reference_logits(again, tokens))


@pytest.mark.parametrize("part", ["e_score_correction_bias", "kv_a_layernorm.weight"])
def test_small_parts_matter(part: str, tmp_path: Path) -> None:
    write_checkpoint(small("v3"), tmp_path)
    model, tokens = load(tmp_path), random_tokens(20)
    before = full_logits(model, tokens)
    assert isinstance(model, nn.Module)
    touched = [p for name, p in model.named_parameters() if name.endswith(part)]
    assert len(touched) == (2 if "bias" in part else 3)
    with torch.no_grad():
        for parameter in touched:
            parameter.zero_()
    assert (full_logits(model, tokens) - before).abs().max() > 1e-2


def test_corrections_stay_in_float32(tmp_path: Path) -> None:
    reference = write_checkpoint(small("v3"), tmp_path)
    exact = reference.model.layers[1].mlp.gate.e_score_correction_bias
    model = load(tmp_path, dtype=torch.bfloat16)
    assert isinstance(model, nn.Module)
    name = "layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(model.get_parameter(name), exact)
    assert torch.equal(load(tmp_path).to(torch.bfloat16).get_parameter(name), exact)  # type: ignore[attr-defined]
    assert model.get_parameter("layers.1.mlp.gate.weight").dtype == torch.bfloat16
    assert full_logits(model, random_tokens(9)).isfinite().all()


def chosen_by_hand(scores_E: Tensor, weigh_groups: Any, top_groups: int, top_k: int) -> set[int]:
    groups = scores_E.view(4, 2)
    ranked = sorted(range(4), key=lambda g: -float(weigh_groups(groups[g])))[:top_groups]
    members = [2 * g + i for g in ranked for i in range(2)]
    return set(sorted(members, key=lambda e: -float(scores_E[e]))[:top_k])


def test_routers_choose_within_the_best_groups() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_groups": 4, "top_groups": 2, "scale": 2.0}
    softmax = GroupedSoftmaxRouter(8, 8, 3, **sizes)
    sigmoid = GroupedSigmoidRouter(8, 8, 3, normalize=True, **sizes)
    nn.init.normal_(sigmoid.e_score_correction_bias)
    logits = torch.randn(50, 8)
    with torch.no_grad():
        _, by_softmax = softmax.choose(logits)
        weights, by_sigmoid = sigmoid.choose(logits)
    corrected = logits.sigmoid() + sigmoid.e_score_correction_bias.detach()
    for i in range(50):
        assert set(by_softmax[i].tolist()) == chosen_by_hand(logits[i], max, 2, 3)
        assert set(by_sigmoid[i].tolist()) == chosen_by_hand(corrected[i], sum, 2, 3)
    assert torch.allclose(weights.sum(dim=-1), torch.full((50,), 2.0))


@pytest.mark.parametrize(
    "changes", [{"norm_topk_prob": True}, {"topk_method": "noaux_tc"}], ids=lambda c: next(iter(c))
)
def test_unknown_routing_of_v2_is_refused(changes: dict[str, Any]) -> None:
    config = small("v2 lite").to_dict() | changes
    with pytest.raises(UnsupportedError, match=next(iter(changes))):
        build(config)
