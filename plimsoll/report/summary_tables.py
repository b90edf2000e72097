"""A ``Summary`` as the rows that every report shows: key numbers, percentiles, verdicts."""

from collections.abc import Mapping

from plimsoll.report.band_words import percentile_band_notes, verdict_band_note
from plimsoll.report.document import KeyNumber, Table
from plimsoll.report.wording import (
    METRIC_NAMES,
    bound_text,
    count_text,
    gpus_text,
    percent_text,
    rate_text,
    seconds_text,
)
from plimsoll.spec.origin import Band, Number
from plimsoll.spec.slo import SloTarget
from plimsoll.spec.summary import Distribution, Summary

__all__ = [
    "class_table",
    "instance_table",
    "key_numbers",
    "percentile_table",
    "saturation_note",
    "status_note",
    "target_name",
    "verdict_table",
]


def target_name(target: SloTarget) -> str:
    """A target as people say it: ``P99 TTFT <= 500 ms (chat)``."""
    percentile = f"{target.percentile:g}"
    name = f"P{percentile} {METRIC_NAMES[target.metric]} <= {bound_text(target.bound_s)}"
    return f"{name} ({target.request_class})" if target.request_class else name


def key_numbers(summary: Summary, *, error_fraction: float | None = None) -> tuple[KeyNumber, ...]:
    """The headline numbers of a run; undefined ones are left out."""
    origin = summary.origin
    rows: list[tuple[str, float | None, str, str]] = [
        (
            "Goodput",
            summary.goodput_requests_per_s,
            "req/s",
            f"{percent_text(summary.good_fraction)} of requests good",
        ),
        (
            "Goodput per GPU",
            summary.goodput_requests_per_s_per_device,
            "req/s",
            f"over {gpus_text(summary.num_devices)}",
        ),
        ("Finished", summary.requests_per_s, "req/s", status_note(summary)),
        ("Output", summary.output_tokens_per_s, "tokens/s", "output tokens only"),
        (
            "Output per GPU",
            summary.output_tokens_per_s_per_device,
            "tokens/s",
            f"over {gpus_text(summary.num_devices)}",
        ),
        ("Total", summary.total_tokens_per_s, "tokens/s", "prompt and output tokens"),
        ("Per user", summary.tokens_per_s_per_user, "tokens/s", "1 / mean TPOT"),
        ("Cost", summary.usd_per_million_output_tokens, "USD", "per million output tokens"),
        ("Energy", summary.energy_j_per_output_token, "J", "per output token"),
    ]
    if summary.instance_up_s is not None:
        span_s = summary.end_s - summary.start_s
        note = f"{summary.instance_up_s / span_s:.3g} instances on average, starts included"
        rows.append(("Instance-hours", summary.instance_up_s / 3600, "h", note))
    return tuple(
        KeyNumber(
            name=name,
            number=Number(value=value, unit=unit, origin=origin, error_fraction=error_fraction),
            note=note,
        )
        for name, value, unit, note in rows
        if value is not None
    )


def percentile_table(summary: Summary, bands: Mapping[str, Band] | None = None) -> Table:
    """Latencies by percentile; each row says how many samples it has.

    ``bands`` by metric are said below the table; None: the run has none.
    """
    rows: list[tuple[str, Distribution | None]] = [
        ("TTFT", summary.ttft_s),
        ("  of it queueing", summary.queue_s),
        ("TPOT", summary.tpot_s),
        ("ITL", summary.itl_s),
        ("End-to-end", summary.e2e_s),
    ]
    shown: list[tuple[str, ...]] = []
    for name, d in rows:
        if d is None:
            shown.append((name, "-", "-", "-", "-", "-", "0"))
            continue
        values = (d.mean, d.p50, d.p90, d.p95, d.p99)
        shown.append((name, *(seconds_text(v) for v in values), count_text(d.num_samples)))
    return Table(
        title="Latency",
        columns=("", "mean", "P50", "P90", "P95", "P99", "samples"),
        rows=tuple(shown),
        notes=(
            f"{summary.origin.value}; requests that arrived "
            f"from {summary.start_s:g} s to {summary.end_s:.4g} s",
            *percentile_band_notes(summary, bands or {}),
        ),
    )


def verdict_table(summary: Summary, bands: Mapping[str, Band] | None = None) -> Table:
    """The SLO, target by target; ``bands`` as in ``percentile_table``."""
    notes = [verdict_band_note(target_name(v.target), v, bands or {}) for v in summary.targets]
    if not summary.targets:
        notes = ["no target stated: every finished request is good"]
    return Table(
        title="SLO",
        columns=("target", "observed", "within", "requests", "verdict"),
        rows=tuple(
            (
                target_name(v.target),
                seconds_text(v.observed_s) if v.num_requests else "-",
                percent_text(v.within_fraction),
                count_text(v.num_requests),
                "met" if v.met else "MISSED",
            )
            for v in summary.targets
        ),
        notes=tuple(note for note in notes if note),
    )


def class_table(summary: Summary) -> Table:
    """Goodput and tail latencies of each class of request."""
    return Table(
        title="Classes",
        columns=("class", "requests", "good", "goodput", "P99 TTFT", "P99 TPOT"),
        rows=tuple(
            (
                c.request_class,
                count_text(c.num_requests),
                percent_text(c.good_fraction),
                rate_text(c.goodput_requests_per_s, "req/s"),
                seconds_text(c.ttft_s.p99 if c.ttft_s else None),
                seconds_text(c.tpot_s.p99 if c.tpot_s else None),
            )
            for c in summary.classes
        ),
    )


def instance_table(summary: Summary, *, most: int = 16) -> Table:
    """How each instance spent the window; ``most`` rows, the busiest first beyond that."""
    uses = list(summary.instances)
    notes: tuple[str, ...] = ()
    if len(uses) > most:
        notes = (f"the {most} busiest of {len(uses)} instances",)
        uses = sorted(uses, key=lambda u: (-u.busy_fraction, u.instance))[:most]
    return Table(
        title="Instances",
        columns=("instance", "busy", "decodes/step", "KV mean", "KV peak", "steps"),
        rows=tuple(
            (
                str(u.instance),
                percent_text(u.busy_fraction),
                rate_text(u.mean_decodes_per_step, ""),
                percent_text(u.kv_mean_fraction)
                if u.kv_mean_fraction is not None
                else f"{u.kv_mean_blocks:,.0f} blocks",
                percent_text(u.kv_peak_fraction)
                if u.kv_peak_fraction is not None
                else f"{u.kv_peak_blocks:,} blocks",
                count_text(u.num_steps),
            )
            for u in uses
        ),
        notes=notes,
    )


def status_note(summary: Summary) -> str:
    """How the requests ended: ``9,980 finished, 20 rejected``."""
    counts = summary.status
    parts = [
        f"{getattr(counts, name):,} {name}"
        for name in ("finished", "cancelled", "rejected", "failed", "unfinished")
        if getattr(counts, name)
    ]
    return ", ".join(parts) or "no request arrived"


def saturation_note(summary: Summary) -> str:
    """One sentence if demand exceeds what the plan sustains, else ""."""
    s = summary.saturation
    if s is None or not s.saturated:
        return ""
    return (
        f"demand is {s.demand_ratio:.2f} times what this plan sustains: the queue grew by "
        f"{rate_text(s.queue_growth_per_s, 'requests/s')}, so latencies depend on the run's length"
    )
