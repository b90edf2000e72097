"""Folders that cannot be loaded are refused in words, before a number is read."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from plimsoll.models.families import FAMILIES
from plimsoll.models.loading import build, load, load_config, save
from plimsoll.models.safetensors_folder import read_tensors, stored_tensors
from plimsoll.spec.errors import SpecError, UnsupportedError
from tests.models.checkpoints import full_logits, random_tokens

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint of one file, ours."""
    torch.manual_seed(0)
    save(build(CONFIG), tmp_path)
    return tmp_path


def split(folder: Path, files: int = 3) -> dict[str, str]:
    """Deal the tensors of a folder out to several files; the index as written."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(files):
        names = list(tensors)[i::files]
        file = f"model-{i + 1:05}-of-{files:05}.safetensors"
        save_file({n: tensors[n] for n in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_config(folder: Path, **changes: Any) -> None:
    config = {k: v for k, v in (load_config(folder) | changes).items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_is_saved_is_loaded(folder: Path) -> None:
    torch.manual_seed(0)
    expected = full_logits(build(CONFIG), random_tokens(9))
    assert torch.equal(full_logits(load(folder), random_tokens(9)), expected)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_config(folder) == CONFIG | {"dtype": "float32"}


def test_several_files_are_one_model(folder: Path) -> None:
    expected = full_logits(load(folder), random_tokens(9))
    split(folder)
    assert torch.equal(full_logits(load(folder), random_tokens(9)), expected)
    read = [name for name, _ in read_tensors(stored_tensors(folder))]
    assert len(read) == len(set(read))


def test_no_file_is_opened_twice_for_its_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plimsoll.models import safetensors_folder

    split(folder)
    stored = stored_tensors(folder)
    opened: list[str] = []
    real = safetensors_folder.safe_open

    def counting(path: Path, **options: Any) -> Any:
        opened.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(safetensors_folder, "safe_open", counting)
    assert len(list(read_tensors(stored))) == len(stored)
    assert len(opened) == 3 == len(set(opened))


def test_formats(folder: Path) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if "norm" not in name:
                tensors[name] = tensors[name].to(torch.bfloat16)

    change_tensors(folder, halve)
    for dtype, expected in ((None, torch.bfloat16), (torch.float16, torch.float16)):
        model = load(folder, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {expected}  # type: ignore[attr-defined]


def test_a_loaded_model_does_not_lean_on_its_file(folder: Path) -> None:
    model = load(folder)
    before = full_logits(model, random_tokens(9))
    size = (folder / "model.safetensors").stat().st_size
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\0" * size)
    assert torch.equal(full_logits(model, random_tokens(9)), before)


def test_parameters_can_be_trained(folder: Path) -> None:
    model = load(folder)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())  # type: ignore[attr-defined]


def test_a_tied_head_stored_again_is_skipped(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    assert load(folder).lm_head is None  # type: ignore[attr-defined]


def test_tables_of_old_checkpoints_are_skipped(folder: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)

    before = parameters(folder)
    change_tensors(folder, add)
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" in stored_tensors(folder)
    assert same(parameters(folder), before)


def test_links_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Download caches keep files elsewhere and link to them."""
    other = tmp_path_factory.mktemp("snapshot")
    for path in folder.iterdir():
        (other / path.name).symlink_to(path)
    assert same(parameters(other), parameters(folder))


def parameters(folder: Path) -> dict[str, Tensor]:
    """What is loaded, by name."""
    return dict(load(folder).named_parameters())  # type: ignore[attr-defined]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def no_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def pickled_pt(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.00.pt")


def damaged_header(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[8:12] = b"\xff\xfe{{"
    (folder / "model.safetensors").write_bytes(content)


def cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-64])


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def lost_tensors(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if ".layers.1." in n]:
            del tensors[name]

    change_tensors(folder, change)


