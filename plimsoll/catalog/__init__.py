"""The catalog: published systems, their claims, and how each is recomputed."""

from plimsoll.catalog.apex import SYSTEM as APEX
from plimsoll.catalog.batchllm import SYSTEM as BATCHLLM
from plimsoll.catalog.blockllm import SYSTEM as BLOCKLLM
from plimsoll.catalog.burstgpt import SYSTEM as BURSTGPT
from plimsoll.catalog.contract import System
from plimsoll.catalog.data_filtering import SYSTEM as DATA_FILTERING
from plimsoll.catalog.data_pruning import SYSTEM as DATA_PRUNING
from plimsoll.catalog.densing_law import SYSTEM as DENSING_LAW
from plimsoll.catalog.distserve import SYSTEM as DISTSERVE
from plimsoll.catalog.farseer import SYSTEM as FARSEER
from plimsoll.catalog.fastgen import SYSTEM as FASTGEN
from plimsoll.catalog.fastswitch import SYSTEM as FASTSWITCH
from plimsoll.catalog.fidelity import SYSTEM as FIDELITY
from plimsoll.catalog.infinite_llm import SYSTEM as INFINITE_LLM
from plimsoll.catalog.kinetics import SYSTEM as KINETICS
from plimsoll.catalog.llumnix import SYSTEM as LLUMNIX
from plimsoll.catalog.long_context_peak import SYSTEM as LONG_CONTEXT_PEAK
from plimsoll.catalog.massiveds import SYSTEM as MASSIVEDS
from plimsoll.catalog.nanoflow import SYSTEM as NANOFLOW
from plimsoll.catalog.parscale import SYSTEM as PARSCALE
from plimsoll.catalog.step_law import SYSTEM as STEP_LAW
from plimsoll.catalog.tsfm_scaling import SYSTEM as TSFM_SCALING
from plimsoll.catalog.ttspm import SYSTEM as TTSPM

__all__ = ["SYSTEMS"]

SYSTEMS: dict[str, System] = {
    system.id: system
    for system in (
        APEX,
        BATCHLLM,
        BLOCKLLM,
        BURSTGPT,
        DISTSERVE,
        FASTGEN,
        FASTSWITCH,
        FIDELITY,
        LLUMNIX,
        INFINITE_LLM,
        LONG_CONTEXT_PEAK,
        NANOFLOW,
        FARSEER,
        KINETICS,
        PARSCALE,
        STEP_LAW,
        DENSING_LAW,
        DATA_FILTERING,
        DATA_PRUNING,
        MASSIVEDS,
        TTSPM,
        TSFM_SCALING,
    )
}
"""By id, in the order they are shown."""
