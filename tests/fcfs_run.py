"""A small first-come-first-served engine that writes run records, for tests of what reads them.

Each lane (instance, slot) runs one prompt at a time together with the decodes, whole, and
otherwise decodes until somebody ends or arrives. It also returns the true delivery times.
"""

from dataclasses import dataclass, field

import numpy as np

from plimsoll.spec.record import RequestColumns, RunRecord, StepColumns


@dataclass(kw_only=True)
class _Rows:
    steps: list[tuple[float, ...]] = field(default_factory=list)
    gaps: dict[float, int] = field(default_factory=dict)


def fcfs_run(
    arrival_s,
    prompt_tokens,
    output_tokens,
    *,
    num_instances=1,
    num_slots=1,
    max_num_seqs=64,
    base_s=0.01,
    token_s=1e-5,
    context_s=1e-7,
    class_index=None,
    blocks=10_000,
    meta=None,
):
    """(record, list of delivery times of each request)."""
    n = len(arrival_s)
    lanes = num_instances * num_slots
    first, scheduled, finished = (np.full(n, np.nan) for _ in range(3))
    truth = [[] for _ in range(n)]
    rows = _Rows()
    for lane in range(lanes):
        mine = [i for i in range(n) if i % lanes == lane]
        _run_lane(lane, mine, locals())
    steps = np.array(rows.steps).reshape(-1, 14)
    steps = steps[np.argsort(steps[:, 2], kind="stable")]
    floats = {"start_s", "step_s", "growth_s", "stall_s"}
    names = list(StepColumns.__dataclass_fields__)
    columns = {
        name: steps[:, k] if name in floats else steps[:, k].astype(np.int64)
        for k, name in enumerate(names)
    }
    instance = (np.arange(n) % lanes) // num_slots
    gaps = np.array(sorted(rows.gaps))
    record = RunRecord(
        requests=RequestColumns(
            arrival_s=np.asarray(arrival_s, float),
            scheduled_s=scheduled,
            first_token_s=first,
            finished_s=finished,
            prompt_tokens=np.asarray(prompt_tokens, np.int64),
            output_tokens=np.asarray(output_tokens, np.int64),
            cached_tokens=np.zeros(n, np.int64),
            preemptions=np.zeros(n, np.int64),
            instance=instance,
            prefill_instance=instance,
            status=np.zeros(n, np.int64),
            class_index=np.zeros(n, np.int64) if class_index is None else np.asarray(class_index),
            session_id=np.arange(n),
        ),
        steps=StepColumns(**columns),
        gap_s=gaps,
        gap_count=np.array([rows.gaps[g] for g in gaps], np.int64),
        park_request=np.zeros(0, np.int64),
        park_start_s=np.zeros(0),
        park_end_s=np.zeros(0),
        meta={
            "num_devices": num_instances,
            "total_blocks": [blocks] * num_instances,
            "origin": "modeled",
            **(meta or {}),
        },
    )
    return record, [np.array(t) for t in truth]


def _run_lane(lane, mine, run):
    """One lane's whole life; fills the shared columns of ``fcfs_run``."""
    arrival_s, prompt, output = run["arrival_s"], run["prompt_tokens"], run["output_tokens"]
    instance, slot = divmod(lane, run["num_slots"])
    truth, rows = run["truth"], run["rows"]
    now, queue, active = 0.0, list(mine), {}

    def deliver(i, at_s, count_gap):
        if truth[i] and count_gap:
            gap = at_s - truth[i][-1]
            rows.gaps[gap] = rows.gaps.get(gap, 0) + 1
        truth[i].append(at_s)
        if len(truth[i]) == output[i]:
            run["finished"][i] = at_s
            active.pop(i, None)

    while queue or active:
        if not active and arrival_s[queue[0]] > now:
            now = float(arrival_s[queue[0]])
        waiting = sum(1 for i in queue if arrival_s[i] <= now)
        context = sum(prompt[i] + len(truth[i]) for i in active)
        decodes = list(active)
        new = queue.pop(0) if waiting and len(active) < run["max_num_seqs"] else None
        step_s = run["base_s"] + run["context_s"] * context
        growth_s, num_steps = 0.0, 1
        if new is not None:
            run["scheduled"][new] = now
            step_s += run["token_s"] * prompt[new]
        else:
            growth_s = run["context_s"] * len(decodes)
            num_steps = min(output[i] - len(truth[i]) for i in decodes)
            if queue and len(active) < run["max_num_seqs"]:
                left = max(arrival_s[queue[0]] - now, 0.0)
                num_steps = max(1, min(num_steps, int(np.ceil(left / step_s))))
        start = now
        for j in range(num_steps):
            now = start + (j + 1) * step_s + growth_s * j * (j + 1) / 2
            for i in decodes:
                deliver(i, now, j == 0)
        if new is not None:
            active[new] = True
            run["first"][new] = now
            deliver(new, now, False)
        used = sum((prompt[i] + len(truth[i])) // 16 + 1 for i in active)
        rows.steps.append(
            (instance, slot, start, num_steps, step_s, growth_s, 0.0, len(decodes), context,
             prompt[new] if new is not None else 0, int(new is not None), 0, used, waiting)
        )  # fmt: skip


def poisson_run(num=200, rate_per_s=4.0, seed=0, **options):
    """A run under Poisson arrivals with uniform lengths."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, num))
    prompt = rng.integers(50, 1500, num)
    output = rng.integers(1, 200, num)
    return fcfs_run(arrival_s, prompt, output, **options)
