"""One word or path in, a model out: bundled name, ``config.json``, folder, or our own YAML.

Bundled models are one YAML file each under ``library/models``, named as the model; a small
index holds other spellings. Loading one reads no other. A path is anything that has a
separator, ends in .json or .yaml, or exists.
"""

import functools
import importlib.resources
from pathlib import Path
from typing import Any

import yaml

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.hf.quantization import CheckpointFormats, formats_from_quant_config
from plimsoll.spec.io import from_data, read, read_data
from plimsoll.spec.model import ModelSpec

__all__ = ["bundled_models", "load_model", "load_quantization", "model_aliases"]

_CONFIG = "config.json"
_QUANT = "hf_quant_config.json"


@functools.cache
def bundled_models() -> tuple[str, ...]:
    """Names of the models that come with the package, sorted."""
    folder = importlib.resources.files("plimsoll") / "library" / "models"
    names = (entry.name for entry in folder.iterdir())
    return tuple(
        sorted(name[: -len(".yaml")] for name in names if name.endswith(".yaml") and name[0] != "_")
    )


@functools.cache
def model_aliases() -> dict[str, str]:
    """Other spellings of bundled names, in lower case."""
    path = importlib.resources.files("plimsoll") / "library" / "models" / "_aliases.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe
    return {str(k).lower(): str(v) for k, v in content["aliases"].items()}


@functools.cache
def _bundled(name: str) -> ModelSpec:
    path = importlib.resources.files("plimsoll") / "library" / "models" / f"{name}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe
    return from_data(ModelSpec, content, where=f"bundled model {name}")


def _find_bundled(text: str) -> str:
    """The bundled name that ``text`` spells, or ""."""
    wanted = text.strip().lower()
    names = {name.lower(): name for name in bundled_models()}
    return names.get(wanted, "") or model_aliases().get(wanted, "")


def load_model(text: str | Path) -> ModelSpec:
    """The model that ``text`` names: a bundled name, a path, or a hub name of a bundled model.

    Raises:
        SpecError: no such model (the nearest names are suggested) or a bad file.
        UnsupportedError: a kind of layer or quantization that is not known.
    """
    if isinstance(text, Path):
        return _from_path(text)
    name = _find_bundled(text)
    if name:
        return _bundled(name)
    if not text.strip() or "\0" in text or len(text) > 4096:
        raise SpecError("model: an empty or unprintable name; give a bundled name or a path")
    path = Path(text)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError):  # a name too long for the file system, an unknown ~user
        exists = False
    if exists or path.suffix.lower() in (".json", ".yaml", ".yml"):
        return _from_path(path)
    last = text.strip().split("/")[-1]
    if text.count("/") == 1 and _find_bundled(last):
        return _bundled(_find_bundled(last))
    known = suggest(last, (*bundled_models(), *model_aliases()))
    raise SpecError(
        f"model {text!r}: not a bundled model and no such file.{known} "
        "Give a bundled name (plimsoll list models), a config.json, a folder with one, or a YAML"
    )


def _from_path(path: Path) -> ModelSpec:
    if path.is_dir():
        if not (path / _CONFIG).exists():
            raise SpecError(f"{path}: the folder has no {_CONFIG}")
        path = path / _CONFIG
    if path.suffix.lower() in (".yaml", ".yml"):
        return read(ModelSpec, path)
    data = read_data(path)
    if _is_spec(data):
        return read(ModelSpec, path)
    name = _name_of(path)
    if isinstance(data, dict) and "hidden_size" not in data and "quantization" in data:
        raise SpecError(
            f"{path}: quantization settings, not a model; give the {_CONFIG} beside them"
        )
    beside = _quant_file(path)
    settings = _quant_settings(beside) if beside is not None else None
    return model_from_config(
        data,
        name=name,
        where=str(path),
        quantization=settings,
        quant_where=str(beside or ""),
    )


def _is_spec(data: Any) -> bool:
    return isinstance(data, dict) and "format_version" in data and "layers" in data


def _name_of(path: Path) -> str:
    """The model's name from its file: ``org--name_config.json`` or the folder's name."""
    stem = path.name
    if stem == _CONFIG:
        return path.resolve().parent.name
    for ending in ("_config.json", ".json"):
        if stem.endswith(ending):
            stem = stem[: -len(ending)]
            break
    return stem.split("--")[-1]


def _quant_file(path: Path) -> Path | None:
    """The quantization file that belongs to a configuration file."""
    name = path.name
    if name.endswith(_CONFIG):
        beside = path.with_name(name[: -len(_CONFIG)] + _QUANT)
        if beside.exists():
            return beside
    return None


def _quant_settings(path: Path) -> dict[str, Any]:
    data = read_data(path)
    section = data.get("quantization") if isinstance(data, dict) else None
    if not isinstance(section, dict):
        raise SpecError(f"{path}: quantization: missing or not a mapping")
    return section


def load_quantization(path: Path, *, base: DType = DType.BF16) -> CheckpointFormats:
    """The number formats that a quantization file alone describes.

    Raises:
        SpecError: not a quantization file. UnsupportedError: an algorithm that is not known.
    """
    return formats_from_quant_config(Fields(_quant_settings(path), where=str(path)), base)
