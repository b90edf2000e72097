"""The order in which waiting requests start.

First come, first served; but where KV is handed over, requests whose KV is here already go
first: they hold memory, and one that must be computed again could wait for it forever.
"""

from collections.abc import Iterable

from plimsoll.serving.policy import InstView, ReqView

__all__ = ["in_order"]


def in_order(inst: InstView) -> Iterable[ReqView]:
    """The waiting requests of an instance in the order they should start.

    On an instance that also runs prompts the order is changed only while nothing runs there:
    otherwise what runs will end and make room.
    """
    if inst.role == "prefill" or (inst.role == "both" and inst.num_running):
        return inst.waiting
    return sorted(inst.waiting, key=lambda request: request.computed == 0)
