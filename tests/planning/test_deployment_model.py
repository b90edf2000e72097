"""The served model: bytes by format against counts by hand, names with a format in them."""

import pytest

from plimsoll.planning.deployment_model import expert_width, served_model
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.model_files import bundled_models, load_model
from plimsoll.spec.parameters import parameter_counts, weight_bytes

DENSE_MIXERS = 64 * (5120 * 64 * 128 + 2 * 5120 * 8 * 128 + 64 * 128 * 5120)
DENSE_FFN = 64 * 3 * 5120 * 25600
DENSE_REST = 2 * 151936 * 5120 + 64 * (2 * 5120 + 2 * 128) + 5120
"""Qwen3-32B by its config.json: heads, feed-forward, and embedding, head and norms."""
EXPERT_MIXERS = 48 * (2048 * 32 * 128 + 2 * 2048 * 4 * 128 + 32 * 128 * 2048)
EXPERTS = 48 * 128 * 3 * 2048 * 768
EXPERT_REST = 2 * 151936 * 2048 + 48 * (128 * 2048 + 2 * 2048 + 2 * 128) + 2048
"""Qwen3-30B-A3B, the router in the rest."""
BLOCK_BITS = 8 + 32 / 128**2
SUFFIXED = {
    "nvidia/Qwen3-32B-NVFP4": ("qwen3-32b", "fp4"),
    "Qwen/Qwen3-8B-INT4": ("qwen3-8b", "int4"),
    "qwen3-8b-bf16": ("qwen3-8b", "bf16"),
    "Qwen/Qwen3-14B-FP8": ("qwen3-14b", "fp8"),
    "meta-llama/Llama-3.1-8B-Instruct-FP4": ("llama-3.1-8b", "fp4"),
}
AS_STORED = {
    ("deepseek-r1", "fp8"),
    ("qwen3-32b-fp8", "fp8"),
    ("llama-3.1-70b-fp8", "fp8"),
    ("kimi-k2.5", "int4"),
    ("gpt-oss-120b", "mxfp4"),
    ("gpt-oss-120b", "fp4"),
    ("deepseek-v3.1-nvfp4", "fp4"),
    ("qwen3-32b", "bf16"),
    ("mixtral-8x7b", "fp16"),
}


@pytest.mark.parametrize(
    ("precision", "bits"),
    [
        ("", 16),
        ("bf16", 16),
        ("fp16", 16),
        ("fp8", 8),
        ("int8", 8),
        ("fp4", 4 + 8 / 16),
        ("mxfp4", 4 + 8 / 32),
        ("int4", 4 + 20 / 128),
    ],
)
def test_a_dense_model_is_stored_in_the_format_but_for_its_ends(
    precision: str, bits: float
) -> None:
    model, spelled, note = served_model("Qwen/Qwen3-32B", precision)
    expected = (DENSE_MIXERS + DENSE_FFN) * bits / 8 + 2 * DENSE_REST
    assert weight_bytes(model) == pytest.approx(expected, rel=1e-12)
    assert spelled == (precision or "bf16")
    assert bool(note) == (not precision)


@pytest.mark.parametrize(
    ("precision", "mixer_bits", "expert_bits"),
    [
        ("", 16, 16),
        ("bf16", 16, 16),
        ("fp8", BLOCK_BITS, BLOCK_BITS),
        ("int8", 8, 8),
        ("fp4", 16, 4 + 8 / 16),
        ("mxfp4", 16, 4 + 8 / 32),
        ("int4", 16, 4 + 16 / 32),
    ],
)
def test_four_bits_leave_the_mixers_of_an_expert_model_at_sixteen(
    precision: str, mixer_bits: float, expert_bits: float
) -> None:
    model, _, _ = served_model("Qwen/Qwen3-30B-A3B", precision)
    expected = EXPERT_MIXERS * mixer_bits / 8 + EXPERTS * expert_bits / 8 + 2 * EXPERT_REST
    assert weight_bytes(model) == pytest.approx(expected, rel=1e-12)


def test_weight_only_integers_hold_only_the_routed_experts() -> None:
    """DeepSeek-R1 has dense layers and a shared expert, which nvfp4 checkpoints narrow too."""
    plain, fp4, int4 = (served_model("deepseek-r1", p)[0] for p in ("bf16", "fp4", "int4"))
    counts = parameter_counts(plain)
    wide = weight_bytes(plain)
    assert counts.ffn > 0 and counts.shared_experts > 0
    narrowed = counts.experts + counts.ffn + counts.shared_experts
    assert wide - weight_bytes(fp4) == pytest.approx(narrowed * (2 - 4.5 / 8), rel=1e-9)
    assert wide - weight_bytes(int4) == pytest.approx(counts.experts * (2 - 4.5 / 8), rel=1e-9)


@pytest.mark.parametrize(("name", "precision"), sorted(AS_STORED))
def test_a_checkpoint_of_that_format_is_served_as_stored(name: str, precision: str) -> None:
    assert served_model(name, precision)[0] is load_model(name)


@pytest.mark.parametrize("name", bundled_models())
def test_no_precision_is_the_checkpoint_itself(name: str) -> None:
    model, spelled, note = served_model(name, "")
    assert weight_bytes(model) == pytest.approx(weight_bytes(load_model(name)), rel=2e-3)
    assert note == f"precision not named: {spelled}, as {name} is stored"


@pytest.mark.parametrize("name", bundled_models())
def test_fewer_bits_are_fewer_bytes_of_the_same_parameters(name: str) -> None:
    served = {p: served_model(name, p)[0] for p in ("bf16", "fp8", "int8", "fp4", "int4")}
    held = {precision: weight_bytes(model) for precision, model in served.items()}
    counts = parameter_counts(load_model(name))
    assert all(parameter_counts(model) == counts for model in served.values())
    assert held["bf16"] > held["fp8"] > held["fp4"]
    assert held["int4"] < held["bf16"] and held["int8"] < held["bf16"]
    assert held["bf16"] >= 2 * (counts.total - counts.vision)


@pytest.mark.parametrize("name", SUFFIXED)
def test_a_format_in_the_name_counts_where_no_other_is_named(name: str) -> None:
    plain, precision = SUFFIXED[name]
    assert served_model(name, "") == (served_model(plain, precision)[0], precision, "")
    named = "fp8" if precision != "fp8" else "bf16"
    assert served_model(name, named) == served_model(plain, named)


def test_a_bundled_checkpoint_goes_before_a_suffix() -> None:
    model, precision, _ = served_model("Qwen/Qwen3-32B-FP8", "")
    assert (model, precision) == (load_model("qwen3-32b-fp8"), "fp8")
    assert model.quantization.ffn is DType.FP8_BLOCK


def test_spelling_of_the_precision_does_not_matter() -> None:
    assert served_model("qwen3-8b", " FP8 ") == served_model("qwen3-8b", "fp8")


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [
        ("org/none", "fp8", "model 'org/none'"),
        ("org/none-NVFP4", "", "model 'org/none'"),
        ("", "fp8", "empty or unprintable name"),
        ("qwen3-8b", "fp3", "precision 'fp3' is not one of bf16, fp16, fp8"),
        ("qwen3-8b", "auto", "precision 'auto' is not one of"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(name: str, precision: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        served_model(name, precision)
    assert isinstance(caught.value, PlimsollError)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_width_of_an_expert() -> None:
    assert expert_width(load_model("qwen3-32b")) == 0
    assert expert_width(load_model("qwen3-30b-a3b")) == 768
    assert expert_width(load_model("deepseek-r1")) == 2048
