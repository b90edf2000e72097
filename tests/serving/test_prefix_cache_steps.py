"""Prefix caching where several prompts start at once, and where a router reads it in mid-run."""

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.workload import Workload


def workload(rows):
    """Rows of (arrival, prompt tokens, output tokens, prefix keys)."""
    arrival, prompt, output, keys = zip(*rows, strict=True)
    return Workload(
        name="rows",
        arrival_s=np.array(arrival, dtype=float),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        prefix_keys=np.array([key for row in keys for key in row], dtype=np.int64),
        prefix_start=np.cumsum([0, *map(len, keys)]),
        prefix_block_tokens=16,
    )


def run(rows, *, num_blocks, policy):
    spec = InstanceSpec(
        clock=LinearClock(step_base_s=0.01, token_s=1e-4), policy=policy, num_blocks=num_blocks
    )
    return SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(workload(rows))


def test_a_prompt_keeps_the_prefix_it_was_promised_when_another_starts_beside_it():
    """The first of two prompts must not evict what the second was counted to find."""
    record = run(
        [
            (0.0, 64, 1, (1, 2, 3, 4)),  # leaves four cached blocks, the oldest
            (1.0, 48, 1, (5, 6, 7)),
            (2.0, 16, 1, ()),
            (2.001, 14 * 16, 1, ()),  # takes the free 13 and one that is cached
            (2.002, 64 + 16, 1, (1, 2, 3, 4)),
        ],
        num_blocks=20,
        policy=PrefillFirstPolicy(watermark_fraction=0.0),
    )
    assert (record.requests.status == 0).all()
    assert record.requests.cached_tokens.tolist() == [0, 0, 0, 0, 64]
