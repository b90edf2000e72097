"""Adapters: rows of several models in one batch, and what is refused."""
# ruff: noqa: E402

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from plimsoll.models.lora import Lora, adapters_of, attach, new_lora, take_rows
from plimsoll.spec.errors import SpecError


def adapted() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4, bias=False)).requires_grad_(False)
    for name in ("a", "b"):
        lora = Lora(
            torch.randn(2, 6, generator=generator), torch.randn(4, 2, generator=generator), 0.5
        )
        attach(module, {"0": lora}, name=name)
    return module


def test_each_run_of_rows_takes_its_own_adapter() -> None:
    module, x = adapted(), torch.randn(9, 6)
    base = x @ module[0].base.weight.T
    take_rows(module, [(0, 3, "a"), (3, 5, ""), (5, 9, "b")])
    out = module(x)
    assert torch.equal(out[3:5], base[3:5])
    for name, rows in (("a", slice(0, 3)), ("b", slice(5, 9))):
        lora = module[0].adapters[name]
        added = 0.5 * x[rows] @ lora.a_RC.T @ lora.b_DR.T
        assert torch.allclose(out[rows], base[rows] + added, atol=1e-5)
        assert adapters_of(module, name=name) == {"0": lora}


def test_a_new_adapter_changes_nothing_until_it_learns() -> None:
    linear = nn.Linear(6, 4, bias=False)
    module = nn.Sequential(linear)
    x = torch.randn(5, 6)
    before = linear(x)
    attach(module, {"0": new_lora(linear, 3, torch.Generator().manual_seed(1))})
    assert torch.equal(module(x), before)
    module(x).square().sum().backward()
    (lora,) = adapters_of(module).values()
    assert lora.b_DR.grad is not None and lora.b_DR.grad.abs().sum() > 0


def test_misplaced_adapters_are_refused() -> None:
    module = adapted()
    good = module[0].adapters["a"]
    with pytest.raises(SpecError, match="adapter for 1.q_proj: the model has no such linear map"):
        attach(module, {"1.q_proj": good})
    with pytest.raises(SpecError, match=r"made for a map of \(4, 5\), the model's is \(4, 6\)"):
        attach(module, {"0": Lora(good.a_RC[:, :5], good.b_DR)})
