"""Any decoder model from its Hugging Face ``config.json``, by its fields and not by its name."""

from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.hf.quantization import CheckpointFormats, formats_from_quant_config

__all__ = ["CheckpointFormats", "formats_from_quant_config", "model_from_config"]
