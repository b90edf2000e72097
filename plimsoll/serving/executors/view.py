"""The snapshot a policy reads from the simulated executor (``serving.policy.View``)."""

from collections.abc import MutableMapping, Sequence

import numpy as np

from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.requests import SimRequest

__all__ = ["RunView"]


class RunView:
    """One a policy: its own memory and random stream, the run's instances and requests."""

    __slots__ = ("_requests", "instances", "mem", "now_s", "rng")

    def __init__(
        self,
        instances: Sequence[SimInstance],
        requests: dict[int, SimRequest],
        seed: np.random.SeedSequence,
    ) -> None:
        self.now_s = 0.0
        self.rng = np.random.default_rng(seed)
        self.mem: MutableMapping[str, object] = {}
        self.instances = instances
        self._requests = requests

    def request(self, request_id: int) -> SimRequest:
        """A request that is alive."""
        return self._requests[request_id]

    def has(self, request_id: int) -> bool:
        """Whether the request is still alive."""
        return request_id in self._requests
