"""Step policies: what one instance runs in each iteration. One file a policy."""

from plimsoll.serving.policies.chunked_prefill import ChunkedPrefillPolicy
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from plimsoll.serving.policies.orca import OrcaPolicy
from plimsoll.serving.policies.prefill_first import PrefillFirstPolicy
from plimsoll.serving.policies.prefix_groups import GroupPolicy
from plimsoll.serving.policies.splitfuse import SplitFusePolicy

__all__ = [
    "POLICIES",
    "ChunkedPrefillPolicy",
    "FairSwapPolicy",
    "GroupPolicy",
    "OrcaPolicy",
    "PrefillFirstPolicy",
    "SplitFusePolicy",
]

POLICIES: dict[str, type] = {
    "chunked-prefill": ChunkedPrefillPolicy,
    "fairswap": FairSwapPolicy,
    "orca": OrcaPolicy,
    "prefill-first": PrefillFirstPolicy,
    "splitfuse": SplitFusePolicy,
}
"""By the ``kind`` of a plan's policy; fields of the config that the class has are its arguments,
those of ``fairswap`` that it has not say how a replica swaps. ``GroupPolicy``
is not among them: it needs the plan of a batch, which no plan of a deployment holds."""
