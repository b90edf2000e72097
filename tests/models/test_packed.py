"""Packed linear layers give what torch's give, for any number of rows."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from plimsoll.models.context import FullContext
from plimsoll.models.loading import build
from plimsoll.models.packed import PackedLinear, can_pack, pack_linears

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 48), (33, 7), (512, 384)])
def test_same_as_torch(dtype: torch.dtype, bias: bool, outputs: int, inputs: int) -> None:
    """Rows 1 to 40, against float64."""
    if not can_pack(torch.zeros(1, 1, dtype=dtype)):
        pytest.skip("this processor has no kernels for it")
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    offset = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    layer = PackedLinear(weight, offset)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    for rows in (1, 2, 4, 5, 6, 16, 17, 40):
        x = torch.randn(rows, inputs, generator=generator).to(dtype)
        exact = functional.linear(
            x.double(), weight.double(), None if offset is None else offset.double()
        )
        got = layer(x)
        assert got.shape == (rows, outputs)
        assert got.dtype == dtype
        assert (got.double() - exact).abs().max() <= tolerance * (1 + exact.abs().max())


def test_row_by_row_in_any_company() -> None:
    """A row's result hardly depends on how many rows go with it."""
    layer = PackedLinear(torch.randn(96, 64))
    x = torch.randn(23, 64)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.allclose(layer(x), alone, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model(tied: bool) -> None:
    """Every linear layer and the head are packed, logits stay."""
    torch.manual_seed(0)
    model: Any = build({**TINY, "tie_word_embeddings": tied}, dtype=torch.float32, device="cpu")
    tokens = torch.arange(30) % 96
    context = FullContext(2, 15)
    with torch.inference_mode():
        before = model.logits(model(tokens, context.positions(), context))
        assert pack_linears(model) == 2 * 7 + 1
        after = model.logits(model(tokens, context.positions(), context))
    assert not any(type(m) is nn.Linear for m in model.modules())
    assert torch.allclose(before, after, atol=1e-5)


def test_what_is_left_alone() -> None:
    """Subclasses of nn.Linear, and devices other than the CPU."""

    class Special(nn.Linear):
        pass

    module = nn.Sequential(Special(4, 4), nn.Linear(4, 4, device="meta"))
    assert pack_linears(module) == 0
    assert type(module[0]) is Special
