"""When each instance of a run is up: what may be started and retired, and the time that costs.

An instance is stopped, starting, up, draining, or lost. It costs from the moment its start begins
until it is stopped or lost. What is started when, and which one goes, is the cluster policy's
matter; how long a start takes is the executor's.
Left out: a draining instance cannot be taken back into service.
"""

from collections.abc import Sequence

from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.policy import Life, Retire, Scale
from plimsoll.spec.errors import PolicyError

__all__ = ["Lives"]


class Lives:
    """``at_start[i]``: instance ``i`` is up when the run begins, the others are stopped."""

    def __init__(self, instances: Sequence[SimInstance], at_start: Sequence[bool]) -> None:
        self._instances = instances
        self._since_s = [0.0] * len(instances)
        self._spans: list[tuple[int, float, float]] = []
        self.starts = [0] * len(instances)
        """Starts begun of each; an end of one that was called off finds another number."""
        self.draining: set[int] = set()
        self.changed = not all(at_start)
        """Whether any instance was not up for the whole of the run."""
        for inst, up in zip(instances, at_start, strict=True):
            if not up:
                inst.become(Life.STOPPED)

    def become(self, index: int, life: Life, now_s: float) -> None:
        """Note a change, and what it costs."""
        inst = self._instances[index]
        cost = inst.life in _COSTS
        if cost and life not in _COSTS and now_s > self._since_s[index]:
            self._spans.append((index, self._since_s[index], now_s))
        elif not cost and life in _COSTS:
            self._since_s[index] = now_s
        self.starts[index] += life is Life.STARTING
        self.changed = True
        (self.draining.add if life is Life.DRAINING else self.draining.discard)(index)
        inst.become(life)

    def to_start(self, action: Scale) -> list[int]:
        """The instances to start; none if there are not as many.

        Raises:
            PolicyError: the decision does not start anything.
        """
        if type(action.delta) is not int or action.delta < 1:
            raise PolicyError(f"{action}: delta is 1 or more; Retire stops an instance")
        stopped = self.stopped()
        return stopped[: action.delta] if len(stopped) >= action.delta else []

    def stopped(self) -> list[int]:
        """Instances that can be started."""
        return [inst.id for inst in self._instances if inst.life is Life.STOPPED]

    def kept(self, action: Retire) -> str:
        """Why an instance is not retired; "" if it is.

        Raises:
            PolicyError: there is no such instance.
        """
        index = action.instance
        if type(index) is not int or not 0 <= index < len(self._instances):
            raise PolicyError(f"{action}: there are instances 0 to {len(self._instances) - 1}")
        inst = self._instances[index]
        if inst.life in (Life.STOPPED, Life.LOST) or (inst.life is Life.DRAINING and action.drain):
            return f"instance {index} is {inst.life}"
        serves = {"both", inst.role} if inst.role != "both" else {"both"}
        others = (o for o in self._instances if o.admits and o.id != index and o.role in serves)
        if inst.life is Life.UP and not any(others):
            return f"instance {index} is the last that takes requests"
        return ""

    def spans(self, end_s: float) -> list[list[float]]:
        """[instance, from, to] of all the time that instances cost, by instance and time."""
        still = [
            (inst.id, self._since_s[inst.id], end_s)
            for inst in self._instances
            if inst.life in _COSTS and end_s > self._since_s[inst.id]
        ]
        return [list(span) for span in sorted([*self._spans, *still])]


_COSTS = frozenset({Life.STARTING, Life.UP, Life.DRAINING})
