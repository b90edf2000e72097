"""What lies in a folder of safetensors files: names, shapes and formats, without the numbers.

One ``model.safetensors``, or several named by ``model.safetensors.index.json``. Pickled weights
can run code when read and are refused. File names in an index must stay inside the folder; links
are followed, because download caches are made of them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["StoredTensor", "read_json", "read_tensors", "stored_tensors"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what it looks like."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"{path}: no such file; expected a Hugging Face folder with it inside"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise SpecError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: {type(content).__name__} found; expected a mapping")
    return content


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in ``folder``, by its stored name.

    Raises:
        SpecError: files are missing, damaged, or outside of the folder.
        UnsupportedError: pickled or quantized weights.
    """
    if (folder / _SINGLE).exists():
        return _header(folder / _SINGLE)
    if (folder / _INDEX).exists():
        return _indexed(folder)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsupportedError(
            f"{folder / pickles[0]}: pickled weights can run code; safetensors only. "
            "Convert the checkpoint first"
        )
    raise SpecError(f"{folder}: neither {_SINGLE} nor {_INDEX} is there")


def read_tensors(stored: dict[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, on the CPU, file by file; no file is opened twice."""
    by_path: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        by_path.setdefault(tensor.path, []).append(name)
    for path, names in by_path.items():
        with safe_open(path, framework="pt") as file:
            for name in names:
                yield name, file.get_tensor(name)


def _indexed(folder: Path) -> dict[str, StoredTensor]:
    index = folder / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SpecError(f"{index}: weight_map is missing; expected tensor names to file names")
    headers: dict[str, dict[str, StoredTensor]] = {}
    for name, file in weight_map.items():
        _confine(index, file)
        if file not in headers:
            headers[file] = _header(folder / file)
        if name not in headers[file]:
            raise SpecError(f"{folder / file}: tensor {name} is missing, which {_INDEX} promises")
    return {name: headers[file][name] for name, file in weight_map.items()}


def _confine(index: Path, file: Any) -> None:
    """Refuse all but names of safetensors files below the index's folder."""
    if not isinstance(file, str) or not file.endswith(".safetensors"):
        raise SpecError(f"{index}: {file!r} is not the name of a safetensors file")
    windows, posix = PureWindowsPath(file), PurePosixPath(file)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise SpecError(f"{index}: {file!r} lies outside of the folder")


def _header(path: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                entry = file.get_slice(name)
                if entry.get_dtype() not in _DTYPES:
                    raise UnsupportedError(
                        f"{path}: {name} is stored as {entry.get_dtype()}; "
                        f"only {', '.join(_DTYPES)} are read, not quantized weights"
                    )
                found[name] = StoredTensor(
                    path=path, shape=tuple(entry.get_shape()), dtype=_DTYPES[entry.get_dtype()]
                )
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise SpecError(f"{path}: not a sound safetensors file: {error}") from None
    return found
