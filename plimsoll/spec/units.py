"""Quantities as people write them: "500ms", "20kW", "40usd/h", "80GB".

A bare number where a dimension is expected is refused: half of the mistakes in this field
are a factor of 1,000. GB is 1e9 bytes, GiB is 2**30; both are accepted and kept apart.
"""

import math
import re

from plimsoll.spec.errors import SpecError

__all__ = ["format_bytes", "format_seconds", "parse_count", "parse_quantity"]

_UNITS: dict[str, dict[str, float]] = {
    "time": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "bytes": {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
        "TiB": 2.0**40,
    },
    "bytes/s": {"kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12, "Gb/s": 1e9 / 8},
    "flops/s": {
        "GFLOP/s": 1e9,
        "TFLOP/s": 1e12,
        "PFLOP/s": 1e15,
        "TFLOPS": 1e12,
        "PFLOPS": 1e15,
        "TOP/s": 1e12,
        "TOPS": 1e12,
    },
    "power": {"W": 1.0, "kW": 1e3, "MW": 1e6},
    "price": {"usd/h": 1.0, "usd/hour": 1.0},
    "rate": {
        "/s": 1.0,
        "req/s": 1.0,
        "rps": 1.0,
        "/min": 1 / 60,
        "req/min": 1 / 60,
        "/h": 1 / 3600,
    },
}
_EXAMPLES = {
    "time": "500ms or 2s",
    "bytes": "80GB or 80GiB",
    "bytes/s": "3.35TB/s or 400Gb/s",
    "flops/s": "989TFLOP/s",
    "power": "700W or 20kW",
    "price": "40usd/h",
    "rate": "5req/s",
}
_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")
_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def parse_quantity(text: str, dimension: str, *, where: str) -> float:
    """The value of ``text`` in SI base units (s, bytes, bytes/s, FLOP/s, W, USD/h, 1/s).

    ``dimension`` is one of time, bytes, bytes/s, flops/s, power, price, rate;
    ``where`` names the option or field in the error.

    Raises:
        SpecError: no unit, an unknown unit, a negative or non-finite number.
    """
    units = _UNITS[dimension]
    match = _NUMBER.match(str(text))
    if match is None:
        raise SpecError(
            f"{where}: {text!r} is not a quantity; write for example {_EXAMPLES[dimension]}"
        )
    value, unit = float(match.group(1).replace("_", "")), match.group(2)
    if not unit:
        raise SpecError(f"{where}: {text!r} has no unit; write for example {_EXAMPLES[dimension]}")
    if unit not in units:
        raise SpecError(
            f"{where}: unknown unit {unit!r} in {text!r}; expected one of {', '.join(units)}"
        )
    if not math.isfinite(value) or value < 0:
        raise SpecError(f"{where}: {text!r} must be a finite number, zero or more")
    return value * units[unit]


def parse_count(text: str, *, where: str) -> int:
    """A whole number that may carry k, M, B or T: ``4k`` is 4,000."""
    match = _NUMBER.match(str(text))
    if match is None or match.group(2) not in _COUNT:
        raise SpecError(f"{where}: {text!r} is not a count; write for example 4096 or 4k")
    value = float(match.group(1).replace("_", "")) * _COUNT[match.group(2)]
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise SpecError(f"{where}: {text!r} must be a whole number, zero or more")
    return int(value)


def format_seconds(value_s: float) -> str:
    """Three significant digits with the unit a reader expects: 1.23 s, 45.6 ms, 789 µs."""
    if not math.isfinite(value_s):
        return "-"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value_s) >= factor:
            return f"{value_s / factor:.3g} {unit}" if abs(value_s) < 1000 else f"{value_s:,.0f} s"
    return "0 s" if value_s == 0 else f"{value_s / 1e-9:.3g} ns"


def format_bytes(value_bytes: float) -> str:
    """Binary units, spelled out: 61.0 GiB, 256 KiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(value_bytes) >= 2.0**power:
            scaled = value_bytes / 2.0**power
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{value_bytes:.0f} B"
