"""No configuration, however damaged, ends in anything but a one-line error of ours."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plimsoll.cost.kv import kv_bytes_per_token, state_bytes_per_sequence
from plimsoll.spec.errors import PlimsollError
from plimsoll.spec.hf import model_from_config
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import active_parameters, total_parameters, weight_bytes
from tests.spec.model_configs import config_data, config_files, needs_configs

NAMES = (
    "Qwen--Qwen3.5-35B-A3B",
    "deepseek-ai--DeepSeek-V4-Flash",
    "google--gemma-4-26B-A4B",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct",
    "moonshotai--Kimi-K3",
    "nvidia--GLM-5.2-NVFP4",
    "nvidia--Llama-3_3-Nemotron-Super-49B-v1",
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "nvidia--Qwen3.6-35B-A3B-NVFP4",
    "XiaomiMiMo--MiMo-V2-Flash",
    "MiniMaxAI--MiniMax-M3",
    "openai--gpt-oss-20b",
)

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([10**9, 10**12, 10**30, -(10**30), 2**31, 2**31 + 1]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=6),
    st.sampled_from(["32", "NVFP4", "fp8", "full_attention", "re:(", "re:.*", "*", "float32"]),
    st.lists(st.one_of(st.integers(-2, 200), st.text(max_size=4), st.none()), max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def paths(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested data; of long lists the first entries."""
    found = []
    items: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))[:3]
    for key, value in items:
        found.append((*prefix, key))
        found.extend(paths(value, (*prefix, key)))
    return found


def damage(data: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    damaged = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 4))):
        places = paths(damaged)
        if not places:
            break
        place = draw(st.sampled_from(places))
        parent: Any = damaged
        for key in place[:-1]:
            parent = parent[key]
        if draw(st.booleans()) and isinstance(parent, dict):
            del parent[place[-1]]
        else:
            parent[place[-1]] = draw(junk)
    return damaged


@st.composite
def damaged_configs(draw: st.DrawFn) -> Any:
    return damage(config_data(draw(st.sampled_from(NAMES))), draw)


def check_model(model: ModelSpec) -> None:
    """A model that was accepted can be counted, and survives being written and read."""
    assert 0 < active_parameters(model) <= total_parameters(model)
    assert weight_bytes(model) > 0
    assert kv_bytes_per_token(model, model.quantization.kv_cache) >= 0
    assert state_bytes_per_sequence(model, model.quantization.kv_cache) >= 0
    assert from_data(ModelSpec, plain(model), where="again") == model


@needs_configs
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_configs())
def test_damaged_configs_give_a_model_or_our_error(data: Any) -> None:
    try:
        model = model_from_config(data, name="damaged", where="config.json")
    except PlimsollError as error:
        assert "\n" not in str(error) and str(error).startswith("config.json")
        return
    check_model(model)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "intermediate_size",
                "vocab_size",
                "max_position_embeddings",
                "hidden_act",
                "num_experts",
                "num_experts_per_tok",
                "moe_intermediate_size",
                "kv_lora_rank",
                "qk_nope_head_dim",
                "v_head_dim",
                "sliding_window",
                "layer_types",
                "quantization_config",
                "model_type",
                "text_config",
                "vision_config",
            ]
        ),
        junk,
    )
)
def test_any_mapping_gives_a_model_or_our_error(data: dict[str, Any]) -> None:
    try:
        model = model_from_config(data, name="any", where="config.json")
    except PlimsollError as error:
        assert "\n" not in str(error)
        return
    check_model(model)


@settings(deadline=None, max_examples=100)
@given(st.one_of(junk, st.lists(junk, max_size=3)))
def test_anything_that_is_not_a_mapping_is_refused(data: Any) -> None:
    if isinstance(data, dict):
        data = [data]
    with pytest.raises(PlimsollError, match="top level"):
        model_from_config(data, name="x", where="config.json")


@needs_configs
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    text = config_files()[0].read_text(encoding="utf-8")
    path = tmp_path / "config.json"
    for end in range(0, len(text) - 2, 37):
        path.write_text(text[:end], encoding="utf-8")
        with pytest.raises(PlimsollError) as caught:
            load_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60))
def test_random_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PlimsollError):
        load_model(str(path))


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(PlimsollError):
        load_model(path)
    path.write_text(json.dumps({"hidden_size": 10**400}), encoding="utf-8")
    with pytest.raises(PlimsollError, match="out of range"):
        load_model(path)
