"""The BatchLLM evaluation on the simulated clock: device, batch, policies, what is read off a run.

LLaMA-2-7B on one A100-80GB under the cost model's clock, the same for all policies. A batch of
groups that share a prefix, all there at the start and shuffled. Baseline: chunked prefill, first
come, first served, with an LRU prefix cache and vLLM's default of 256 requests at once; "dfs" is
the same with the batch sorted so that a group's prompts are neighbors.
Source: arXiv 2412.03594, section 7; the sizes of the batch are ours.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.group_plan import GroupPlan, Order, PrefixGroup, order_groups
from plimsoll.serving.policies import ChunkedPrefillPolicy, GroupPolicy
from plimsoll.serving.policy import InstView, Phase, Pin, Step, StepPolicy, Unpin, View
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.serving.simulate.run import build
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.generators import stream
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ChunkedPrefill, Pool, ServingPlan
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["Case", "Served", "serve", "token_variation"]

_BLOCK = 16
_CAP = 256
_UNBOUNDED = 1 << 20
_MAX_TOKENS = 4096
_PLAN = ServingPlan(
    model="llama-2-7b",
    fleet="1xA100-SXM-80",
    pools=(Pool(device="A100-SXM-80", policy=ChunkedPrefill(token_budget=2048)),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: ``groups`` times ``members`` prompts of prefix and suffix; normal outputs.

    ``ratios``: mean output over computed prompt tokens of the groups, in turn, instead of
    ``output``; ``sizes``: what the prefixes are multiplied with, in turn. ``hint``: the policy
    knows the mean of all outputs, or of each group, times ``hint_scale``. ``share`` False: planned
    without groups, and no cache. ``cap`` bounds the requests that run.
    """

    policy: Literal["groups", "lru", "dfs"] = "groups"
    groups: int = 400
    members: int = 16
    prefix: int = 2000
    suffix: int = 200
    output: int = 100
    deviation: float = 0.5
    ratios: tuple[float, ...] = ()
    sizes: tuple[float, ...] = (1.0,)
    hint: Literal["batch", "group"] = "batch"
    hint_scale: float = 1.0
    order: Order = "descending"
    share: bool = True
    attention: bool = True
    """Whether attention reads a shared prefix once for all; the baselines' never does."""
    cap: int = _UNBOUNDED
    budget: int = 2048
    kv_fraction: float = 0.95
    unpin: Literal["when-started", "never"] = "when-started"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A run. ``pinned_tokens`` are the most that pins held at any time, ``cached_tokens`` the most
    prefix tokens that the cache held for requests that still waited."""

    record: RunRecord
    plan: GroupPlan
    pinned_tokens: int
    cached_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the whole run."""
        return float(self.record.requests.output_tokens.sum()) / self.record.end_s

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that were computed."""
        return int(self.record.steps.prefill_tokens.sum())


class _Watched:
    """A policy, and the prefixes in the cache whenever it was asked the 16th time."""

    def __init__(self, policy: StepPolicy, groups: tuple[PrefixGroup, ...]) -> None:
        self._policy = policy
        self._left = [list(group.members) for group in groups]
        self._asked = 0
        self.cached_tokens = 0

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """As the policy says."""
        self._asked += 1
        if self._asked % 16 == 0:
            cached = 0
            for members in self._left:
                while members and not self._waits(view, members[-1]):
                    members.pop()
                if members:
                    cached += inst.pool.cached_tokens(view.request(members[-1]))
            self.cached_tokens = max(self.cached_tokens, cached)
        return self._policy.step(view, inst, slot)

    @staticmethod
    def _waits(view: View, request: int) -> bool:
        return view.has(request) and view.request(request).phase is Phase.WAITING


def _prefixes(case: Case) -> list[int]:
    whole = [round(case.prefix * size / _BLOCK) * _BLOCK for size in case.sizes]
    return [whole[group % len(whole)] for group in range(case.groups)]


def _outputs(case: Case, prefixes: list[int]) -> np.ndarray:
    """[groups, members] output tokens."""
    means = np.full(case.groups, float(case.output))
    if case.ratios:
        computed = np.array(prefixes) + case.members * case.suffix
        means = np.resize(case.ratios, case.groups) * computed / case.members
    drawn = stream(case.seed, "batchllm outputs").normal(
        means[:, None], case.deviation * means[:, None], (case.groups, case.members)
    )
    return np.maximum(np.rint(drawn), 1).astype(np.int64)


def _workload(case: Case) -> tuple[Workload, tuple[PrefixGroup, ...], list[float]]:
    """The batch, its groups by row, and the outputs to expect."""
    prefixes = _prefixes(case)
    outputs = _outputs(case, prefixes)
    num = case.groups * case.members
    slots = np.arange(num)
    if case.policy != "dfs":
        slots = stream(case.seed, "batchllm order").permutation(num)
    group_of = slots // case.members
    keys, starts = [], [0]
    for row, group in enumerate(group_of.tolist()):
        own = (prefixes[group] + case.suffix) // _BLOCK - prefixes[group] // _BLOCK
        keys.append(np.arange(prefixes[group] // _BLOCK) + (group << 20))
        keys.append(np.arange(own) + ((case.groups + row) << 20))
        starts.append(starts[-1] + len(keys[-1]) + len(keys[-2]))
    prompts = np.array(prefixes)[group_of] + case.suffix
    workload = Workload(
        name=f"{case.groups} groups of {case.members} prompts",
        arrival_s=np.zeros(num),
        prompt_tokens=prompts,
        output_tokens=outputs.ravel()[slots],
        max_tokens=np.full(num, _MAX_TOKENS),
        prefix_keys=np.concatenate(keys),
        prefix_start=np.array(starts),
        prefix_block_tokens=_BLOCK,
        source="arXiv 2412.03594 section 7",
    )
    rows = np.argsort(group_of, kind="stable").reshape(case.groups, case.members).tolist()
    groups = tuple(
        PrefixGroup(prefix_tokens=prefix, members=tuple(members))
        for prefix, members in zip(prefixes, rows, strict=True)
    )
    means = outputs.mean(axis=1)
    hint = means[group_of] if case.hint == "group" else np.full(num, outputs.mean())
    return workload, groups, (case.hint_scale * hint).tolist()


@functools.lru_cache(maxsize=1)
def _instance() -> InstanceSpec:
    specs, *_ = build(_PLAN, load_model(_PLAN.model), parse_fleet(_PLAN.fleet))
    return specs[0]


@functools.lru_cache(maxsize=64)
def serve(case: Case) -> Served:
    """The run of a case."""
    workload, groups, hint = _workload(case)
    instance = _instance()
    plan = order_groups(
        groups if case.share else (),
        workload.prompt_tokens.tolist(),
        hint,
        block_tokens=_BLOCK,
        kv_tokens=instance.num_blocks * _BLOCK,
        order=case.order,
    )
    policy: StepPolicy = ChunkedPrefillPolicy(token_budget=case.budget)
    if case.policy == "groups":
        policy = GroupPolicy(
            plan=plan,
            token_budget=case.budget,
            kv_fraction=case.kv_fraction,
            unpin=case.unpin,
            shared_attention=case.attention,
        )
    watched = _Watched(policy, groups)
    spec = replace(
        instance,
        policy=watched,
        max_num_seqs=case.cap if case.policy == "groups" else _CAP,
        prefix_caching=case.share,
    )
    executor = SimulatedExecutor(
        [spec], RoundRobinPolicy(), seed=case.seed, log_decisions=case.policy == "groups"
    )
    return Served(
        record=executor.run(workload),
        plan=plan,
        pinned_tokens=_most_pinned(executor.decisions),
        cached_tokens=watched.cached_tokens,
    )


def _most_pinned(decisions: list[tuple[float, int, int, object]]) -> int:
    held: dict[int, int] = {}
    most = 0
    for *_, step in decisions:
        if isinstance(step, Step) and step.actions:
            for action in step.actions:
                if isinstance(action, Pin):
                    held[action.request] = action.num_tokens
                elif isinstance(action, Unpin):
                    held.pop(action.request, None)
            most = max(most, sum(held.values()))
    return most


def token_variation(record: RunRecord) -> float:
    """Standard deviation of the tokens of a step over their mean."""
    steps = record.steps
    tokens = steps.prefill_tokens + steps.num_decodes
    mean = float(np.average(tokens, weights=steps.num_steps))
    return float(np.sqrt(np.average((tokens - mean) ** 2, weights=steps.num_steps))) / mean