def odd_tensor(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.layers.0.odd": torch.zeros(2)}))


def wrong_shape(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({QUERY: torch.zeros(24, 25)}))


def integers(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({QUERY: torch.zeros(24, 24, dtype=torch.int8)}))


def lost_file(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def broken_promise(folder: Path) -> None:
    weight_map = split(folder)
    write_index(folder, weight_map | {"model.more": "model-00001-of-00003.safetensors"})


def pointing(target: Any) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        (folder.parent / "outside.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()
        )
        write_index(folder, split(folder) | {QUERY: target})

    return break_it


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, {})


def bad_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


BROKEN: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "empty folder": (no_folder, SpecError, "config.json: no such file"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        SpecError,
        "neither model.safetensors nor",
    ),
    "pickle": (pickled, UnsupportedError, "safetensors only"),
    "pt file": (pickled_pt, UnsupportedError, "safetensors only"),
    "damaged header": (damaged_header, SpecError, "not a sound safetensors file"),
    "cut off": (cut_off, SpecError, "not a sound safetensors file"),
    "huge header": (huge_header, SpecError, "not a sound safetensors file"),
    "lost tensors": (lost_tensors, SpecError, "missing tensors: layers.1.*and 6 more"),
    "odd tensor": (odd_tensor, SpecError, "unexpected tensors: model.layers.0.odd"),
    "wrong shape": (wrong_shape, SpecError, r"q_proj.weight \(24, 25\) instead of \(24, 24\)"),
    "integers": (integers, UnsupportedError, "q_proj.weight is stored as I8"),
    "lost file": (lost_file, SpecError, "model-00002-of-00003.safetensors: no such file"),
    "broken promise": (broken_promise, SpecError, "tensor model.more is missing"),
    "index to parent": (
        pointing("../outside.safetensors"),
        SpecError,
        "lies outside of the folder",
    ),
    "index to root": (pointing("/outside.safetensors"), SpecError, "lies outside of the folder"),
    "index to drive": (pointing("C:\\a.safetensors"), SpecError, "lies outside of the folder"),
    "index by backslash": (
        pointing("a\\..\\..\\outside.safetensors"),
        SpecError,
        "lies outside of the folder",
    ),
    "index to other file": (pointing("config.json"), SpecError, "not the name of a safetensors"),
    "index to number": (pointing(3), SpecError, "not the name of a safetensors"),
    "empty index": (empty_index, SpecError, "weight_map is missing"),
    "bad config": (bad_json, SpecError, "not JSON"),
    "config list": (config_list, SpecError, "list found; expected a mapping"),
    "unknown type": (
        configured(model_type="lama"),
        UnsupportedError,
        "model_type 'lama'; known are .*Did you mean llama",
    ),
    "no type": (configured(model_type="absent"), UnsupportedError, "no model_type; known are"),
    "quantized": (
        configured(quantization_config={"quant_method": "fp8"}),
        UnsupportedError,
        "quantized checkpoints are not loaded",
    ),
    "missing fields": (
        configured(hidden_size="absent", vocab_size="absent"),
        SpecError,
        "missing: hidden_size, vocab_size",
    ),
    "heads": (configured(num_key_value_heads=2), SpecError, "3 is not a multiple of"),
    "activation": (configured(hidden_act="softplus"), UnsupportedError, "'softplus' is not"),
    "other model": (configured(num_hidden_layers=3), SpecError, "missing tensors: layers.2"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(name: str, folder: Path) -> None:
    break_it, error, words = BROKEN[name]
    break_it(folder)
    with pytest.raises(error, match=words):
        load(folder)


def test_layer_types_are_checked() -> None:
    qwen = CONFIG | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4}
    with pytest.raises(SpecError, match="chunked_attention is not expected"):
        build(qwen | {"layer_types": ["chunked_attention", "full_attention"]})
    with pytest.raises(SpecError, match="1 entries for 2 layers"):
        build(qwen | {"layer_types": ["full_attention"]})


def test_a_broken_save_leaves_the_old_file(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model = load(folder)
    model.config["model_type"] = "unheard-of"
    with pytest.raises(UnsupportedError):
        save(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_fused_matrices_of_other_sizes_are_refused(tmp_path: Path) -> None:
    save(build(CONFIG | {"model_type": "phi3"}), tmp_path)
    change_tensors(
        tmp_path,
        lambda t: t.update({"model.layers.0.self_attn.qkv_proj.weight": torch.zeros(70, 24)}),
    )
    with pytest.raises(SpecError, match="has 70 rows; expected 72"):
        load(tmp_path)


def test_families_are_named_by_model_type() -> None:
    assert {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"} <= set(FAMILIES)
