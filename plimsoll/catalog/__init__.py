"""The catalog: published systems, their claims, and how each is recomputed."""

from plimsoll.catalog.apex import SYSTEM as APEX
from plimsoll.catalog.batchllm import SYSTEM as BATCHLLM
from plimsoll.catalog.burstgpt import SYSTEM as BURSTGPT
from plimsoll.catalog.contract import System
from plimsoll.catalog.distserve import SYSTEM as DISTSERVE
from plimsoll.catalog.fastgen import SYSTEM as FASTGEN
from plimsoll.catalog.fidelity import SYSTEM as FIDELITY
from plimsoll.catalog.long_context_peak import SYSTEM as LONG_CONTEXT_PEAK

__all__ = ["SYSTEMS"]

SYSTEMS: dict[str, System] = {
    system.id: system
    for system in (
        APEX,
        BATCHLLM,
        BURSTGPT,
        DISTSERVE,
        FASTGEN,
        FIDELITY,
        LONG_CONTEXT_PEAK,
    )
}
"""By id, in the order they are shown."""
