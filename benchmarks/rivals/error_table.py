"""Tables of prediction errors: how far each tool is from the measured times, group by group.

The error of a row is |predicted - measured| / measured. Median, mean and 90th percentile (linear
between ranks) over the rows a tool predicted; then the same over the rows that all predicted,
since a tool that declines the hard rows would look better than it is. Rows that leave their
worker counts blank are a guess for every tool and stay out of what is summed up.
"""

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rows import AGGREGATED, BLANK, STATED, Row, group_of

METRICS = ("tpot_ms", "ttft_ms")
REASONS = (
    (
        "no timing data for that model, precision or cut",
        ("data missing", "no timing data", "needs data"),
    ),
    (
        "no timing data for that model, precision or cut",
        ("PerfDataNotAvailable", "requires DeepEP"),
    ),
    ("weights do not fit as cut", ("OOM", "no KV budget", "does not fit", "not fit")),
    ("heads do not divide by the degree", ("divisible",)),
    ("not every request completed", ("requests completed",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What one tool said: times by row id, and why there are none for the others."""

    tool: str
    times: dict[str, dict[str, float]]
    reasons: dict[str, str] = field(default_factory=dict)


def read_answer(tool: str, answer: list[dict[str, object]]) -> Predictions:
    """Predictions of a driver's rows."""
    times, reasons = {}, {}
    for row in answer:
        if "reason" in row:
            reasons[str(row["id"])] = str(row["reason"])
        else:
            times[str(row["id"])] = {name: float(str(row[name])) for name in METRICS}
    return Predictions(tool=tool, times=times, reasons=reasons)


def percentile(values: list[float], fraction: float) -> float:
    """Linear between ranks."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def errors(rows: Iterable[Row], found: Predictions, metric: str) -> list[float]:
    """Absolute errors as fractions of the measured time, of the rows that were predicted."""
    return [
        abs(found.times[row["id"]][metric] / float(row[metric]) - 1.0)
        for row in rows
        if row["id"] in found.times
    ]


def _line(label: str, rows: list[Row], found: Predictions) -> str:
    cells = [f"{label:<31}{len(rows):>6}"]
    for metric in METRICS:
        values = errors(rows, found, metric)
        if metric == METRICS[0]:
            cells.append(f"{len(values):>6}")
        if not values:
            cells.append(f"{'-':>8}{'-':>7}{'-':>7}")
            continue
        shown = (statistics.median(values), statistics.fmean(values), percentile(values, 0.9))
        cells.append(f"{shown[0]:>8.1%}{shown[1]:>7.0%}{shown[2]:>7.0%}")
    return "".join(cells)


def _head(title: str) -> list[str]:
    over = f"{'':<43}{'TPOT error':>22}{'TTFT error':>22}"
    under = f"{title:<31}{'rows':>6}{'told':>6}" + f"{'median':>8}{'mean':>7}{'P90':>7}" * 2
    return [over, under]


def table(rows: list[Row], tools: list[Predictions]) -> list[str]:
    """One block a tool, then one over the rows that every tool predicted."""
    lines: list[str] = []
    stated = [row for row in rows if group_of(row) != BLANK]
    for found in tools:
        lines += ["", *_head(found.tool)]
        for group in (AGGREGATED, STATED):
            members = [row for row in rows if group_of(row) == group]
            if members:
                lines.append(_line(f"  {group}", members, found))
        lines.append(_line("  these together", stated, found))
        if len(stated) < len(rows):
            blank = [row for row in rows if group_of(row) == BLANK]
            lines.append(_line(f"  {BLANK}", blank, found))
    if len(tools) > 1:
        shared = [row for row in stated if all(row["id"] in found.times for found in tools)]
        lines += ["", *_head("stated rows that all predicted")]
        lines += [_line(f"  {found.tool}"[:31], shared, found) for found in tools]
    return lines


def reason_of(message: str) -> str:
    """A rival's message as one of a few reasons, or the start of the message."""
    for reason, marks in REASONS:
        if any(mark in message for mark in marks):
            return reason
    return message[:100]


def reasons(found: Predictions) -> list[str]:
    """How many rows were not predicted, by reason."""
    counted = Counter(reason_of(message) for message in found.reasons.values())
    return [f"  {count:>5}  {reason}" for reason, count in counted.most_common()]
