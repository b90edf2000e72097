"""Mixture-of-experts feed-forward parts: a router's choice, stacked experts, shared experts.

Each token goes to its ``top_k`` experts, whose outputs are added with the router's weights.
Experts are stacked, [E, I, C] and [E, C, I], so that experts (first dim) or their width I can be
cut from outside; numbers are read from the tensors. Left out: losses that balance the load,
dropped tokens, jitter. Sources: arXiv 1701.06538 (the idea), 2401.04088 (Mixtral).

Legend: T tokens, C width of the residual stream, E experts, k experts a token, I expert width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Experts", "GatedUnit", "MoeMlp", "Router", "TopKSoftmaxRouter"]

GatedUnit = Callable[[Tensor, Tensor], Tensor]
"""(gate, up) to what goes into the down projection."""


class Router(nn.Module):
    """Softmax over all experts, then the ``top_k`` largest; ``normalize``: they sum to one."""

    def __init__(
        self,
        hidden: int,
        num_experts: int,
        top_k: int,
        *,
        normalize: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalize = normalize
        self.weight = nn.Parameter(torch.randn(num_experts, hidden) * hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_experts)) if bias else None

    def choose(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """([T, k] float32 weights, [T, k] experts) from the router's scores."""
        weights_Tk, experts_Tk = logits_TE.float().softmax(dim=-1).topk(self.top_k, dim=-1)
        if self.normalize:
            weights_Tk = weights_Tk / weights_Tk.sum(dim=-1, keepdim=True)
        return weights_Tk, experts_Tk

    def forward(self, x_TC: Tensor) -> tuple[Tensor, Tensor]:
        """([T, k] float32 weights, [T, k] experts)"""
        return self.choose(functional.linear(x_TC, self.weight, self.bias))


class TopKSoftmaxRouter(Router):
    """The ``top_k`` largest scores, then softmax over these alone."""

    def choose(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Router``."""
        scores_Tk, experts_Tk = logits_TE.topk(self.top_k, dim=-1)
        return scores_Tk.float().softmax(dim=-1), experts_Tk


class Experts(nn.Module):
    """``num_experts`` gated feed-forward parts as stacked tensors."""

    def __init__(
        self,
        hidden: int,
        intermediate: int,
        num_experts: int,
        unit: GatedUnit,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.unit = unit
        into, out_of = (num_experts, intermediate, hidden), (num_experts, hidden, intermediate)
        self.gate_proj = nn.Parameter(torch.randn(into) * hidden**-0.5)
        self.up_proj = nn.Parameter(torch.randn(into) * hidden**-0.5)
        self.down_proj = nn.Parameter(torch.randn(out_of) * intermediate**-0.5)
        self.gate_bias: nn.Parameter | None = None
        self.up_bias: nn.Parameter | None = None
        self.down_bias: nn.Parameter | None = None
        if bias:
            self.gate_bias = nn.Parameter(torch.zeros(num_experts, intermediate))
            self.up_bias = nn.Parameter(torch.zeros(num_experts, intermediate))
            self.down_bias = nn.Parameter(torch.zeros(num_experts, hidden))

    def forward(self, x_TC: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """[T, C]: for each token the weighted sum over its experts."""
        if x_TC.shape[0] == 1 and x_TC.is_cuda:
            return self.gathered(x_TC, weights_Tk, experts_Tk)
        return self.looped(x_TC, weights_Tk, experts_Tk)

    def looped(self, x_TC: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """Expert after expert, each over its tokens; weights are read once and not copied."""
        top_k = experts_Tk.shape[1]
        flat = experts_Tk.flatten()
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=self.gate_proj.shape[0]).tolist()
        out_TC = torch.zeros_like(x_TC)
        for expert, chosen in enumerate(order.split(counts)):
            if not len(chosen):
                continue
            rows = chosen.div(top_k, rounding_mode="floor")
            x = x_TC.index_select(0, rows)
            gate = functional.linear(x, self.gate_proj[expert], _row(self.gate_bias, expert))
            up = functional.linear(x, self.up_proj[expert], _row(self.up_bias, expert))
            y = self.unit(gate, up)
            y = functional.linear(y, self.down_proj[expert], _row(self.down_bias, expert))
            y = y * weights_Tk.flatten().index_select(0, chosen)[:, None]
            out_TC.index_add_(0, rows, y.to(x_TC.dtype))
        return out_TC

    def gathered(self, x_TC: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """All at once with copied weights and without waiting for the device; for few tokens."""
        tokens, top_k = experts_Tk.shape
        flat = experts_Tk.flatten()
        x = x_TC.repeat_interleave(top_k, dim=0)
        gate = _each(x, self.gate_proj[flat], self.gate_bias, flat)
        up = _each(x, self.up_proj[flat], self.up_bias, flat)
        y = _each(self.unit(gate, up), self.down_proj[flat], self.down_bias, flat)
        y = y * weights_Tk.flatten()[:, None]
        return y.view(tokens, top_k, -1).sum(dim=1).to(x_TC.dtype)


class MoeMlp(nn.Module):
    """Router ``gate``, ``experts``, and ``shared_experts`` that every token passes, if any."""

    def __init__(self, gate: nn.Module, experts: Experts, shared: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.experts = experts
        self.shared_experts = shared

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, C]"""
        weights_Tk, experts_Tk = self.gate(x_TC)
        out_TC = self.experts(x_TC, weights_Tk, experts_Tk)
        return out_TC if self.shared_experts is None else out_TC + self.shared_experts(x_TC)


def _row(bias: Tensor | None, expert: int) -> Tensor | None:
    return None if bias is None else bias[expert]


def _each(x_nC: Tensor, weight_nIC: Tensor, bias: Tensor | None, chosen: Tensor) -> Tensor:
    """[n, I]: row i times matrix i."""
    y = torch.bmm(weight_nIC, x_nC[..., None])[..., 0]
    return y if bias is None else y + bias[chosen]
