"""The order in which waiting requests start.

First come, first served; but where KV is handed over, requests whose KV is here already go
first: they hold memory, and one that must be computed again could wait for it forever.
"""

from collections.abc import Iterable

from plimsoll.serving.policy import InstView, ReqView

__all__ = ["in_order"]


def in_order(inst: InstView) -> Iterable[ReqView]:
    """The waiting requests of an instance in the order they should start."""
    if inst.role != "decode":
        return inst.waiting
    return sorted(inst.waiting, key=lambda request: request.computed == 0)
