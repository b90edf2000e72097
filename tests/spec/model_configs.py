"""Where the tests find real configuration files, and how they read one."""

import json
from pathlib import Path
from typing import Any

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "../shared/data/model_configs"

needs_configs = pytest.mark.skipif(
    not CONFIGS.is_dir(), reason="needs ../shared/data/model_configs beside the checkout"
)


def config_files() -> list[Path]:
    """Every model configuration, quantization files left out."""
    return sorted(path for path in CONFIGS.glob("*_config.json") if "hf_quant" not in path.name)


def quant_files() -> list[Path]:
    """Every quantization file."""
    return sorted(CONFIGS.glob("*_hf_quant_config.json"))


def config_path(name: str) -> Path:
    """The configuration file of ``org--name``."""
    return CONFIGS / f"{name}_config.json"


def config_data(name: str) -> dict[str, Any]:
    """The parsed configuration of ``org--name``."""
    data: dict[str, Any] = json.loads(config_path(name).read_text(encoding="utf-8"))
    return data
