"""How numbers are written for people: units, origins, colors. The one place where ms appear.

Colors are from the Okabe-Ito palette, told apart by readers with any color vision and legible
on white and on near-black; shapes and dashes repeat the distinction.
Source: https://jfly.uni-koeln.de/color/.
"""

import math

from plimsoll.spec.origin import Number

__all__ = [
    "FAMILY_COLORS",
    "METRIC_NAMES",
    "PART_COLORS",
    "PHASE_COLORS",
    "TERMINAL_COLORS",
    "bound_text",
    "count_text",
    "error_text",
    "flops_text",
    "gpus_text",
    "loss_ticks",
    "narrow_range_text",
    "number_text",
    "percent_text",
    "plain_text",
    "quantity_text",
    "range_text",
    "rate_text",
    "ratio_text",
    "seconds_text",
    "short_count_text",
    "ticks_1_2_5",
]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
AMBER, SKY, GRAY = "#C48A00", "#3A9AD9", "#808080"

FAMILY_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY, GRAY)
PHASE_COLORS = {"queue": GRAY, "prefill": VERMILLION, "decode": BLUE, "preempted": PURPLE}
PART_COLORS = {"compute": BLUE, "memory": GREEN, "collective": VERMILLION, "host": PURPLE}
TERMINAL_COLORS = {
    "blue": 33,
    "vermillion": 166,
    "green": 35,
    "purple": 170,
    "amber": 136,
    "sky": 37,
    "gray": 244,
    "alert": 160,
}
"""The same colors among the 256 of terminals, legible on light and dark."""
METRIC_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "End-to-end latency"}


def _three(value: float) -> str:
    """Three significant digits without an exponent: 12,300, 45.6, 0.0123."""
    return _significant(value, 3)


def _significant(value: float, count: int) -> str:
    if value == 0:
        return "0"
    digits = count - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(digits, 0)}f}"


def count_text(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def short_count_text(value: float) -> str:
    """A count of parameters or tokens as people say it: 29.4B, 566M, 12.5k; 3 digits."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def flops_text(value: float) -> str:
    """Compute as it is typed: 1e22, 3.73e22."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def quantity_text(value: float, unit: str) -> str:
    """A count, or compute where the unit is FLOPs, without the unit."""
    return flops_text(value) if unit == "FLOPs" else short_count_text(value)


def gpus_text(count: int) -> str:
    """``1 GPU``, ``8 GPUs``."""
    return f"{count:,} GPU" if count == 1 else f"{count:,} GPUs"


def rate_text(value: float | None, unit: str) -> str:
    """Three digits and the unit; "-" for what is undefined."""
    return "-" if value is None else f"{_three(value)} {unit}".rstrip()


def seconds_text(value_s: float | None) -> str:
    """ms below one second, s above; "-" for what is undefined."""
    if value_s is None or not math.isfinite(value_s):
        return "-"
    if abs(value_s) < 1:
        return f"{_three(value_s * 1e3)} ms"
    return f"{_three(value_s)} s"


def range_text(low_s: float, high_s: float) -> str:
    """A range to two digits: ``310 to 700 ms``, ``630 ms to 1.4 s``."""
    low, high = _two(low_s, high_s < 1), _two(high_s, high_s < 1)
    if high_s >= 1 > low_s:
        return f"{_two(low_s, True)} ms to {high} s"
    return f"{low} to {high} {'ms' if high_s < 1 else 's'}"


def narrow_range_text(low_s: float, high_s: float) -> str:
    """The same for a cell of a table, in the unit of its upper end: ``0.63-1.4 s``."""
    return f"{_two(low_s, high_s < 1)}-{_two(high_s, high_s < 1)} {'ms' if high_s < 1 else 's'}"


def _two(value_s: float, in_ms: bool) -> str:
    return _significant(value_s * 1e3 if in_ms else value_s, 2)


def bound_text(value_s: float) -> str:
    """A bound as it was stated, without padding: 500 ms, 2 s."""
    return f"{value_s * 1e3:,.6g} ms" if value_s < 1 else f"{value_s:,.6g} s"


def plain_text(value: float) -> str:
    """Up to three digits without padding: 40, 12.5, 1,250."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio_text(value: float) -> str:
    """Three digits, all of those before the point: 0.0123, 19.2, 2,200."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent_text(fraction: float | None) -> str:
    """A percentage that says 100 % or 0 % only if it is."""
    if fraction is None:
        return "-"
    if fraction in (0.0, 1.0):
        return f"{fraction * 100:.0f} %"
    for digits in (1, 2, 3, 4):
        text = f"{fraction * 100:.{digits}f}"
        if float(text) not in (0.0, 100.0):
            return f"{text} %"
    return "< 0.0001 %" if fraction < 0.5 else "> 99.9999 %"


def number_text(number: Number, digits: int = 3) -> str:
    """A number with its unit: ``41.2 req/s``."""
    exact = number.value == int(number.value) if math.isfinite(number.value) else False
    shown = (
        count_text(number.value)
        if exact and abs(number.value) < 1e15
        else _significant(number.value, digits)
    )
    return f"{shown} {number.unit}".rstrip()


def error_text(number: Number) -> str:
    """Its typical error, ``± 8 %``, or "" where that is not known."""
    if number.error_fraction is None:
        return ""
    return f"± {number.error_fraction * 100:.0f} %"


def ticks_1_2_5(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 steps, or whole decades where these are too many."""
    if not 0 < low <= high:
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def loss_ticks(low: float, high: float) -> list[float]:
    """About six round losses of a logarithmic axis that spans less than a decade or two."""
    if high / low > 30:
        return ticks_1_2_5(low, high)
    found: list[float] = []
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        ticks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) <= 8:
            return [float(f"{t:.6g}") for t in (ticks if len(ticks) > 2 or not found else found)]
        found = ticks
    return ticks_1_2_5(low, high)
