"""Cluster policies: which instance a request goes to. One file a policy."""

from plimsoll.serving.routers.autoscaled import AutoscaledPolicy
from plimsoll.serving.routers.dealt import DealtPolicy
from plimsoll.serving.routers.disagg import DisaggPolicy
from plimsoll.serving.routers.freeness import FreenessPolicy
from plimsoll.serving.routers.least_demand import LeastDemandPolicy
from plimsoll.serving.routers.least_work import LeastWorkPolicy
from plimsoll.serving.routers.pool import KvPoolPolicy
from plimsoll.serving.routers.prefix_affine import PrefixAffinePolicy
from plimsoll.serving.routers.round_robin import RoundRobinPolicy

__all__ = [
    "ROUTERS",
    "AutoscaledPolicy",
    "DealtPolicy",
    "DisaggPolicy",
    "FreenessPolicy",
    "KvPoolPolicy",
    "LeastDemandPolicy",
    "LeastWorkPolicy",
    "PrefixAffinePolicy",
    "RoundRobinPolicy",
]

ROUTERS: dict[str, type] = {
    "disaggregated": DisaggPolicy,
    "freeness": FreenessPolicy,
    "kv-pool": KvPoolPolicy,
    "least-demand": LeastDemandPolicy,
    "least-work": LeastWorkPolicy,
    "prefix-affine": PrefixAffinePolicy,
    "round-robin": RoundRobinPolicy,
}
"""By the ``kind`` of a plan's router; the fields of the config are the arguments."""
