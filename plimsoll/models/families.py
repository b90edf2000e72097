"""Which class builds a Hugging Face ``model_type``, and how its checkpoint names its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from plimsoll.models.bamba import Bamba, export_bamba, place_bamba
from plimsoll.models.checkpoint_names import Export, Place, plain_export, plain_place
from plimsoll.models.deepseek import DeepseekV2, DeepseekV3
from plimsoll.models.expert_names import (
    export_experts,
    export_mixtral,
    place_experts,
    place_mixtral,
)
from plimsoll.models.gemma2 import Gemma2
from plimsoll.models.gemma3 import Gemma3
from plimsoll.models.gpt_oss import GptOss, export_gpt_oss, place_gpt_oss
from plimsoll.models.llama import Llama, Mistral, Qwen2, Qwen3
from plimsoll.models.mixtral import Mixtral
from plimsoll.models.phi3 import Phi3, export_phi3, place_phi3
from plimsoll.models.qwen3_moe import Qwen3Moe
from plimsoll.spec.errors import UnsupportedError, suggest

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """``build`` makes the ``Decoder`` of a configuration; see ``checkpoint_names`` for the rest."""

    build: Callable[[Mapping[str, Any]], nn.Module]
    place: Place = plain_place
    export: Export = plain_export


FAMILIES: dict[str, Family] = {
    "gemma2": Family(build=Gemma2),
    "gemma3_text": Family(build=Gemma3),
    "llama": Family(build=Llama),
    "mistral": Family(build=Mistral),
    "phi3": Family(build=Phi3, place=place_phi3, export=export_phi3),
    "qwen2": Family(build=Qwen2),
    "qwen3": Family(build=Qwen3),
    "mixtral": Family(build=Mixtral, place=place_mixtral, export=export_mixtral),
    "qwen3_moe": Family(build=Qwen3Moe, place=place_experts, export=export_experts),
    "gpt_oss": Family(build=GptOss, place=place_gpt_oss, export=export_gpt_oss),
    "deepseek_v2": Family(build=DeepseekV2, place=place_experts, export=export_experts),
    "deepseek_v3": Family(build=DeepseekV3, place=place_experts, export=export_experts),
    "bamba": Family(build=Bamba, place=place_bamba, export=export_bamba),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a configuration's ``model_type``.

    Raises:
        UnsupportedError: it is not in ``FAMILIES``.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        found = "no model_type" if model_type is None else f"model_type {model_type!r}"
        raise UnsupportedError(
            f"config.json: {found}; known are {', '.join(sorted(FAMILIES))}."
            + suggest(str(model_type), FAMILIES)
        )
    return FAMILIES[model_type]
