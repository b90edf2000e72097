"""Muon: gradient descent on matrices whose update is made orthogonal.

Momentum of the gradient, looked ahead as Nesterov does, is replaced by its nearest semi-orthogonal
matrix (all singular values near 1), found by a quintic Newton-Schulz iteration: with X scaled to
norm 1, X <- aX + (bA + cA^2) X, A = XX^T. The coefficients trade exactness for speed: singular
values end between about 0.7 and 1.2. A tall matrix moves sqrt(rows / columns) times further.
Left out: weight decay, sharding, and whatever is no matrix (embeddings and gains take AdamW).
Source: arXiv:2409.20325 (steepest descent in the spectral norm), github.com/KellerJordan/Muon.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalized"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
_TINY = 1e-7


class Muon:
    """The optimizer; parameters of one shape are updated together, in the order given."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        self.lr = lr
        self._momentum = momentum
        self._groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            assert parameter.ndim == 2, "only matrices have an orthogonal update"
            self._groups.setdefault(parameter.shape, []).append(parameter)
        self._velocity = {
            shape: torch.zeros(len(group), *shape, dtype=group[0].dtype, device=group[0].device)
            for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter by its gradient, which must be there."""
        for shape, group in self._groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            velocity = self._velocity[shape]
            velocity.lerp_(gradient, 1 - self._momentum)
            update = orthogonalized(gradient.lerp(velocity, self._momentum))
            reach = self.lr * math.sqrt(max(1.0, shape[0] / shape[1]))
            for parameter, one in zip(group, update, strict=True):
                parameter.sub_(one, alpha=reach)


def orthogonalized(matrices: Tensor, *, iterations: int = 5) -> Tensor:
    """[.., R, C] each matrix with its singular values moved to near 1; zero stays zero."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _TINY)
    for _ in range(iterations):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.mT if tall else x
