"""Step policies: what one instance runs in each iteration. One file a policy."""

from plimsoll.serving.policies.chunked_prefill import ChunkedPrefillPolicy
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from plimsoll.serving.policies.nano import NanoPolicy
from plimsoll.serving.policies.orca import OrcaPolicy
from plimsoll.serving.policies.prefill_first import PrefillFirstPolicy
from plimsoll.serving.policies.prefix_groups import GroupPolicy
from plimsoll.serving.policies.splitfuse import SplitFusePolicy

__all__ = [
    "POLICIES",
    "ChunkedPrefillPolicy",
    "FairSwapPolicy",
    "GroupPolicy",
    "NanoPolicy",
    "OrcaPolicy",
    "PrefillFirstPolicy",
    "SplitFusePolicy",
]

POLICIES: dict[str, type] = {
    "chunked-prefill": ChunkedPrefillPolicy,
    "fairswap": FairSwapPolicy,
    "nano": NanoPolicy,
    "orca": OrcaPolicy,
    "prefill-first": PrefillFirstPolicy,
    "prefix-groups": GroupPolicy,
    "splitfuse": SplitFusePolicy,
}
"""By the ``kind`` of a plan's policy; fields of the config that the class has are its arguments.
Those of ``fairswap`` that it has not say how a replica swaps; ``prefix-groups`` needs the batch too
(``simulate.batch_groups``)."""
