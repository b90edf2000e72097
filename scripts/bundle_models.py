"""Write the bundled models: shapes of configurations as compact model files.

    python scripts/bundle_models.py ../shared/data/model_configs

Reads ``scripts/model_manifest.yaml`` and writes ``plimsoll/library/models/NAME.yaml``. Fields
that have their default are left out; layers that repeat are written once and referred to.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import yaml

from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.io import write_text
from plimsoll.spec.model import Layer, ModelSpec
from plimsoll.spec.model_files import load_model

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "scripts" / "model_manifest.yaml"
MODELS = ROOT / "plimsoll" / "library" / "models"
KEPT = {"kind", "format_version"}


def compact(value: Any, seen: dict[Layer, Any]) -> Any:
    """Plain data without defaults; equal layers become the same object."""
    if isinstance(value, Layer) and value in seen:
        return seen[value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = {}
        for item in dataclasses.fields(value):
            content = getattr(value, item.name)
            default = item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            if item.name in KEPT or content != default:
                result[item.name] = compact(content, seen)
        if isinstance(value, Layer):
            seen[value] = result
        return result
    if isinstance(value, tuple | list):
        return [compact(item, seen) for item in value]
    return getattr(value, "value", value)


def write_model(model: ModelSpec, path: Path) -> None:
    """One model as YAML; identical layers are written once."""
    text = yaml.safe_dump(
        compact(model, {}), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    write_text(text, path)


def main(configs: Path) -> None:
    """Write every model of the manifest."""
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    as_of = manifest["as_of"]
    for name, entry in manifest["files"].items():
        model = load_model(configs / f"{entry['file']}_config.json")
        repo = entry.get("repo", entry["file"].replace("--", "/"))
        source = f"config.json of {repo}"
        model = dataclasses.replace(model, name=name, source=source, as_of=as_of)
        write_model(model, MODELS / f"{name}.yaml")
    for name, entry in manifest["written"].items():
        model = model_from_config(entry["config"], name=name, where=name)
        model = dataclasses.replace(model, source=entry["repo"], as_of=as_of)
        write_model(model, MODELS / f"{name}.yaml")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
