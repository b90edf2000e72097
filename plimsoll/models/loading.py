"""Models from Hugging Face folders (``config.json`` and safetensors), and back into them.

``load`` builds the model without memory, checks every stored tensor's name and shape before it
reads a number, then reads each file once, straight into parameters of the wanted format and
device. Left out: quantized checkpoints, downloads, pickles.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from plimsoll.models.checkpoint_names import Part, language_name
from plimsoll.models.context import Decoder
from plimsoll.models.families import family_of
from plimsoll.models.rope import set_max_length
from plimsoll.models.safetensors_folder import (
    StoredTensor,
    read_json,
    read_tensors,
    stored_tensors,
)
from plimsoll.models.sharding import Shard, cut_model
from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["build", "load", "load_config", "save", "text_config"]

_HEAD = "lm_head.weight"
_MOST_NAMED = 3
_INHERITED = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")


def load_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a folder."""
    return read_json(Path(folder) / "config.json")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of a multimodal configuration; any other as it is."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return dict(config)
    return {name: config[name] for name in _INHERITED if name in config} | dict(inner)


def build(
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    max_length: int = 0,
) -> Decoder:
    """A model of random weights. ``max_length`` 0: as long as the configuration says.

    Two ways of stretching positions depend on the length; see ``models/rope.py``.
    """
    config = text_config(config)
    if config.get("quantization_config"):
        raise UnsupportedError(
            "config.json: quantization_config: quantized checkpoints are not loaded; "
            "use one with bf16, fp16 or fp32 weights"
        )
    with torch.device(device):
        model = family_of(config).build(config)
    if max_length:
        set_max_length(model, max_length)
    model.to(dtype=dtype)
    if torch.device(device).type != "meta":
        model.to(device=device)
    return cast(Decoder, model)


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    max_length: int = 0,
    shard: Shard | None = None,
) -> Decoder:
    """The model in a folder, with its weights. ``dtype`` None: as most of them are stored.

    With ``shard`` only that rank's part takes memory; see ``models/sharding.py``.

    Raises:
        SpecError: files or tensors are missing, not expected, damaged or of the wrong shape.
        UnsupportedError: a family not in ``FAMILIES``; pickled or quantized weights; a part that
            the model cannot be cut into.
    """
    folder = Path(folder)
    outer = load_config(folder)
    config = text_config(outer)
    family = family_of(config)
    stored = stored_tensors(folder)
    names = {name: language_name(name) if "text_config" in outer else name for name in stored}
    stored = {name: tensor for name, tensor in stored.items() if names[name]}
    model = build(config, dtype=dtype or _main_dtype(stored), device="meta", max_length=max_length)
    module = cast(nn.Module, model)
    wanted = module.state_dict()

    def parts(name: str, tensor: Tensor) -> Iterator[Part]:
        for part in family.place(names[name], tensor, config):
            if part.name in wanted or part.name != _HEAD:  # some store a tied head again
                yield part

    _check(folder, wanted, {name: list(parts(name, _shape(t))) for name, t in stored.items()})
    cuts = cut_model(model, shard) if shard else {}
    filled = {n: torch.empty_like(t, device=device) for n, t in module.state_dict().items()}
    with torch.no_grad():
        for name, tensor in read_tensors(stored):
            for part in parts(name, tensor):
                if part.name not in filled:  # another rank's
                    continue
                source, cut, target = part.tensor, cuts.get(part.name), filled[part.name]
                if cut is not None:
                    source = source.narrow(cut.dim - len(part.at), cut.first, cut.size)
                (target[part.at] if part.at else target).copy_(source)
    module.load_state_dict(filled, assign=True)
    module.to(device=device)
    return model


def save(model: Decoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` with Hugging Face's names.

    Each file is written under another name first, so a broken-off run leaves no half file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    module = cast(nn.Module, model)
    config: dict[str, Any] = dict(model.config)
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    tensors = family_of(config).export(tensors, config)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    config["dtype"] = str(next(iter(module.parameters())).dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)
    weights = folder / "model.safetensors"
    half = weights.with_name(f".{weights.name}.{os.getpid()}")
    save_file(tensors, half, metadata={"format": "pt"})
    half.replace(weights)
    target = folder / "config.json"
    half = target.with_name(f".{target.name}.{os.getpid()}")
    half.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    half.replace(target)


def _shape(stored: StoredTensor) -> Tensor:
    return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


def _main_dtype(stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """The format that most numbers are stored in."""
    numbers: dict[torch.dtype, int] = {}
    for tensor in stored.values():
        numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)


def _check(
    folder: Path, wanted: Mapping[str, Tensor], planned: Mapping[str, Sequence[Part]]
) -> None:
    """Every parameter is filled, nothing is left over, all shapes fit."""
    unexpected = []
    wrong = []
    filled = dict.fromkeys(wanted, 0)
    for stored_name, parts in planned.items():
        for name, tensor, at in parts:
            target = wanted.get(name)
            if target is None or any(i >= n for i, n in zip(at, target.shape, strict=False)):
                unexpected.append(stored_name)
            elif target.shape[len(at) :] != tensor.shape:
                expected = tuple(target.shape[len(at) :])
                wrong.append(f"{stored_name} {tuple(tensor.shape)} instead of {expected}")
            else:
                filled[name] += tensor.numel()
    if wrong:
        raise SpecError(f"{folder}: tensors of the wrong shape: {_some(wrong)}")
    missing = [name for name, count in filled.items() if count < wanted[name].numel()]
    problems = []
    if missing:
        problems.append(f"missing tensors: {_some(missing)}")
    if unexpected:
        problems.append(f"unexpected tensors: {_some(unexpected)}")
    if problems:
        raise SpecError(f"{folder}: {'; '.join(problems)}; does config.json belong to these files?")


def _some(items: Sequence[str]) -> str:
    more = len(items) - _MOST_NAMED
    return ", ".join(items[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
