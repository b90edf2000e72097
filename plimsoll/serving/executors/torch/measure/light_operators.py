"""What a layer does between its matrices and attention, timed by taking those out of a real one.

Every linear layer of a Llama is replaced by one that hands back ready numbers, and attention by a
context that does the same; what is left is launches, norms, rotary embedding, sums and the
activation. Embedding and last norm are timed as they are; sampling is greedy, by the engine's own
code. Leaves out: drawing with a temperature, penalties, grammars. Source: models/llama.py.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from plimsoll.cost.measured_fit import light_times, sampling_times
from plimsoll.models.context import States
from plimsoll.models.loading import build
from plimsoll.serving.executors.torch.measure.sizes import Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.rows import Row
from plimsoll.serving.generation import SamplingParams
from plimsoll.spec.measured import LightTimes, SamplingTimes

__all__ = ["light_operators", "llama_config", "sampling_operators"]

_VOCABULARY = 1024


def llama_config(
    hidden: int, intermediate: int, heads: tuple[int, int, int], *, layers: int, vocabulary: int
) -> dict[str, Any]:
    """The configuration of a Llama of these sizes; ``heads``: query heads, KV heads, width."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


class _Ready(nn.Module):
    """A linear layer that is done before it starts."""

    def __init__(self, outputs: int, most_tokens: int, dtype: torch.dtype, device: Any) -> None:
        super().__init__()
        self.out = torch.randn(most_tokens, outputs, device=device).to(dtype)

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, outputs]"""
        return self.out[: x_TC.shape[0]]


class _NoAttention:
    """A ``Context`` whose attention is done before it starts."""

    def __init__(self, out_THD: Tensor) -> None:
        self._out = out_THD

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        return [(0, len(self._out))]

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; there are none."""
        return [{}]

    def attend(self, layer: int, *tensors: Tensor, **options: Any) -> Tensor:
        """See ``Context``."""
        return self._out


def _take_matrices_out(layer: nn.Module, most_tokens: int, dtype: torch.dtype) -> None:
    for module in list(layer.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                device = child.weight.device
                setattr(module, name, _Ready(child.out_features, most_tokens, dtype, device))


@torch.inference_mode()
def light_operators(sizes: Sizes, dtype: torch.dtype, watch: Stopwatch) -> LightTimes:
    """The fit over the layers of ``sizes``."""
    points: list[tuple[int, int, int, int, float]] = []
    ends: list[tuple[int, int, float]] = []
    most = max(sizes.light_tokens)
    for hidden, intermediate, heads in sizes.layers:
        config = llama_config(hidden, intermediate, heads, layers=1, vocabulary=_VOCABULARY)
        model = build(config, dtype=dtype, device=watch.device)
        layer = model.layers[0]
        _take_matrices_out(layer, most, dtype)
        rotated = (heads[0] + 2 * heads[1]) * heads[2]
        for tokens in sizes.light_tokens:
            x = torch.randn(tokens, hidden, device=watch.device).to(dtype)
            positions = torch.arange(tokens, device=watch.device)
            out = torch.randn(tokens, heads[0], heads[2], device=watch.device).to(dtype)
            work = SimpleNamespace(layer=layer, x=x, at=positions, context=_NoAttention(out))
            took_s = min(
                watch.time(lambda w=work: w.layer(w.x, w.at, w.context), sizes.cell_s).call_s
                for _ in range(sizes.rounds)
            )
            points.append((hidden, intermediate, rotated, tokens, took_s))
            ids = positions % _VOCABULARY
            took_s = watch.time(lambda m=model, i=ids: m.finish(m.embed(i)), sizes.cell_s).call_s
            ends.append((hidden, tokens, took_s))
    return light_times(points, ends)


@torch.inference_mode()
def sampling_operators(sizes: Sizes, dtype: torch.dtype, watch: Stopwatch) -> SamplingTimes:
    """The fit over vocabularies and batches."""
    points = []
    params = SamplingParams(temperature=0.0)
    for vocabulary in sizes.vocabularies:
        for batch in sizes.batches:
            logits = torch.randn(batch, vocabulary, device=watch.device).to(dtype)
            rows = [Row(params=params, index=0)] * batch
            took_s = watch.time(lambda s=logits, r=rows: draw(s, r), sizes.cell_s).call_s
            points.append((vocabulary, batch, took_s))
    return sampling_times(points)
