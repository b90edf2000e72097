"""Llama, Mistral, Qwen2 and Qwen3 against transformers on small random checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from plimsoll.models.context import FullContext, GrowingContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.loading import load
from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.parameters import total_parameters

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama 3 rope": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "mistral window": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_logits_and_count(name: str, tmp_path: Path) -> None:
    family, more = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**BASE, **more, attn_implementation="eager")
    rival = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in rival.parameters():
            parameter.normal_(0.0, 0.25)
    rival.save_pretrained(tmp_path)
    ours = load(tmp_path)
    tokens = torch.randint(0, 97, (2, 40))
    with torch.inference_mode():
        expected = rival(tokens).logits
        context = FullContext(2, 40)
        full = ours.logits(ours(tokens.flatten(), context.positions(), context))
        assert torch.allclose(full.view(2, 40, -1), expected, atol=1e-4)
        growing = GrowingContext()
        found: list[list[torch.Tensor]] = [[], []]
        at = [0, 0]
        for sizes in ((7, 1), (1, 12), (5, 1), (1, 1), (26, 25)):
            positions = growing.begin([(0, sizes[0]), (1, sizes[1])])
            part = torch.cat([tokens[i, at[i] : at[i] + sizes[i]] for i in range(2)])
            logits = ours.logits(ours(part, positions, growing))
            found[0].append(logits[: sizes[0]])
            found[1].append(logits[sizes[0] :])
            at = [at[0] + sizes[0], at[1] + sizes[1]]
        chunked = torch.stack([torch.cat(rows) for rows in found])
        assert torch.allclose(chunked, expected, atol=1e-4)
    spec = model_from_config(ours.config, name="small", where="config.json")
    assert total_parameters(spec) == parameter_count(ours)  # type: ignore[arg-type]


def test_the_window_matters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**BASE, sliding_window=7)
    rival = transformers.MistralForCausalLM(config)
    rival.save_pretrained(tmp_path)
    narrow = load(tmp_path)
    text = (
        (tmp_path / "config.json")
        .read_text()
        .replace('"sliding_window": 7', '"sliding_window": 30')
    )
    (tmp_path / "config.json").write_text(text)
    wide = load(tmp_path)
    tokens = torch.randint(0, 97, (40,))
    with torch.inference_mode():
        context = FullContext(1, 40)
        a, b = (m(tokens, context.positions(), FullContext(1, 40)) for m in (narrow, wide))
    assert torch.allclose(a[:7], b[:7], atol=1e-5) and not torch.allclose(a[20:], b[20:], atol=1e-3)
