"""Pictures as rows of block characters: request timeline, time breakdown, memory.

Kinds are told apart by their glyph; color repeats it.
"""

import math

from plimsoll.report.pictures import MemoryWaterfall, RequestTimeline, TimeBreakdown
from plimsoll.report.text_plot import head, tail, wrap
from plimsoll.report.wording import TERMINAL_COLORS, seconds_text
from plimsoll.spec.units import format_bytes

__all__ = ["breakdown_rows", "memory_rows", "timeline_rows"]

_GLYPHS = {"queue": "·", "prefill": "▓", "decode": "━", "preempted": "░"}
_COLORS = {
    "queue": "gray",
    "prefill": "vermillion",
    "decode": "blue",
    "preempted": "purple",
    "late": "alert",
    "compute": "blue",
    "memory": "green",
    "collective": "vermillion",
    "host": "purple",
}


def _paint(text: str, kind: str, color: bool) -> str:
    if not color or not text.strip():
        return text
    return f"\x1b[38;5;{TERMINAL_COLORS[_COLORS[kind]]}m{text}\x1b[0m"


def timeline_rows(p: RequestTimeline, width: int, height: int, color: bool) -> list[str]:
    if not p.rows:
        return [*head(p, "no request to show"), *tail(p, width)]
    rows = p.rows[: max(height, 4)]
    begin = min(s.start_s for r in rows for s in r.spans) if any(r.spans for r in rows) else 0.0
    end = max((s.end_s for r in rows for s in r.spans), default=begin + 1.0)
    label = max(len(str(r.request_id)) for r in rows) + 2
    cells = width - label - 7
    scale = cells / max(end - begin, 1e-12)
    lines = []
    for r in rows:
        kinds = [""] * cells
        for s in r.spans:
            low = min(int((s.start_s - begin) * scale), cells - 1)
            high = max(math.ceil((s.end_s - begin) * scale), low + 1)
            for k in range(low, min(high, cells)):
                kinds[k] = s.kind
        bar, k = "", 0
        while k < cells:
            run = k
            while run < cells and kinds[run] == kinds[k]:
                run += 1
            glyph = _GLYPHS.get(kinds[k], " ") * (run - k)
            bar += _paint(glyph, kinds[k], color) if kinds[k] else glyph
            k = run
        mark = _paint(" late", "late", color) if r.late else ""
        lines.append(f"{r.request_id:>{label - 1}} {bar}{mark}".rstrip())
    legend = [f"{_GLYPHS[k]} {k}" for k in ("queue", "prefill", "decode", "preempted")]
    each = seconds_text((end - begin) / cells)
    span = f"{seconds_text(begin)} to {seconds_text(end)}, {each} a character"
    shown = f"{len(rows):,} of {p.num_requests:,} requests shown, {p.num_late:,} late in all"
    return [*head(p, "request"), *lines, *wrap([*legend, span, shown], width), *tail(p, width)]


def breakdown_rows(p: TimeBreakdown, width: int, height: int, color: bool) -> list[str]:
    lines = list(head(p))
    for bar in p.bars:
        total = bar.total_s
        lines.append(f"{bar.name}: {seconds_text(total)} a step")
        name_width = max([len(part.name) for part in bar.parts] + [8])
        notes = width - name_width - 40 >= 10
        cells = width - name_width - (40 if notes else 22)
        for part in sorted(bar.parts, key=lambda q: -q.seconds):
            share = part.seconds / total if total > 0 else 0.0
            filled = "█" * round(share * cells) or ("▏" if part.seconds else "")
            painted = _paint(f"{filled:<{cells}}", part.kind, color)
            text = f"  {part.name:<{name_width}} {painted} {share * 100:5.1f} %"
            text += f" {seconds_text(part.seconds):>9}"
            if notes and part.hidden_s:
                text += f" +{seconds_text(part.hidden_s)} hidden"
            elif notes and part.bound_s is not None:
                text += f" bound {seconds_text(part.bound_s)}"
            lines.append(text.rstrip())
    return [*lines, *tail(p, width)]


def memory_rows(p: MemoryWaterfall, width: int, height: int, color: bool) -> list[str]:
    """A plain version; the terminal report draws bars."""
    lines = [f"  {part.name:<20} {format_bytes(part.size_bytes):>12}" for part in p.parts]
    return [*head(p), *lines, f"  {'limit':<20} {format_bytes(p.limit_bytes):>12}", *tail(p, width)]
