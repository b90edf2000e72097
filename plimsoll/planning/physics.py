"""What a search must know of a replica: its clock, its memory, its hand-over.

``Physics`` is the whole interface between the search and the cost model, so that a search can
be checked on a toy. ``LibraryPhysics`` answers from ``cost``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plimsoll.cost.clock import StepClock
from plimsoll.cost.memory import footprint, kv_capacity
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.planning.parallel_shapes import Site
from plimsoll.planning.plan_space import Shape, SpaceOptions
from plimsoll.spec.model import ModelSpec

__all__ = ["LibraryPhysics", "Physics", "ReplicaRoom"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRoom:
    """Memory of one replica: KV tokens it holds, and bytes on its fullest device.

    ``longest_tokens`` is the longest single request that fits, ``most_requests`` how many of
    the asked length. ``needed_bytes`` (weights and overheads) above ``available_bytes`` means
    that there is no room for KV at all.
    """

    kv_tokens: int
    longest_tokens: int
    most_requests: int
    needed_bytes: float
    weights_bytes: float
    available_bytes: float


class Physics(Protocol):
    """Answers about one replica of a shape."""

    def clock(self, shape: Shape) -> StepClock:
        """Step times."""
        ...

    def room(
        self, shape: Shape, *, context_tokens: float, max_batched_tokens: int, max_num_seqs: int
    ) -> ReplicaRoom:
        """Memory, with requests of ``context_tokens`` each."""
        ...

    def handover_s(self, prefill: Shape, decode: Shape, tokens: float) -> float:
        """Seconds to move the KV of a request of that many tokens between replicas."""
        ...

    def origin(self, shape: Shape) -> str:
        """How the clock's numbers were obtained, as a word of ``spec/origin.py``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPhysics:
    """The bundled cost model's answers; clocks are made once."""

    model: ModelSpec
    sites: Sequence[Site]
    options: SpaceOptions
    clocks: dict[Shape, ReplicaClock] = field(default_factory=dict)

    def clock(self, shape: Shape) -> ReplicaClock:
        """See ``Physics``."""
        found = self.clocks.get(shape)
        if found is None:
            site = self.sites[shape.site_index]
            found = replica_clock(
                self.model,
                site.device,
                shape.parallel,
                weight_dtype=shape.weight_dtype,
                kv_dtype=shape.kv_dtype,
                engine=self.options.engine,
                num_devices_per_node=max(site.nodes),
            )
            self.clocks[shape] = found
        return found

    def room(
        self, shape: Shape, *, context_tokens: float, max_batched_tokens: int, max_num_seqs: int
    ) -> ReplicaRoom:
        """See ``Physics``."""
        device = self.sites[shape.site_index].device
        capacity = kv_capacity(
            self.model,
            device,
            shape.parallel,
            weight_dtype=shape.weight_dtype,
            kv_dtype=shape.kv_dtype,
            memory_fraction=self.options.memory_fraction,
            max_batched_tokens=max_batched_tokens,
            max_num_seqs=max_num_seqs,
        )
        parts = footprint(
            self.model,
            device,
            shape.parallel,
            weight_dtype=shape.weight_dtype,
            memory_fraction=self.options.memory_fraction,
            max_batched_tokens=max_batched_tokens,
            max_num_seqs=max_num_seqs,
        )
        return ReplicaRoom(
            kv_tokens=capacity.num_tokens,
            longest_tokens=capacity.max_request_tokens,
            most_requests=capacity.max_concurrency(round(context_tokens)),
            needed_bytes=parts.needed_bytes,
            weights_bytes=parts.weights_bytes,
            available_bytes=parts.limit_bytes,
        )

    def handover_s(self, prefill: Shape, decode: Shape, tokens: float) -> float:
        """See ``Physics``."""
        same_site = prefill.site_index == decode.site_index
        node = max(self.sites[prefill.site_index].nodes)
        near = same_site and prefill.num_devices + decode.num_devices <= node
        return self.clock(prefill).transfer_s(round(tokens), self.clock(decode), same_node=near)

    def origin(self, shape: Shape) -> str:
        """See ``Physics``."""
        return self.clock(shape).origin
