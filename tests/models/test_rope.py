"""Rotary variants against transformers, and what holds for any rotation."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from plimsoll.models.loading import build, load, load_config
from plimsoll.models.rope import (
    ROPE_KINDS,
    RopeSettings,
    Rotary,
    frequencies,
    read_rope,
    set_max_length,
    yarn_mscale,
)
from plimsoll.spec.errors import SpecError, UnsupportedError
from tests.models.checkpoints import full_logits, largest_differences, random_tokens, small_config
from tests.models.checkpoints import write_checkpoint as write

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.3 * i for i in range(8)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": YARN,
    "yarn-mscale": YARN
    | {"mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 8, "beta_slow": 2, "truncate": False},
    "yarn-factor": YARN | {"attention_factor": 1.3},
    "llama3": LLAMA3,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    rope = {"rope_theta": 1e4} | VARIANTS[name]
    differences = largest_differences(small_config("llama", rope_parameters=rope), tmp_path)
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize("name", VARIANTS)
def test_the_old_spelling_is_the_same(name: str, tmp_path: Path) -> None:
    rope = {"rope_theta": 500.0} | VARIANTS[name]
    write(small_config("llama", rope_parameters=rope), tmp_path)
    expected = full_logits(load(tmp_path), random_tokens(20))
    config = load_config(tmp_path)
    old = dict(config.pop("rope_parameters"))
    config |= {
        "rope_theta": old.pop("rope_theta"),
        "rope_scaling": old | {"type": old["rope_type"]},
    }
    del config["rope_scaling"]["rope_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(full_logits(load(tmp_path), random_tokens(20)), expected)


def test_dynamic_beyond_the_trained_length(tmp_path: Path) -> None:
    """A whole pass of 90 where 64 were trained, when told that 90 is the longest."""
    rope = {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 3.0}
    config = small_config("llama", rope_parameters=rope)
    reference = write(config, tmp_path)
    tokens = random_tokens(90)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    told, untold = load(tmp_path, max_length=90), load(tmp_path)
    assert (full_logits(told, tokens) - expected).abs().max() < 1e-4
    assert (full_logits(untold, tokens) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("original", [16, 33])
def test_longrope_on_both_sides_of_the_trained_length(original: int, tmp_path: Path) -> None:
    """33 tokens take the long factors where 16 were trained, the short ones where 33 were."""
    config = small_config(
        "phi3",
        hidden_size=96,
        original_max_position_embeddings=original,
        rope_parameters={"rope_theta": 1e4} | LONG,
    )
    reference = write(config, tmp_path)
    tokens = random_tokens(33)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    assert (full_logits(load(tmp_path, max_length=33), tokens) - expected).abs().max() < 1e-4
    by_default = (full_logits(load(tmp_path), tokens) - expected).abs().max()
    assert (by_default < 1e-4) == (original == 16)  # 64 positions: long factors


def test_longrope_in_chunks(tmp_path: Path) -> None:
    """One length decides for all sequences, so keys of early chunks stay valid."""
    config = small_config(
        "phi3",
        hidden_size=96,
        original_max_position_embeddings=16,
        rope_parameters={"rope_theta": 1e4} | LONG,
    )
    assert max(largest_differences(config, tmp_path).values()) < 1e-4


def test_phi3s_old_name_of_longrope() -> None:
    config = small_config("phi3", hidden_size=96).to_dict()
    del config["rope_parameters"]
    config |= {"rope_theta": 1e4, "original_max_position_embeddings": 16}
    models = []
    for kind in ("longrope", "su", "yarn"):
        scaling = {k: v for k, v in LONG.items() if k != "rope_type"} | {"type": kind}
        models.append(build(config | {"rope_scaling": scaling}))
    rotaries = [m for model in models for m in model.modules() if isinstance(m, Rotary)]  # type: ignore[attr-defined]
    assert {r.settings.kind for r in rotaries} == {"longrope"}
    assert all(torch.equal(r.inv_freq, rotaries[0].inv_freq) for r in rotaries)


def test_gemma3s_old_spelling(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    }
    write(small_config("gemma3_text", num_hidden_layers=6, rope_parameters=rope), tmp_path)
    expected = full_logits(load(tmp_path), random_tokens(20))
    config = load_config(tmp_path)
    for name in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
        config.pop(name, None)
    config |= {"rope_theta": 5e5, "rope_local_base_freq": 300.0}
    config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(full_logits(load(tmp_path), random_tokens(20)), expected)


def settings(**changes: Any) -> RopeSettings:
    return RopeSettings(
        **({"kind": "default", "dim": 8, "theta": 100.0, "max_positions": 64} | changes)
    )


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_distances_only(interleaved: bool) -> None:
    rotary = Rotary(settings(), interleaved=interleaved)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 12).double()

    def score(query_at: int, key_at: int) -> torch.Tensor:
        turned_q, _ = rotary(q, q, torch.tensor([query_at]))
        turned_k, _ = rotary(k, k, torch.tensor([key_at]))
        return (turned_q * turned_k).sum(-1)

    assert torch.allclose(score(9, 4), score(25, 20), atol=1e-5)
    assert not torch.allclose(score(9, 4), score(9, 5), atol=1e-2)
    turned, _ = rotary(q, q, torch.tensor([5]))
    assert torch.equal(turned[..., 8:], q[..., 8:]), "the rest of the head passes"
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-6)


def test_interleaved_pairs_are_complex_numbers() -> None:
    """Neighbors are real and imaginary part of a number turned by its angle."""
    torch.manual_seed(0)
    x_THD = torch.randn(5, 2, 8)
    rotary = Rotary(settings(), interleaved=True)
    positions = torch.tensor([0, 1, 7, 8, 30])
    angles = positions[:, None] * rotary.inv_freq
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x_THD.unflatten(-1, (4, 2)))
    expected = torch.view_as_real(pairs * turn).flatten(-2)
    found, _ = rotary(x_THD, x_THD, positions)
    assert torch.allclose(found, expected, atol=1e-6)


def test_layouts_differ_by_an_order_of_numbers() -> None:
    torch.manual_seed(0)
    x_THD = torch.randn(5, 2, 8)
    at = torch.arange(5)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    neighbors, _ = Rotary(settings(), interleaved=True)(x_THD, x_THD, at)
    halves, _ = Rotary(settings())(x_THD[..., order], x_THD[..., order], at)
    assert torch.allclose(neighbors[..., order], halves)


def test_other_positions_turn_otherwise() -> None:
    """What is kept from one pass is not given to the next."""
    x_THD = torch.ones(3, 1, 8)
    rotary = Rotary(settings())
    first, _ = rotary(x_THD, x_THD, torch.arange(3))
    other, _ = rotary(x_THD, x_THD, torch.arange(1, 4))
    assert torch.equal(first[1:], other[:-1])
    assert not torch.equal(first, other)
    assert rotary(x_THD.bfloat16(), x_THD, torch.arange(3))[0].dtype == torch.bfloat16


def test_angles_stay_exact_in_half_precision() -> None:
    rotary = Rotary(settings(dim=64, theta=1e4))
    exact = rotary.inv_freq.clone()
    assert torch.equal(rotary.to(torch.bfloat16).inv_freq, exact)
    assert not list(rotary.parameters()) and not rotary.state_dict()


def test_the_longest_sequence_can_be_told_later() -> None:
    rope = {"rope_theta": 1e4} | VARIANTS["dynamic"]
    config = small_config("llama", rope_parameters=rope).to_dict()
    told = build(config, max_length=200)
    later = build(config)
    set_max_length(later, 200)  # type: ignore[arg-type]
    first, second = (
        next(m for m in model.modules() if isinstance(m, Rotary))  # type: ignore[attr-defined]
        for model in (told, later)
    )
    assert torch.equal(first.inv_freq, second.inv_freq)
    assert not torch.equal(first.inv_freq, frequencies(first.settings)[0])


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    one = settings(kind="yarn", dim=64, theta=1e4, factor=4.0, original_max_positions=64)
    plain, _ = frequencies(settings(dim=64, theta=1e4))
    stretched, scale = frequencies(one)
    assert stretched[0] == plain[0]
    assert torch.isclose(stretched[-1] * 4, plain[-1])
    assert scale == yarn_mscale(4.0) == 0.1 * math.log(4.0) + 1.0
    assert yarn_mscale(0.5) == 1.0


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"rope_scaling": {"type": "mrope"}}, UnsupportedError, "'mrope' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, SpecError, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, SpecError, "not a number"),
        ({"partial_rotary_factor": 0.4}, SpecError, "3 numbers in heads of 8"),
        ({"partial_rotary_factor": 2}, SpecError, "16 numbers in heads of 8"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, SpecError, "max_position"),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0]}, "max_position_embeddings": 8},
            SpecError,
            "short_factor has 1 numbers; expected 4",
        ),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": None}}, SpecError, "low_freq_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, SpecError, "original_max_position"),
    ],
)
def test_bad_settings(config: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_rope(config, 8)


def test_every_kind_is_tested() -> None:
    tested = {v["rope_type"] for v in VARIANTS.values()} | {LONG["rope_type"]}
    assert tested == set(ROPE_KINDS)
