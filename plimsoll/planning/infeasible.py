"""When nothing fits: which limit binds, how near the nearest candidate is, what would change it.

The question is asked again in the closed forms with one thing relaxed at a time: without the
load, with looser bounds, with more nodes, with smaller weights, with less memory for long
requests. The first relaxation that leaves a plan is the smallest change of its kind; memory is
exact and stated in bytes. Leaves out: changes of two things at once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from plimsoll.planning.bounds import alone_s
from plimsoll.planning.combine import Estimate
from plimsoll.planning.engine_limits import format_limit, stored_format
from plimsoll.planning.estimate import Demand, ShapeRecord
from plimsoll.planning.question import Question
from plimsoll.planning.ranking import Ranking
from plimsoll.planning.tradeoffs import plan_words
from plimsoll.planning.trials import Trial
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, UnsupportedError
from plimsoll.spec.hardware import Fleet, FleetPart, Node
from plimsoll.spec.parameters import with_weight_dtype
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.units import format_bytes, format_seconds

__all__ = ["explain_ranking", "explain_trials"]

RankAgain = Callable[[Question], Ranking]
_LOOSER = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_MORE = (2, 3, 4, 6, 8, 16)
_SMALLER = (DType.FP8, DType.INT8, DType.INT4)


def _looser(slo: Slo, factor: float) -> Slo:
    targets = tuple(
        SloTarget(
            metric=t.metric,
            percentile=t.percentile,
            bound_s=t.bound_s * factor,
            request_class=t.request_class,
        )
        for t in slo.targets
    )
    return Slo(targets=targets)


def _more_fleet(fleet: Fleet, factor: int) -> Fleet:
    """``factor`` times the devices: a node that is alone is filled before others are added."""
    parts = []
    for part in fleet.parts:
        device, size = part.device, part.node.num_devices
        total = part.num_devices * factor
        if part.num_nodes == 1 and size < device.devices_per_node:
            whole = [n for n in range(size, device.devices_per_node + 1) if total % n == 0]
            size = whole[-1]
        node = Node(device=device, num_devices=size)
        parts.append(FleetPart(node=node, num_nodes=total // size))
    text = "+".join(f"{p.num_nodes}x({p.node.num_devices}x{p.device.name})" for p in parts)
    return Fleet(parts=tuple(parts), text=text)


def _by_more_devices(question: Question, again: RankAgain) -> str:
    options = replace(question.options, max_devices=0, power_w=0.0, usd_per_hour=0.0)
    free = replace(question, options=options)
    if options != question.options and again(free).estimates:
        return "without the limit on devices, power or money, the fleet in hand would do"
    for factor in _MORE:
        asked = replace(free, fleet=_more_fleet(question.fleet, factor))
        found = again(asked).estimates
        if found:
            return _more_words(question, min(found, key=lambda e: e.candidate.num_devices))
    return ""


def _more_words(question: Question, least: Estimate) -> str:
    """The devices of the least plan that does, against those in hand."""
    in_hand = question.fleet.num_devices
    kinds: Counter[str] = Counter()
    for pool in least.candidate.pools:
        kinds[pool.device] += pool.num_devices
    if len({part.device.name for part in question.fleet.parts}) == 1:
        return f"{max(kinds.total(), in_hand + 1)} devices instead of {in_hand}"
    words = " and ".join(f"{count} x {name}" for name, count in kinds.items())
    return f"{words}, more than there are in {question.fleet.text or 'the fleet'}"


def _by_weights(question: Question, again: RankAgain) -> str:
    """Smaller weights: made while loading where the engine can, else a checkpoint in them."""
    model, engine = question.model, question.options.engine
    smallest = min(
        (dtype or stored_format(model) for dtype in question.options.weight_dtypes),
        key=lambda dtype: dtype.bits,
    )
    for dtype in _SMALLER:
        if dtype.bits >= smallest.bits:
            continue
        if not format_limit(engine, model, dtype, None):
            options = replace(question.options, weight_dtypes=(dtype,))
            asked, words = replace(question, options=options), f"--set weights={dtype.value}"
        else:
            options = replace(question.options, weight_dtypes=(None,))
            stored = with_weight_dtype(model, dtype)
            asked = replace(question, options=options, model=stored)
            words = "a checkpoint stored in it"
        try:
            found = again(asked).estimates
        except UnsupportedError:  # the devices do not multiply it
            continue
        if found:
            return f"{dtype.value} weights ({words})"
    return ""


def _by_slo(question: Question, again: RankAgain) -> str:
    for factor in _LOOSER if question.slo.targets else ():
        if again(replace(question, slo=_looser(question.slo, factor))).estimates:
            bounds = ", ".join(
                f"{t.metric.upper()} p{t.percentile:g} {format_seconds(t.bound_s * factor)}"
                for t in question.slo.targets
            )
            return f"bounds {factor:g} times looser ({bounds})"
    return ""


def _by_length(question: Question, ranking: Ranking, longest: int) -> str:
    fits = [r.room.longest_tokens for r in ranking.records if r.room is not None]
    most = max(fits, default=0)
    if 0 < most < longest:
        return f"requests of at most {most:,} tokens instead of {longest:,}"
    return ""


def _nearest_in_memory(records: Sequence[ShapeRecord]) -> ShapeRecord | None:
    known = [r for r in records if r.room is not None and r.room.available_bytes > 0]
    return min(
        known,
        key=lambda r: r.room.needed_bytes / r.room.available_bytes if r.room else float("inf"),
        default=None,
    )


def _shape_words(record: ShapeRecord) -> str:
    cut = record.shape.parallel
    degrees = [f"tp{cut.tp}"] + [f"pp{cut.pp}"] * (cut.pp > 1)
    degrees += [f"dp{cut.attention_dp}"] * (cut.attention_dp > 1)
    return f"{'-'.join(degrees)} on {cut.num_devices} x {record.shape.device}"


def _fleet_words(question: Question) -> str:
    """The fleet, with the limits that leave a part of it unused."""
    options = question.options
    limits = [f"{options.max_devices} devices"] if options.max_devices else []
    limits += [f"{options.power_w:g} W"] if options.power_w else []
    limits += [f"{options.usd_per_hour:g} USD/h"] if options.usd_per_hour else []
    fleet = question.fleet.text or "the fleet"
    return f"{fleet} within {' and '.join(limits)}" if limits else fleet


def _memory_error(
    question: Question, ranking: Ranking, demand: Demand, again: RankAgain
) -> InfeasibleError:
    nearest = _nearest_in_memory(ranking.records)
    if nearest is None or nearest.room is None:
        reasons = "; ".join(ranking.skipped)
        if not reasons:
            return _no_device_error(question, again)
        return InfeasibleError(
            f"{question.model.name} cannot be cut to fit {_fleet_words(question)}: {reasons}",
            binding="parallel shapes",
            change=_by_more_devices(question, again),
        )
    room = nearest.room
    over = room.needed_bytes - room.available_bytes
    if over > 0:
        what = (
            f"{question.model.name} does not fit on {_fleet_words(question)}: the "
            f"nearest cut, {_shape_words(nearest)}, needs {format_bytes(room.needed_bytes)} a "
            f"device ({format_bytes(room.weights_bytes)} of weights) and may use "
            f"{format_bytes(room.available_bytes)}: {format_bytes(over)} too much"
        )
    else:
        what = (
            f"{question.model.name} fits on {_fleet_words(question)}, but no cut "
            f"leaves KV memory for the longest request of {demand.longest_tokens:,} tokens"
        )
    changes = [
        _by_length(question, ranking, demand.longest_tokens) if over <= 0 else "",
        _by_weights(question, again),
        _by_more_devices(question, again),
    ]
    return InfeasibleError(
        what,
        binding="device memory",
        nearest=f"{_shape_words(nearest)}: {format_bytes(room.needed_bytes)} of "
        f"{format_bytes(room.available_bytes)} a device",
        change=", or ".join(c for c in changes if c),
    )


def _no_device_error(question: Question, again: RankAgain) -> InfeasibleError:
    """A limit on devices, power or money below one device."""
    options = question.options
    devices = {part.device.name: part.device for part in question.fleet.parts}.values()
    watts = min(device.power.peak_w for device in devices)
    prices = [d.price.usd_per_hour for d in devices if d.price is not None]
    binding, change = "devices", ""
    if options.power_w and options.power_w < watts:
        binding, change = "power", f"{watts:g} W, the peak of one device"
    elif options.usd_per_hour and options.usd_per_hour < min(prices, default=0.0):
        binding, change = "money", f"{min(prices):g} USD/h, the price of one device"
    wider = _by_more_devices(question, again)
    return InfeasibleError(
        f"the limit on {binding} allows no device of {question.fleet.text or 'the fleet'}",
        binding=binding,
        change=", or ".join(c for c in (f"at least {change}" if change else "", wider) if c),
    )


def explain_ranking(
    question: Question, ranking: Ranking, demand: Demand, again: RankAgain
) -> InfeasibleError:
    """Why the closed forms left no plan; ``again`` ranks a changed question."""
    memory = [r for r in ranking.records if any("fit" in p or "KV" in p for p in _problems(r))]
    if not ranking.records or len(memory) == len(ranking.records):
        return _memory_error(question, ranking, demand, again)
    unloaded = again(replace(question, must_carry=False)).estimates if demand.load_per_s else ()
    nearest, needs = _nearest_in_latency(ranking.records, demand)
    looser = _by_broken_bounds(question, needs, again) or _by_slo(question, again)
    changes = [looser, _by_weights(question, again)]
    changes.append(_by_more_devices(question, again))
    change = ", or ".join(c for c in changes if c)
    if unloaded:
        most = max(unloaded, key=lambda e: e.rate_per_s)
        words = plan_words(most.candidate.plan("", "", question.options, question.slo))
        return InfeasibleError(
            f"no plan on {question.fleet.text or 'the fleet'} carries "
            f"{demand.load_per_s:.3g} requests/s within the SLO; the most is about "
            f"{most.rate_per_s:.3g} requests/s, with {words}, limited by {most.limit}",
            binding=most.limit,
            nearest=f"{words}: {most.rate_per_s:.3g} of {demand.load_per_s:.3g} requests/s",
            change=change,
        )
    reason = max(ranking.pruned, key=lambda r: ranking.pruned[r], default="the SLO")
    latency = [r for r in ranking.pruned if "bound" in r and "memory" not in r]
    binding = max(latency, key=lambda r: ranking.pruned[r]) if latency else reason
    return InfeasibleError(
        f"no plan on {question.fleet.text or 'the fleet'} keeps the SLO at any rate: {binding}",
        binding=binding,
        nearest=nearest,
        change=change,
    )


def _problems(record: ShapeRecord) -> list[str]:
    return [p for p in record.problem.values() if p]


def _nearest_in_latency(
    records: Sequence[ShapeRecord], demand: Demand
) -> tuple[str, dict[SloTarget, float]]:
    """(the cut that one request alone suits best, the bounds it breaks with what they need)."""
    if not demand.slo.targets:
        return "", {}
    known = []
    for index, record in enumerate(records):
        if record.table is not None:
            taken = {t: alone_s(record.table, demand.traffic, t) for t in demand.slo.targets}
            worst = max(taken, key=lambda t: taken[t] / t.bound_s)
            known.append((taken[worst] / worst.bound_s, index, worst, taken))
    if not known:
        return "", {}
    _, index, worst, taken = min(known, key=lambda row: row[:2])
    what = "to the first token of a prompt" if worst.metric == "ttft" else "a token for one request"
    words = (
        f"{_shape_words(records[index])}: {format_seconds(taken[worst])} {what} alone, against "
        f"{worst.metric.upper()} p{worst.percentile:g} {format_seconds(worst.bound_s)}"
    )
    return words, {t: needed for t, needed in taken.items() if needed > t.bound_s}


def _by_broken_bounds(question: Question, needs: dict[SloTarget, float], again: RankAgain) -> str:
    """Only the bounds that one request alone breaks, loosened to what it needs and a little."""
    for factor in _LOOSER if needs else ():
        targets = tuple(
            replace(t, bound_s=needs[t] * factor) if t in needs else t for t in question.slo.targets
        )
        if again(replace(question, slo=Slo(targets=targets))).estimates:
            return " and ".join(
                f"a {t.metric.upper()} p{t.percentile:g} bound of "
                f"{format_seconds(needed * factor)} instead of {format_seconds(t.bound_s)}"
                for t, needed in needs.items()
            )
    return ""


def explain_trials(
    question: Question, trials: Sequence[Trial], demand: Demand, again: RankAgain
) -> InfeasibleError:
    """Why no simulated plan kept the promise."""
    ran = [(t, t.run) for t in trials if t.run is not None]
    changes = [_by_weights(question, again) if demand.load_per_s else ""]
    if ran:
        trial, run = min(ran, key=lambda pair: (pair[1].shortfall, pair[0].index))
        nearest = f"{plan_words(trial.plan)}: {run.missed} {run.shortfall:.3g} times its bound"
        binding = run.missed
        if run.shortfall < float("inf"):
            changes.insert(0, f"a {run.missed} bound {run.shortfall:.2f} times looser")
    else:
        trial = max(trials, key=lambda t: (t.rate_per_s, -t.index))
        limit = trial.found.limit if trial.found is not None else trial.estimate.limit
        nearest = f"{plan_words(trial.plan)}: {trial.rate_per_s:.3g} requests/s"
        binding = limit
    if demand.load_per_s:
        best = max(trials, key=lambda t: (t.rate_per_s / t.plan.num_devices, -t.index))
        if best.rate_per_s > 0:
            each = best.rate_per_s / best.plan.num_devices
            need = int(np.ceil(demand.load_per_s / each / best.plan.num_devices))
            devices = max(need, 2) * best.plan.num_devices
            changes.append(f"about {devices} devices, as {plan_words(best.plan)} more often")
    load = f" at {demand.load_per_s:.3g} requests/s" if demand.load_per_s else ""
    return InfeasibleError(
        f"no plan on {question.fleet.text or 'the fleet'} kept the SLO{load} when simulated; "
        f"nearest was {nearest}",
        binding=binding,
        nearest=nearest,
        change=", or ".join(c for c in changes if c),
    )
