"""What the closed forms need to know of a workload: lengths as a few weighted groups, and bursts.

Requests are grouped by prompt tokens to compute, at quantiles finer towards the long end because
percentiles of latency come from there; within a group they are split by output length into
cells. Group and cell means are exact, so totals are. Arrivals are split into two time scales.
*Surges* are slow: the prompt tokens that arrive in windows of half a minute, with the part that
chance explains taken out, as factors on their mean. *Dispersion* is fast: variance over mean of
counts in two-second windows beyond what slow changes of the rate explain, which sets queueing;
1 is Poisson. Prefix reuse is what an unlimited cache shared by all replicas would reuse.
Leaves out: surges of output lengths apart from prompts, limits of the cache.
Source: doi:10.1214/aoms/1177703584 (heavy-traffic waits depend on the counts' variance).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.spec.workload import Workload

__all__ = ["Traffic", "cached_prompt_tokens", "describe_traffic"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_PROMPT_CUTS = (0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)
_CELL_CUTS = (0.1, 0.25, 0.5, 0.75, 0.95)
_OUTPUT_CUTS = (0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9)
_SURGE_CUTS = (0.3, 0.7, 0.9, 0.98)
_SURGE_WINDOW_S = 30.0
_BURST_WINDOW_S = 2.0
_MIN_WINDOWS = 20
_LEAST_DISPERSION = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """Groups and cells of requests; weights sum to 1, lengths are means in tokens.

    Prompt groups: ``prompt_weight``, ``new_tokens`` to compute, ``cached_tokens`` reused.
    Output groups: ``output_weight``, ``output_tokens``. Cells: ``cell_weight``, ``cell_group``
    (index of the prompt group), ``cell_output_tokens``. ``rate_per_s`` 0 with
    ``num_in_flight`` > 0: closed loop. ``dispersion`` is 1 for Poisson arrivals. Surges:
    ``surge_weight`` of the requests arrive while the load is ``surge_factor`` times the mean.
    """

    prompt_weight: Floats
    new_tokens: Floats
    cached_tokens: Floats
    output_weight: Floats
    output_tokens: Floats
    cell_weight: Floats
    cell_group: Ints
    cell_output_tokens: Floats
    rate_per_s: float
    num_in_flight: int
    dispersion: float
    surge_weight: Floats
    surge_factor: Floats

    @property
    def mean_new_tokens(self) -> float:
        """Prompt tokens to compute a request."""
        return float(self.prompt_weight @ self.new_tokens)

    @property
    def mean_prompt_tokens(self) -> float:
        """Prompt tokens a request, reused ones included."""
        return float(self.prompt_weight @ (self.new_tokens + self.cached_tokens))

    @property
    def mean_output_tokens(self) -> float:
        """Output tokens a request."""
        return float(self.output_weight @ self.output_tokens)

    @property
    def output_variation(self) -> float:
        """Squared coefficient of variation of output lengths."""
        mean = self.mean_output_tokens
        return max(0.0, float(self.output_weight @ self.output_tokens**2) / mean**2 - 1)

    @property
    def decode_context_tokens(self) -> float:
        """Context of a decoding request, averaged over decode steps."""
        steps = np.maximum(self.cell_output_tokens - 1, 0)
        total = float(self.cell_weight @ steps)
        if total == 0:
            return self.mean_prompt_tokens
        prompt = (self.new_tokens + self.cached_tokens)[self.cell_group]
        return float(self.cell_weight @ (steps * (prompt + 1 + steps / 2))) / total


def cached_prompt_tokens(workload: Workload) -> Ints:
    """Leading prompt tokens of each request that an unlimited prefix cache would hold."""
    cached = np.zeros(len(workload), dtype=np.int64)
    if len(workload.prefix_start) == 0 or workload.prefix_block_tokens == 0:
        return cached
    keys = workload.prefix_keys
    first = np.full(len(keys), False)
    first[np.unique(keys, return_index=True)[1]] = True
    starts, ends = workload.prefix_start[:-1], workload.prefix_start[1:]
    new_before = np.concatenate([[0], np.cumsum(first)])
    for row in np.flatnonzero(ends > starts):
        begin, end = int(starts[row]), int(ends[row])
        all_seen = new_before[end] == new_before[begin]
        hits = end - begin if all_seen else int(np.argmax(first[begin:end]))
        cached[row] = hits * workload.prefix_block_tokens
    return np.minimum(cached, workload.prompt_tokens - 1)


def _in_windows(workload: Workload, window_s: float, weights: Floats | None = None) -> Floats:
    times = workload.arrival_s - workload.arrival_s[0]
    whole = int(times[-1] / window_s)
    bins = window_s * np.arange(whole + 1)
    return np.asarray(np.histogram(times, bins=bins, weights=weights)[0], dtype=np.float64)


def _surges(workload: Workload, new_tokens: Floats) -> tuple[Floats, Floats, float]:
    """(share of requests, load over the mean load, variance of the rate), slowly varying."""
    steady = np.ones(1), np.ones(1), 0.0
    if workload.num_in_flight or workload.duration_s < _MIN_WINDOWS * _SURGE_WINDOW_S:
        return steady
    counts = _in_windows(workload, _SURGE_WINDOW_S)
    tokens = _in_windows(workload, _SURGE_WINDOW_S, new_tokens)
    mean = float(counts.mean())
    rate_variance = max(0.0, float(counts.var()) / mean**2 - 1 / mean)
    load = tokens / tokens.mean()
    chance = float((new_tokens**2).mean() / new_tokens.mean() ** 2) / mean
    variance = float(load.var())
    if variance <= chance:
        return (*steady[:2], rate_variance)
    order = np.argsort(load, kind="stable")
    factor = np.maximum(1 + (load[order] - 1) * np.sqrt(1 - chance / variance), 0.01)
    weight = counts[order] / counts.sum()
    group = np.searchsorted(np.array(_SURGE_CUTS), np.cumsum(weight) - weight / 2)
    total = np.bincount(group, weight)
    level = np.bincount(group, weight * factor) / np.maximum(total, 1e-12)
    keep = total > 0
    share = np.asarray(total[keep], dtype=np.float64)
    return share, np.asarray(level[keep], dtype=np.float64), rate_variance


def _dispersion(workload: Workload, surge_variance: float) -> float:
    if workload.num_in_flight or len(workload) < 3 or workload.duration_s <= 0:
        return 1.0
    if workload.duration_s < _MIN_WINDOWS * _BURST_WINDOW_S:
        gaps = np.diff(workload.arrival_s)
        return max(float(gaps.var() / gaps.mean() ** 2), _LEAST_DISPERSION)
    counts = _in_windows(workload, _BURST_WINDOW_S)
    mean = float(counts.mean())
    return max(float(counts.var()) / mean - surge_variance * mean, _LEAST_DISPERSION)


def _groups(order: Ints, cuts: tuple[float, ...]) -> list[Ints]:
    n = len(order)
    edges = sorted({0, n, *(round(n * cut) for cut in cuts)})
    return [order[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def describe_traffic(workload: Workload, *, prefix_caching: bool = True) -> Traffic:
    """The groups, cells and burstiness of a workload."""
    n = len(workload)
    output = workload.output_tokens.astype(np.float64)
    cached = np.zeros(n)
    if prefix_caching:
        cached = cached_prompt_tokens(workload).astype(np.float64)
    new = workload.prompt_tokens - cached
    prompts, cells = [], []
    for index, who in enumerate(_groups(np.argsort(new, kind="stable"), _PROMPT_CUTS)):
        prompts.append((len(who) / n, new[who].mean(), cached[who].mean()))
        for part in _groups(who[np.argsort(output[who], kind="stable")], _CELL_CUTS):
            cells.append((len(part) / n, index, output[part].mean()))
    outputs = [
        (len(who) / n, output[who].mean())
        for who in _groups(np.argsort(output, kind="stable"), _OUTPUT_CUTS)
    ]
    by_prompt, by_output, by_cell = np.array(prompts), np.array(outputs), np.array(cells)
    surge_weight, surge_factor, variance = _surges(workload, new)
    return Traffic(
        prompt_weight=by_prompt[:, 0],
        new_tokens=np.maximum(by_prompt[:, 1], 1.0),
        cached_tokens=by_prompt[:, 2],
        output_weight=by_output[:, 0],
        output_tokens=by_output[:, 1],
        cell_weight=by_cell[:, 0],
        cell_group=by_cell[:, 1].astype(np.int64),
        cell_output_tokens=by_cell[:, 2],
        rate_per_s=workload.rate_per_s,
        num_in_flight=workload.num_in_flight,
        dispersion=_dispersion(workload, variance),
        surge_weight=surge_weight,
        surge_factor=surge_factor,
    )
