"""The small parts that decoders share: norms, gated feed-forward, activations.

Root-mean-square norms compute in float32. Gemma's multiply by one plus the weight, before going
back to the model's precision; Llama's go back first. Sources: arXiv 1910.07467 (the norm),
2002.05202 (gated feed-forward), 2403.08295 (Gemma).

Legend: T tokens, C width of the residual stream.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.spec.errors import UnsupportedError

__all__ = ["ACTIVATIONS", "GatedMlp", "RmsNorm", "activation"]


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of a configuration's name."""
    if name not in ACTIVATIONS:
        raise UnsupportedError(
            f"config.json: activation {name!r} is not supported; "
            f"known are {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


class RmsNorm(nn.Module):
    """x / rms(x) times the weight, or times one plus the weight where ``one_plus``."""

    def __init__(self, dim: int, eps: float, *, one_plus: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.one_plus = one_plus
        self.weight = nn.Parameter(torch.zeros(dim) if one_plus else torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dim, which is as long as the weight."""
        if not self.one_plus:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * (1.0 + self.weight.float())).to(x.dtype)


class GatedMlp(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, hidden: int, intermediate: int, act: str, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.act = activation(act)

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, C]"""
        return self.down_proj(self.act(self.gate_proj(x_TC)) * self.up_proj(x_TC))
