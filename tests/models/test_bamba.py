"""Bamba against transformers; the Mamba-2 recurrence against one step at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plimsoll.models.context import FullContext, GrowingContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.loading import load, load_config, save
from plimsoll.models.mamba2 import scan
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
STATE_SPACE: dict[str, Any] = {
    "attn_layer_indices": [1],
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 10,
    "mamba_chunk_size": 8,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one group, biases, tied": {
        "mamba_n_groups": 1,
        "mamba_proj_bias": True,
        "mlp_bias": True,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "no convolution bias": {
        "mamba_conv_bias": False,
        "mamba_d_conv": 3,
        "attn_layer_indices": [0, 2],
    },
}


def small(case: str) -> Any:
    return small_config("bamba", **(STATE_SPACE | CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_count(case: str, tmp_path: Path) -> None:
    differences = largest_differences(small(case), tmp_path)
    assert max(differences.values()) < TOLERANCE, differences
    model = load(tmp_path)
    assert model.has_states
    assert list(model.kv_shapes) == small(case).attn_layer_indices
    spec = model_from_config(load_config(tmp_path), name="small", where="config.json")
    assert parameter_count(model) == total_parameters(spec)  # type: ignore[arg-type]


def test_longer_than_a_block(tmp_path: Path) -> None:
    reference = write_checkpoint(small("plain"), tmp_path)
    tokens = random_tokens(150)
    difference = full_logits(load(tmp_path), tokens) - reference_logits(reference, tokens)
    assert difference.abs().max() < TOLERANCE


def test_saved_again_transformers_reads_it(tmp_path: Path) -> None:
    reference = write_checkpoint(small("one group, biases, tied"), tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    again = type(reference).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    tokens = random_tokens(9)
    assert torch.equal(reference_logits(reference, tokens), reference_logits(again, tokens))


@pytest.mark.parametrize("part", ["x_conv_bias", "bc_conv", "dt_bias", "A_log", ".D"])
def test_small_parts_matter(part: str, tmp_path: Path) -> None:
    write_checkpoint(small("plain"), tmp_path)
    model, tokens = load(tmp_path), random_tokens(20)
    before = full_logits(model, tokens)
    assert isinstance(model, nn.Module)
    touched = [p for name, p in model.named_parameters() if name.endswith(part)]
    assert len(touched) == 2
    with torch.no_grad():
        for parameter in touched:
            parameter.zero_()
    assert (full_logits(model, tokens) - before).abs().max() > 1e-3


def test_forgotten_states_show(tmp_path: Path) -> None:
    write_checkpoint(small("plain"), tmp_path)
    model, tokens = load(tmp_path), random_tokens(12)
    expected = full_logits(model, tokens)

    def second_pass(name: str) -> torch.Tensor:
        context = GrowingContext()
        with torch.no_grad():
            model(tokens[:6], context.begin([(0, 6)]), context)
            positions = context.begin([(0, 6)])
            for layer in (0, 2):
                context.states(layer)[0].pop(name, None)
            return model.logits(model(tokens[6:], positions, context))

    assert torch.allclose(second_pass("none"), expected[6:], atol=TOLERANCE)
    for name in ("ssm", "conv_x", "conv_bc"):
        assert (second_pass(name) - expected[6:]).abs().max() > 1e-3


def test_states_have_a_fixed_size(tmp_path: Path) -> None:
    write_checkpoint(small("plain"), tmp_path)
    model, context = load(tmp_path), GrowingContext()
    sizes = []
    for n in (1, 5, 2):
        with torch.no_grad():
            model(random_tokens(n), context.begin([(0, n)]), context)
        sizes.append({name: t.shape for name, t in context.states(0)[0].items()})
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0]["ssm"] == (6, 16, 10)


def test_scan_is_the_recurrence() -> None:
    torch.manual_seed(0)
    x, decay = torch.randn(100, 4, 3), -torch.rand(100, 4)
    b, c, state = torch.randn(100, 2, 5), torch.randn(100, 2, 5), torch.randn(4, 3, 5)
    expected = []
    h = state
    for t in range(100):
        b_HN, c_HN = b[t].repeat_interleave(2, dim=0), c[t].repeat_interleave(2, dim=0)
        h = h * decay[t].exp()[:, None, None] + x[t][..., None] * b_HN[:, None]
        expected.append((h * c_HN[:, None]).sum(-1))
    y, last = scan(x, decay, b, c, state)
    assert torch.allclose(y, torch.stack(expected), atol=1e-4)
    assert torch.allclose(last, h, atol=1e-4)


def test_gradients_reach_every_parameter(tmp_path: Path) -> None:
    write_checkpoint(small("plain"), tmp_path)
    model = load(tmp_path)
    assert isinstance(model, nn.Module)
    context = FullContext(2, 9)
    tokens = random_tokens(18)
    model.logits(model(tokens, context.positions(), context)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name
