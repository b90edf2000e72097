"""Names and paths to models: spellings, suggestions, folders, our own files."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write
from plimsoll.spec.model_files import (
    bundled_models,
    load_model,
    load_quantization,
    model_aliases,
)
from plimsoll.spec.parameters import total_parameters
from scripts.bundle_models import MANIFEST, write_model
from tests.spec.model_configs import CONFIGS, config_path, needs_configs

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
QUANT = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_loads_under_its_name_with_a_source(name: str) -> None:
    model = load_model(name)
    assert model.name == name and model.source and model.as_of


@pytest.mark.parametrize(
    "text,name",
    [
        ("Llama-3.1-70B", "llama-3.1-70b"),
        (" llama-3.1-70b ", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
    ],
)
def test_spellings(text: str, name: str) -> None:
    assert load_model(text) is load_model(name)


def test_every_alias_leads_to_a_bundled_model() -> None:
    assert len(model_aliases()) > 50
    for alias, name in model_aliases().items():
        assert name in bundled_models() and alias not in bundled_models()


def test_a_miss_suggests_the_nearest_names() -> None:
    with pytest.raises(SpecError, match=r"Did you mean .*llama-3.1-70b"):
        load_model("lama-3.1-70b")
    with pytest.raises(SpecError, match="not a bundled model"):
        load_model("zzzzzzzzzz")
    for text in ("", "  ", "a\0b", "x" * 5000, "x" * 300, "~nobody-here/model"):
        with pytest.raises(SpecError):
            load_model(text)


def test_a_folder_with_its_quantization(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-FP8"
    folder.mkdir()
    with pytest.raises(SpecError, match="has no config.json"):
        load_model(str(folder))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert load_model(str(folder)).quantization.mixer is DType.BF16
    (folder / "hf_quant_config.json").write_text(json.dumps(QUANT), encoding="utf-8")
    model = load_model(folder)
    assert model.name == "Tiny-FP8" and model.quantization.mixer is DType.FP8
    assert load_model(folder / "config.json") == model
    assert load_quantization(folder / "hf_quant_config.json").default is DType.FP8


def test_a_folder_goes_before_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine" / "llama-3.1-8b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_model("mine/llama-3.1-8b").hidden_size == 64
    assert load_model("other/llama-3.1-8b").hidden_size == 4096


def test_a_quantization_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "hf_quant_config.json"
    path.write_text(json.dumps(QUANT), encoding="utf-8")
    with pytest.raises(SpecError, match="quantization settings, not a model"):
        load_model(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SpecError, match="quantization: missing"):
        load_quantization(path)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_our_own_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mine.{ending}"
    model = dataclasses.replace(load_model("qwen3.5-27b"), name="mine")
    write(model, path)
    assert load_model(str(path)) == model
    text = path.read_text(encoding="utf-8").replace("hidden_size", "hiden_size", 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="hiden_size"):
        load_model(path)


def test_a_model_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    write(load_model("llama-3.1-8b"), path)
    text = path.read_text(encoding="utf-8").replace("format_version: 1", "format_version: 2")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="newer than this version"):
        load_model(path)


@pytest.mark.parametrize(
    "content,words",
    [("", "not valid JSON"), ("{", "not valid JSON"), ("[]", "top level"), ("3", "top level")],
)
def test_broken_files(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError, match=words):
        load_model(path)
    with pytest.raises(SpecError, match="no such file"):
        load_model(tmp_path / "absent.json")


@pytest.mark.parametrize("name", bundled_models())
def test_the_compact_form_reads_back_as_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    write_model(load_model(name), path)
    assert load_model(path) == load_model(name)


@needs_configs
def test_bundled_models_are_those_of_their_configurations() -> None:
    import yaml

    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert sorted([*manifest["files"], *manifest["written"]]) == list(bundled_models())
    for name, entry in manifest["files"].items():
        bundled, read = load_model(name), load_model(config_path(entry["file"]))
        kept = {"name": read.name, "source": read.source, "as_of": read.as_of}
        assert dataclasses.replace(bundled, **kept) == read
    assert CONFIGS.is_dir()


def test_loading_one_model_reads_one_file_quickly() -> None:
    """In a fresh process, imports done: under 50 ms, and no other model's file is opened."""
    code = (
        "import sys, time\n"
        "import plimsoll.spec.model_files as f\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "best = 9.0\n"
        "start = time.process_time()\n"
        "f.load_model('llama-3.1-70b')\n"
        "took = time.process_time() - start\n"
        "models = {o for o in opened if 'library/models/' in o} - {''}\n"
        "print(took, sum('_aliases' not in o for o in models))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    results = [run.stdout.split() for run in runs]
    assert min(float(took) for took, _ in results) < 0.05
    assert {count for _, count in results} == {"1"}


def test_a_bundled_model_is_read_once() -> None:
    assert load_model("opt-13b") is load_model("OPT-13B")
    assert total_parameters(load_model("opt-13b")) == 12_853_473_280
