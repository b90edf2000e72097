"""The Mamba-2 mixer: a short causal convolution and a state space with one decay a head.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t + D x_t, per head; B and C are shared
by the heads of a group. A pass goes through the recurrence in blocks: within a block all pairs of
tokens at once, between blocks by the state. Two states of a sequence are kept: the inputs of the
last convolution taps and h in float32, so any cut of a sequence into passes gives the same.

What checkpoints hold as one input projection is four here (gate, x, B and C, dt), so that heads
can be cut from outside; their numbers are read from the tensors. The norm's groups must stay
whole in a cut. Left out: fused kernels, gradients into the states of another pass.
Source: arXiv 2405.21060.

Legend: T tokens of a pass, L tokens of a sequence in it, C width of the residual stream, H heads,
P head width, G groups, N state width, W channels of a convolution.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.checkpoint_names import Part
from plimsoll.models.context import Context, States

__all__ = [
    "Mamba2Mixer",
    "Mamba2Sizes",
    "export_mixer",
    "place_mixer",
    "scan",
]

_BLOCK = 64
_PARTS = ("gate_proj", "x_proj", "bc_proj", "dt_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Sizes:
    """Shapes of a mixer; time steps are clamped to [``least_step``, ``most_step``]."""

    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    conv_kernel: int
    conv_bias: bool = True
    projection_bias: bool = False
    least_step: float = 0.0
    most_step: float = math.inf

    @property
    def rows(self) -> tuple[int, int, int, int]:
        """Rows of the four input projections, in the order checkpoints stack them."""
        inner = self.num_heads * self.head_dim
        return inner, inner, 2 * self.num_groups * self.state_dim, self.num_heads


class Mamba2Mixer(nn.Module):
    """The mixer of layer ``index``; SiLU after the convolution and in the gate."""

    def __init__(self, index: int, hidden: int, sizes: Mamba2Sizes, eps: float) -> None:
        super().__init__()
        inner, _, shared, heads = sizes.rows
        self.index = index
        self.sizes = sizes
        self.eps = eps
        self.group_dim = inner // sizes.num_groups
        bias, taps = sizes.projection_bias, sizes.conv_kernel
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.x_proj = nn.Linear(hidden, inner, bias=bias)
        self.bc_proj = nn.Linear(hidden, shared, bias=bias)
        self.dt_proj = nn.Linear(hidden, heads, bias=bias)
        self.x_conv = nn.Parameter(torch.randn(inner, taps) * taps**-0.5)
        self.bc_conv = nn.Parameter(torch.randn(shared, taps) * taps**-0.5)
        self.x_conv_bias = nn.Parameter(torch.zeros(inner)) if sizes.conv_bias else None
        self.bc_conv_bias = nn.Parameter(torch.zeros(shared)) if sizes.conv_bias else None
        self.dt_bias = nn.Parameter(torch.ones(heads))
        self.A_log = nn.Parameter(torch.arange(1.0, heads + 1).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]; positions are not needed."""
        gate_TW, x_TW, bc_TW = self.gate_proj(x_TC), self.x_proj(x_TC), self.bc_proj(x_TC)
        dt_TH = functional.softplus(self.dt_proj(x_TC).float() + self.dt_bias.float())
        dt_TH = dt_TH.clamp(self.sizes.least_step, self.sizes.most_step)
        parts = [
            self._sequence(x_TW[a:b], bc_TW[a:b], dt_TH[a:b], states)
            for (a, b), states in zip(context.bounds, context.states(self.index), strict=True)
        ]
        return self.out_proj(self._gated_norm(torch.cat(parts), gate_TW))

    def _sequence(self, x_LW: Tensor, bc_LW: Tensor, dt_LH: Tensor, states: States) -> Tensor:
        """[L, W] of one sequence; ``states`` go on to its last token."""
        x_LW = _convolve(x_LW, self.x_conv, self.x_conv_bias, states, "conv_x")
        bc_LW = _convolve(bc_LW, self.bc_conv, self.bc_conv_bias, states, "conv_bc")
        x_LHP = x_LW.view(len(x_LW), -1, self.sizes.head_dim).float()
        b_LGN, c_LGN = bc_LW.view(len(x_LW), 2, -1, self.sizes.state_dim).float().unbind(dim=1)
        state_HPN = states.get("ssm")
        if state_HPN is None:
            state_HPN = x_LHP.new_zeros(*x_LHP.shape[1:], self.sizes.state_dim)
        decay_LH = dt_LH * -self.A_log.float().exp()
        y_LHP, states["ssm"] = scan(x_LHP * dt_LH[..., None], decay_LH, b_LGN, c_LGN, state_HPN)
        y_LHP = y_LHP + x_LHP * self.D.float()[:, None]
        return y_LHP.flatten(1).to(x_LW.dtype)

    def _gated_norm(self, y_TW: Tensor, gate_TW: Tensor) -> Tensor:
        """RMS norm of y * silu(gate), a group at a time."""
        wide = y_TW.float() * functional.silu(gate_TW.float())
        grouped = wide.unflatten(-1, (-1, self.group_dim))
        grouped = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + self.eps)
        return self.norm_weight * grouped.flatten(-2).to(y_TW.dtype)


