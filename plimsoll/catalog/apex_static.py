"""The rival of a simulator that follows every step: batches that nobody joins.

Static batching as closed-form estimators assume it: when a batch ends, all that wait form the
next one; its prompts run first, then decode steps until the longest answer ends. Same arrivals,
lengths and step times as the simulator, so that only the batching differs.
Source: the estimators that arXiv 2411.17651 compares itself with.
"""

from plimsoll.catalog.apex_replay import MAX_SEQS, Outcome
from plimsoll.catalog.apex_runs import PublishedRun
from plimsoll.cost.clock import StepClock

__all__ = ["static_batches"]


def static_batches(run: PublishedRun, clock: StepClock, *, early: bool) -> Outcome:
    """The run in static batches; ``early``: a request leaves at its own last token, and the
    batch shrinks. Else all leave together, as padded batches do."""
    arrival = run.workload.arrival_s.tolist()
    prompts, outputs = run.workload.prompt_tokens.tolist(), run.workload.output_tokens.tolist()
    now_s, served, first_total_s, decode_total_s, e2e_total_s = 0.0, 0, 0.0, 0.0, 0.0
    while served < len(arrival):
        now_s = max(now_s, arrival[served])
        batch = [served]
        while (
            batch[-1] + 1 < len(arrival)
            and arrival[batch[-1] + 1] <= now_s
            and len(batch) < MAX_SEQS
        ):
            batch.append(batch[-1] + 1)
        first_s = clock.step_s([(prompts[i], 0) for i in batch], 0, 0)
        lengths = sorted(outputs[i] for i in batch)
        context = sum(prompts[i] for i in batch)
        spent_s, made, ends = first_s, 1, []
        for position, length in enumerate(lengths):
            running = len(batch) - position if early else len(batch)
            steps = length - made
            if steps > 0:  # step times are close to a line in context: the middle step stands in
                middle = context + running * (steps + 1) // 2
                spent_s += steps * clock.step_s((), running, middle)
                context += running * steps
                made = length
            ends.append(spent_s)
            if early:
                context -= context // running
        if not early:
            ends = [spent_s] * len(batch)
        first_total_s += first_s * len(batch)
        decode_total_s += sum(ends) - first_s * len(batch)
        by_length = sorted(batch, key=lambda i: outputs[i])
        e2e_total_s += sum(now_s + end - arrival[i] for i, end in zip(by_length, ends, strict=True))
        now_s += spent_s
        served += len(batch)
    count = len(arrival)
    return Outcome(
        ttft_s=first_total_s / count,
        tpot_s=decode_total_s / sum(outputs),
        e2e_s=e2e_total_s / count,
    )
