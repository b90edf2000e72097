"""Random settings of a simulation, odd ones included: the soil in which shortcuts break.

``setting(seed)`` draws everything from the seed: block sizes from 1 to 512, tiny batches,
per-request blocks, sessions with shared prefixes, pipelines, disaggregation, priorities,
cancellations at step boundaries, simultaneous arrivals, one-token outputs, closed loops,
faults. Half of the clocks are dyadic, so that step ends coincide exactly with outside events.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.routers import (
    DisaggPolicy,
    LeastWorkPolicy,
    PrefixAffinePolicy,
    RoundRobinPolicy,
)
from plimsoll.spec.workload import Workload

__all__ = ["Setting", "setting"]


@dataclass
class Setting:
    """What to run; ``run`` may be called many times."""

    specs: list[InstanceSpec]
    router: str
    workload: Workload
    options: dict[str, Any]

    def run(self, *, fast_forward: bool = True, **run_options: Any) -> Any:
        """One run from scratch, its books checked at every step."""
        return self.executor(fast_forward=fast_forward).run(self.workload, **run_options)

    def executor(self, **more: Any) -> SimulatedExecutor:
        routers = {
            "round-robin": RoundRobinPolicy,
            "least-work": LeastWorkPolicy,
            "prefix-affine": PrefixAffinePolicy,
            "disaggregated": DisaggPolicy,
        }
        return SimulatedExecutor(
            self.specs,
            routers[self.router](),
            transfer_s=lambda source, target, tokens: 2.0**-14 * tokens,
            check_books=True,
            **self.options,
            **more,
        )


def _clock(rng: np.random.Generator, dyadic: bool, stages: int) -> LinearClock:
    if dyadic:
        return LinearClock(
            step_base_s=2.0**-6,
            token_s=2.0**-13,
            decode_s=2.0**-16,
            context_s=float(rng.choice([0.0, 2.0**-20])),
            swap_token_s=2.0**-18,
            num_stages=stages,
        )
    return LinearClock(
        step_base_s=float(rng.uniform(0.001, 0.03)),
        token_s=float(rng.uniform(1e-5, 2e-4)),
        square_s=float(rng.choice([0.0, 1e-8])),
        decode_s=float(rng.uniform(0, 1e-4)),
        context_s=float(rng.choice([0.0, 1e-7, 1e-6])),
        swap_token_s=1e-6,
        num_stages=stages,
    )


def _policy(rng: np.random.Generator, max_num_seqs: int) -> Any:
    budget = int(rng.choice([max_num_seqs, max_num_seqs + 7, 256, 1024, 8192]))
    budget = max(budget, max_num_seqs)
    how = str(rng.choice(["recompute", "swap"]))
    return [
        ChunkedPrefillPolicy(
            token_budget=budget, preempt=how, max_partial_prefills=int(rng.integers(1, 4))
        ),
        PrefillFirstPolicy(max_batched_tokens=budget, preempt=how),
        OrcaPolicy(),
        SplitFusePolicy(token_budget=budget),
    ][rng.integers(4)]


def _prefixes(
    rng: np.random.Generator, prompts: np.ndarray, unit: int, sessions: np.ndarray
) -> dict[str, Any]:
    """Keys of a few shared trees; turns of a session extend each other."""
    keys: list[int] = []
    start = [0]
    trunk = rng.integers(0, 4, len(prompts))
    shared = rng.integers(0, 1 + prompts // unit)
    for row, prompt in enumerate(prompts):
        root = int(trunk[row]) if sessions[row] < 0 else 100 + int(sessions[row])
        split = int(shared[row]) if sessions[row] < 0 else 10**6
        for depth in range(-(-int(prompt) // unit)):
            tail = 0 if depth < split else 1 + row
            keys.append(root * 10**9 + tail * 10**4 + depth)
        start.append(len(keys))
    return {
        "prefix_keys": np.array(keys, dtype=np.int64),
        "prefix_start": np.array(start, dtype=np.int64),
        "prefix_block_tokens": unit,
    }


def _workload(
    rng: np.random.Generator, n: int, most_tokens: int, block: int, dyadic: bool
) -> Workload:
    rate = float(rng.choice([1, 5, 20, 100]))
    gaps = rng.exponential(1 / rate, n)
    if rng.random() < 0.3:
        gaps[rng.random(n) < 0.5] = 0.0
    arrivals = np.cumsum(gaps)
    if dyadic:
        arrivals = np.round(arrivals * 64) / 64
    longest = int(rng.integers(2, most_tokens))
    share = float(rng.uniform(0.1, 0.9))
    prompts = rng.integers(1, max(2, int(longest * share)) + 1, n)
    outputs = rng.integers(1, max(2, int(longest * (1 - share))) + 1, n)
    if rng.random() < 0.3:
        outputs[rng.random(n) < 0.5] = 1
    sessions = np.full(n, -1)
    columns: dict[str, Any] = {}
    if rng.random() < 0.4:
        sessions = rng.integers(-1, max(2, n // 4), n)
        columns["session_id"] = sessions
        columns["sessions_wait"] = bool(rng.random() < 0.5)
        columns["think_s"] = np.round(rng.exponential(0.5, n) * 64) / 64
    if rng.random() < 0.6:
        unit = block * int(rng.choice([1, 2, 4]))
        columns |= _prefixes(rng, prompts, unit, sessions)
    if rng.random() < 0.5:
        columns["max_tokens"] = np.full(n, int(outputs.max()))
    if rng.random() < 0.2:
        columns["priority"] = rng.integers(0, 3, n)
    if rng.random() < 0.5:
        patience = rng.exponential(2.0, n)
        if dyadic:
            patience = np.round(patience * 64) / 64
        columns["cancel_after_s"] = np.where(rng.random(n) < 0.3, patience, np.inf)
    if rng.random() < 0.2:
        columns["num_in_flight"] = int(rng.integers(1, 2 * n))
    return Workload(
        name="odd", arrival_s=arrivals, prompt_tokens=prompts, output_tokens=outputs, **columns
    )


def setting(seed: int, *, router: str = "", most_stages: int = 4) -> Setting:
    """The setting of a seed; ``router`` fixes that part."""
    rng = np.random.default_rng(seed)
    router = router or str(
        rng.choice(["round-robin", "least-work", "prefix-affine", "disaggregated"])
    )
    dyadic = bool(rng.random() < 0.5)
    block = int(rng.choice([1, 7, 16, 512]))
    per_request = int(rng.choice([0, 0, 1, 3]))
    n = int(rng.integers(2, 50))
    workload = _workload(rng, n, int(rng.choice([30, 300, 3000])), block, dyadic)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    fewest = -(-(longest + 2) // block) + per_request
    num_blocks = int(fewest * rng.uniform(1.0, 6.0)) + 1
    replicas = int(rng.integers(1, 4))
    roles = ["both"] * replicas
    if router == "disaggregated":
        roles = ["prefill"] * int(rng.integers(1, 3)) + ["decode"] * int(rng.integers(1, 3))
        if rng.random() < 0.2:
            roles.append("both")
    stages = int(rng.integers(2, most_stages + 1)) if rng.random() < 0.3 else 1
    max_num_seqs = int(rng.choice([1, 2, 5, 64]))
    specs = [
        InstanceSpec(
            role=role,
            clock=_clock(rng, dyadic, stages),
            policy=_policy(rng, max_num_seqs),
            num_blocks=num_blocks,
            block_tokens=block,
            blocks_per_request=per_request,
            host_blocks=int(num_blocks * rng.choice([0, 0.3, 1])),
            max_num_seqs=max_num_seqs * stages,
            prefix_caching=bool(rng.random() < 0.9),
        )
        for role in roles
    ]
    options: dict[str, Any] = {"seed": seed}
    if rng.random() < 0.3:
        faults = []
        for i in range(len(specs)):
            if rng.random() < 0.6:
                down = float(rng.uniform(0.0, 3.0))
                down = round(down * 64) / 64 if dyadic else down
                faults.append(Fault(instance=i, down_at_s=down, up_at_s=down + 0.5))
        options["faults"] = faults
    if rng.random() < 0.2 and router == "disaggregated":
        options["refusal_rate"] = 0.2
    return Setting(specs=specs, router=router, workload=workload, options=options)
