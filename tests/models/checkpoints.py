"""Small random checkpoints made by transformers, and three ways of running ours on them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from plimsoll.models.context import Decoder, FullContext, GrowingContext
from plimsoll.models.loading import load

VOCABULARY = 97


def small_config(model_type: str, **changes: Any) -> Any:
    """A transformers configuration of few small layers."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.AutoConfig.for_model(model_type, **(sizes | changes))


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights, norms and biases large enough that an error in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.ndim == 1 else 1.2 * parameter.shape[-1] ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            rest = parameter.mean() if "norm" in name and parameter.ndim == 1 else 0.0
            parameter.copy_(noise + rest)


def write_checkpoint(config: Any, folder: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """Make a random model, save it into ``folder``, return transformers' model."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    return model


def random_tokens(length: int, seed: int = 3) -> Tensor:
    """[length] tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator)


def reference_logits(model: Any, tokens_T: Tensor) -> Tensor:
    """[T, V] of transformers' full pass."""
    with torch.no_grad():
        return model(tokens_T[None]).logits[0].float()


def full_logits(model: Decoder, tokens_T: Tensor) -> Tensor:
    """[T, V] of one pass without a cache."""
    context = FullContext(1, len(tokens_T))
    with torch.no_grad():
        return model.logits(model(tokens_T, context.positions(), context)).float()


def interleaved_logits(
    model: Decoder, sequences: list[Tensor], chunks: Iterable[int]
) -> list[Tensor]:
    """[T, V] of each sequence, run together in chunks; later sequences are a chunk behind.

    Chunks repeat until all sequences end.
    """
    context = GrowingContext()
    sizes = list(chunks)
    done = [0] * len(sequences)
    found: list[list[Tensor]] = [[] for _ in sequences]
    step = 0
    while any(at < len(s) for at, s in zip(done, sequences, strict=True)):
        plan = []
        for i, sequence in enumerate(sequences[: step + 1]):
            size = min(sizes[(step + i) % len(sizes)], len(sequence) - done[i])
            if size:
                plan.append((i, size))
        positions = context.begin(plan)
        tokens = torch.cat([sequences[i][done[i] : done[i] + n] for i, n in plan])
        with torch.no_grad():
            logits = model.logits(model(tokens, positions, context)).float()
        for (i, n), part in zip(plan, logits.split([n for _, n in plan]), strict=True):
            found[i].append(part)
            done[i] += n
        step += 1
    return [torch.cat(parts) for parts in found]


def largest_differences(
    config: Any, folder: Path, *, length: int = 33, **options: Any
) -> dict[str, float]:
    """Largest distance of logits to transformers' full pass, for each way of running ours."""
    reference = write_checkpoint(config, folder)
    model = load(folder, **options)
    sequences = [random_tokens(length), random_tokens(length - 7, seed=4)]
    expected = [reference_logits(reference, s) for s in sequences]
    assert expected[0].std() > 0.05, "the reference hardly depends on its weights"
    runs = {
        "full": [full_logits(model, s) for s in sequences],
        "chunked": interleaved_logits(model, sequences, [7, 1, 5, 11, 2]),
        "cached": interleaved_logits(model, sequences, [1]),
    }
    return {
        name: max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
        for name, found in runs.items()
    }
