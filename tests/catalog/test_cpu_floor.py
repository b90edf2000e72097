"""The analytical peak against real tensors: counted FLOPs, and times on this machine."""

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from plimsoll.catalog.cpu_floor import measure_cpu_floor  # noqa: E402
from plimsoll.catalog.plain_transformer import PlainTransformer, plain_spec  # noqa: E402
from plimsoll.cost.peak import peak  # noqa: E402
from plimsoll.spec.dtype import DType  # noqa: E402
from plimsoll.spec.hardware import Device, Link, PowerEnvelope  # noqa: E402
from plimsoll.spec.model import ModelSpec  # noqa: E402
from plimsoll.spec.parameters import total_parameters  # noqa: E402

DEVICE = Device(
    name="anything",
    vendor="none",
    family="cpu",
    memory_bytes=1e12,
    memory_bytes_per_s=1e10,
    peak_flops_per_s={DType.FP32: 1e11},
    host=Link(kind="file", bytes_per_s=1e9),
    power=PowerEnvelope(idle_w=1, peak_w=2),
    source="test",
    as_of="2025-01",
)


def small(num_kv_heads: int) -> ModelSpec:
    return plain_spec(
        num_layers=3,
        hidden_size=128,
        num_heads=8,
        num_kv_heads=num_kv_heads,
        intermediate=384,
        vocab_size=512,
        max_context=512,
    )


@pytest.mark.parametrize("num_kv_heads", [1, 2, 8])
@pytest.mark.parametrize("tokens", [32, 200, 512])
def test_counted_flops_of_a_prefill_are_the_formula(num_kv_heads: int, tokens: int) -> None:
    """All pairs are multiplied by the explicit score matrix, so the full count applies."""
    spec = small(num_kv_heads)
    net = PlainTransformer(spec, explicit_scores=True)
    with FlopCounterMode(display=False) as counter:
        net.prefill(torch.arange(tokens) % 512, net.empty_cache(tokens))
    counted = counter.get_total_flops()
    assert peak(spec, DEVICE, tokens, attention="full").prefill_flops == pytest.approx(
        counted, rel=0.01
    )


def test_cache_bytes_are_those_of_the_real_cache() -> None:
    spec = small(2)
    cache = PlainTransformer(spec).empty_cache(300)
    real = sum(layer.numel() * layer.element_size() for layer in cache)
    assert peak(spec, DEVICE, 300).kv_bytes == real


def test_parameters_are_those_of_the_real_weights() -> None:
    spec = small(2)
    net = PlainTransformer(spec)
    real = net.embedding.numel() + net.head.numel()
    real += sum(matrix.numel() for layer in net.layers for matrix in layer.values())
    assert total_parameters(spec) == real + spec.hidden_size  # the final norm's scale


def test_decoding_continues_the_prompt() -> None:
    """Fused and explicit attention agree, and a token at a time gives the prompt's logits."""
    spec = small(2)
    tokens = torch.arange(40) % 512
    fused, explicit = PlainTransformer(spec), PlainTransformer(spec, explicit_scores=True)
    whole = fused.prefill(tokens, fused.empty_cache(40))
    torch.testing.assert_close(whole, explicit.prefill(tokens, explicit.empty_cache(40)))
    cache = fused.empty_cache(40)
    fused.prefill(tokens[:30], cache)
    for index in range(30, 40):
        logits = fused.decode(int(tokens[index]), cache, index)
    torch.testing.assert_close(whole, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timing
def test_peak_is_a_floor_on_this_machine() -> None:
    floor = measure_cpu_floor(contexts=(1024, 4096), repeats=5)
    assert floor.parameters >= 50e6
    told = floor.summary()
    for point in floor.points:
        assert 1.0 <= point.ratio <= 3.0, told
    for metric in ("prefill", "decode", "swap"):
        assert 0.7 <= floor.long_over_short(metric) <= 1.3, told
