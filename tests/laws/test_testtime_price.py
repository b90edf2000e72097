"""Money, time and equivalent FLOPs of choices on devices."""

import pytest

from plimsoll.cost.testtime import decode_shape
from plimsoll.laws.testtime import Choice
from plimsoll.laws.testtime_price import Budget, decode_price, parse_budget
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.model_files import load_model

SHAPES = {name: decode_shape(load_model(name)) for name in ("qwen3-4b", "qwen3-30b-a3b")}


def a_choice(model, **changes):
    given = {"trials": 4, "limit": 8192.0, "kv_budget": None, "accuracy": 0.5}
    costs = {"flops": 3e14, "bytes": 2e12, "last_tokens": 6000.0}
    return Choice(model=model, **{**given, **costs, **changes})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01usd", Budget(kind="usd", amount=0.01)),
        ("60s", Budget(kind="s", amount=60.0)),
        ("2min", Budget(kind="s", amount=120.0)),
        ("1e15eFLOPs", Budget(kind="eFLOPs", amount=1e15)),
        ("2e15 eflops", Budget(kind="eFLOPs", amount=2e15)),
    ],
)
def test_budgets_as_people_write_them(text, expected):
    assert parse_budget(text, "--budget") == expected


@pytest.mark.parametrize("text", ["", "5", "0usd", "-1s", "nanusd", "1e15FLOPs", "infeFLOPs"])
def test_other_budgets_are_refused(text):
    with pytest.raises(SpecError, match="is no budget for a question"):
        parse_budget(text, "--budget")


def test_arithmetic_and_traffic_take_the_devices_time():
    device = load_device("H100-SXM")
    price = decode_price(parse_fleet("H100-SXM"), SHAPES)
    one = a_choice("qwen3-4b")
    seconds = one.flops / device.flops_per_s("bf16") + one.bytes / device.memory_bytes_per_s
    assert price.busy_s(one) == pytest.approx(seconds)
    assert price.usd(one) == pytest.approx(seconds * device.price.usd_per_hour / 3600)
    weights = 2 * SHAPES["qwen3-4b"].total_params * 6000 / device.memory_bytes_per_s
    assert price.latency_s(one) == pytest.approx(seconds + weights)
    double = decode_price(parse_fleet("2xH100-SXM"), SHAPES)
    assert double.latency_s(one) == pytest.approx(price.latency_s(one) / 2)
    assert double.usd(one) == pytest.approx(price.usd(one)), "half the time of twice the devices"


def test_experts_compute_with_the_active_and_are_read_in_all():
    """Of a mixture 3 of 30 billion parameters multiply, and all lie in memory."""
    shape = SHAPES["qwen3-30b-a3b"]
    assert shape.params < 4e9 and shape.total_params > 29e9
    price = decode_price(parse_fleet("H100-SXM"), SHAPES)
    one = a_choice("qwen3-30b-a3b")
    weights = price.latency_s(one) - price.busy_s(one)
    assert weights == pytest.approx(2 * shape.total_params * 6000 / price.bytes_per_s)


def test_what_does_not_fit_memory_is_left_out_and_said():
    price = decode_price(parse_fleet("H100-SXM"), SHAPES)
    few, many = a_choice("qwen3-4b"), a_choice("qwen3-4b", trials=1000)
    kept, notes = price.fitting([few, many], 100)
    assert kept == [few] and "1 of 2 choices left out" in notes[0]
    small = decode_price(parse_fleet("L4"), SHAPES)
    kept, notes = small.fitting([a_choice("qwen3-30b-a3b")], 100)
    assert not kept and "its weights and one cache do not fit L4" in notes[0]


def test_mixed_devices_are_refused():
    with pytest.raises(UnsupportedError, match="several kinds"):
        decode_price(parse_fleet("H100-SXM+L4"), SHAPES)