def scan(
    x_LHP: Tensor, decay_LH: Tensor, b_LGN: Tensor, c_LGN: Tensor, state_HPN: Tensor
) -> tuple[Tensor, Tensor]:
    """([L, H, P], the last state) of h = exp(decay) h + x b^T, y = h c.

    ``x_LHP`` is already multiplied by the time step. All in float32.
    """
    per_group = x_LHP.shape[1] // b_LGN.shape[1]
    out = []
    for at in range(0, len(x_LHP), _BLOCK):
        x_HLP = x_LHP[at : at + _BLOCK].transpose(0, 1)
        b_HLN = b_LGN[at : at + _BLOCK].transpose(0, 1).repeat_interleave(per_group, dim=0)
        c_HLN = c_LGN[at : at + _BLOCK].transpose(0, 1).repeat_interleave(per_group, dim=0)
        total_HL = decay_LH[at : at + _BLOCK].T.cumsum(dim=-1)
        length = total_HL.shape[-1]
        between_HLL = total_HL[:, :, None] - total_HL[:, None, :]
        later = torch.ones(length, length, dtype=torch.bool, device=x_HLP.device).triu(1)
        pairs_HLL = c_HLN @ b_HLN.mT * between_HLL.masked_fill(later, float("-inf")).exp()
        y_HLP = pairs_HLL @ x_HLP + c_HLN @ state_HPN.mT * total_HL.exp()[..., None]
        left_HL = (total_HL[:, -1:] - total_HL).exp()
        state_HPN = state_HPN * total_HL[:, -1, None, None].exp()
        state_HPN = state_HPN + (x_HLP * left_HL[..., None]).mT @ b_HLN
        out.append(y_HLP.transpose(0, 1))
    return torch.cat(out), state_HPN


def place_mixer(prefix: str, name: str, tensor: Tensor, sizes: Mamba2Sizes) -> Iterator[Part]:
    """The tensor ``name`` of a checkpoint's mixer to those of the mixer at ``prefix``."""
    matrix, _, kind = name.partition(".")
    rows = sizes.rows
    if matrix == "in_proj" and tensor.shape[0] == sum(rows):
        for part, piece in zip(_PARTS, tensor.split(rows), strict=True):
            yield Part(f"{prefix}{part}.{kind}", piece)
    elif matrix == "conv1d" and tensor.shape[0] == rows[1] + rows[2]:
        taps = tensor.squeeze(1) if kind == "weight" else tensor
        suffix = "" if kind == "weight" else "_bias"
        x, bc = taps.split(rows[1:3])
        yield Part(f"{prefix}x_conv{suffix}", x)
        yield Part(f"{prefix}bc_conv{suffix}", bc)
    else:
        yield Part(prefix + ("norm_weight" if name == "norm.weight" else name), tensor)


def export_mixer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one mixer, by their names in it, under a checkpoint's names."""
    stored: dict[str, Any] = {}
    for kind in ("weight", "bias"):
        if f"x_proj.{kind}" in tensors:
            stored[f"in_proj.{kind}"] = torch.cat([tensors[f"{p}.{kind}"] for p in _PARTS])
    stored["conv1d.weight"] = torch.cat([tensors["x_conv"], tensors["bc_conv"]])[:, None]
    if "x_conv_bias" in tensors:
        stored["conv1d.bias"] = torch.cat([tensors["x_conv_bias"], tensors["bc_conv_bias"]])
    stored["norm.weight"] = tensors["norm_weight"]
    kept = ("dt_bias", "A_log", "D", "out_proj.weight", "out_proj.bias")
    return stored | {name: tensors[name] for name in kept if name in tensors}


def _convolve(
    x_LW: Tensor, taps_Wk: Tensor, bias_W: Tensor | None, states: States, name: str
) -> Tensor:
    """[L, W] after a causal convolution of each channel and SiLU; keeps the last k - 1 inputs."""
    before = taps_Wk.shape[1] - 1
    past = states.get(name)
    if past is None:
        past = x_LW.new_zeros(before, x_LW.shape[1])
    inputs = torch.cat([past, x_LW])
    states[name] = inputs[len(inputs) - before :].clone()
    out = functional.conv1d(inputs.T[None], taps_Wk[:, None], bias_W, groups=len(taps_Wk))
    return functional.silu(out[0].T)
