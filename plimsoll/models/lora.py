"""Low-rank adapters beside the linear maps of a model, one or several at a time.

An adapter adds scale * (x A^T) B^T to a linear map that stays as it is, so models that differ by
adapters alone share all else bit for bit. A batch may hold rows of several models: each run of
rows then takes its own adapter. Left out: merging into the weights, after which nothing is shared.
Source: arXiv 2106.09685; rows of several adapters in one batch: 2311.03285.

Legend: T rows, C inputs, D outputs, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.spec.errors import SpecError

__all__ = ["Lora", "LoraLinear", "adapters_of", "attach", "new_lora", "take_rows"]

Rows = Sequence[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class Lora:
    """``a_RC`` and ``b_DR`` of one linear map, and what their product is multiplied by."""

    a_RC: Tensor
    b_DR: Tensor
    scale: float = 1.0

    @property
    def num_bytes(self) -> int:
        """Bytes of both matrices."""
        return self.a_RC.nbytes + self.b_DR.nbytes


class LoraLinear(nn.Module):
    """``base`` with any number of named adapters; ``rows`` says which rows take which.

    ``rows`` None: every row takes the only adapter there is.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.adapters: dict[str, Lora] = {}
        self.rows: Rows | None = None

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, D]"""
        out_TD = self.base(x_TC)
        if self.rows is None:
            (lora,) = self.adapters.values()
            return out_TD + _low_rank(x_TC, lora)
        for first, end, name in self.rows:
            if name in self.adapters:
                added = _low_rank(x_TC[first:end], self.adapters[name])
                out_TD[first:end] = out_TD[first:end] + added
        return out_TD


def _low_rank(x_TC: Tensor, lora: Lora) -> Tensor:
    return functional.linear(functional.linear(x_TC, lora.a_RC), lora.b_DR) * lora.scale


def new_lora(linear: nn.Linear, rank: int, generator: torch.Generator) -> Lora:
    """An adapter that changes nothing yet: ``a_RC`` drawn, ``b_DR`` zero, both to be learned."""
    a_RC = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
    b_DR = torch.zeros(linear.out_features, rank)
    return Lora(a_RC.requires_grad_(), b_DR.requires_grad_())


def attach(module: nn.Module, loras: Mapping[str, Lora], *, name: str = "") -> None:
    """Put adapters on the linear maps of those names in ``module``, in place.

    Raises:
        SpecError: there is no such map, or the adapter has another shape.
    """
    for path, lora in loras.items():
        owner_path, _, leaf = path.rpartition(".")
        try:
            owner = module.get_submodule(owner_path)
            linear = getattr(owner, leaf)
        except AttributeError:
            raise SpecError(f"adapter for {path}: the model has no such linear map") from None
        if not isinstance(linear, LoraLinear):
            linear = LoraLinear(linear)
            setattr(owner, leaf, linear)
        wanted = tuple(linear.base.weight.shape)
        found = (lora.b_DR.shape[0], lora.a_RC.shape[1])
        if found != wanted or lora.a_RC.shape[0] != lora.b_DR.shape[1]:
            raise SpecError(
                f"adapter for {path}: made for a map of {found}, the model's is {wanted}"
            )
        linear.adapters[name] = lora


def adapters_of(module: nn.Module, *, name: str = "") -> dict[str, Lora]:
    """The adapters of one name in ``module``, by the path of their linear map."""
    return {
        path: found.adapters[name]
        for path, found in module.named_modules()
        if isinstance(found, LoraLinear) and name in found.adapters
    }


def take_rows(module: nn.Module, rows: Rows | None) -> None:
    """Tell every adapted map in ``module`` which rows of the next pass take which adapter."""
    for found in module.modules():
        if isinstance(found, LoraLinear):
            found.rows = rows
