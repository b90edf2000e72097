"""The catalog: published systems, their claims, and how each is recomputed."""

from plimsoll.catalog.apex import SYSTEM as APEX
from plimsoll.catalog.batchllm import SYSTEM as BATCHLLM
from plimsoll.catalog.burstgpt import SYSTEM as BURSTGPT
from plimsoll.catalog.contract import System
from plimsoll.catalog.distserve import SYSTEM as DISTSERVE
from plimsoll.catalog.fastgen import SYSTEM as FASTGEN
from plimsoll.catalog.fastswitch import SYSTEM as FASTSWITCH
from plimsoll.catalog.fidelity import SYSTEM as FIDELITY
from plimsoll.catalog.infinite_llm import SYSTEM as INFINITE_LLM
from plimsoll.catalog.kinetics import SYSTEM as KINETICS
from plimsoll.catalog.llumnix import SYSTEM as LLUMNIX
from plimsoll.catalog.long_context_peak import SYSTEM as LONG_CONTEXT_PEAK
from plimsoll.catalog.nanoflow import SYSTEM as NANOFLOW
from plimsoll.catalog.parscale import SYSTEM as PARSCALE
from plimsoll.catalog.step_law import SYSTEM as STEP_LAW
from plimsoll.catalog.ttspm import SYSTEM as TTSPM

__all__ = ["SYSTEMS"]

SYSTEMS: dict[str, System] = {
    system.id: system
    for system in (
        APEX,
        BATCHLLM,
        BURSTGPT,
        DISTSERVE,
        FASTGEN,
        FASTSWITCH,
        FIDELITY,
        LLUMNIX,
        INFINITE_LLM,
        LONG_CONTEXT_PEAK,
        NANOFLOW,
        KINETICS,
        PARSCALE,
        STEP_LAW,
        TTSPM,
    )
}
"""By id, in the order they are shown."""
