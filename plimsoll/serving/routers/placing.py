"""What every router does: find the requests an event leaves without a place, and place them.

While no instance takes any, requests are kept in ``view.mem`` and placed when one joins.
"""

from collections.abc import Callable, Sequence

from plimsoll.serving.policy import Action, Admit, Arrive, Event, InstView, Join, Leave, View

__all__ = ["EVENTS", "Pick", "place"]

Pick = Callable[[View, Sequence[InstView], int], InstView]
"""(view, instances that take prompts, request id) -> the one to use."""

EVENTS: frozenset[type] = frozenset({Arrive, Leave, Join})


def place(view: View, event: Event, pick: Pick) -> Sequence[Action]:
    """Admit what the event leaves without a place, each where ``pick`` says."""
    if type(event) is Arrive:
        requests: Sequence[int] = (event.request,)
    elif type(event) is Leave:
        requests = event.requests
    elif type(event) is Join:
        requests = ()
    else:
        return ()
    homeless = view.mem.get("homeless")
    if isinstance(homeless, list) and homeless:
        requests = [*filter(view.has, homeless), *requests]
    up = [inst for inst in view.instances if inst.admits and inst.role != "decode"]
    if not up:
        view.mem["homeless"] = list(requests)
        return ()
    if homeless:
        view.mem["homeless"] = []
    return [Admit(request, pick(view, up, request).id) for request in requests]
