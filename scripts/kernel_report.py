"""The kernel tables of docs/accuracy.md: errors by operator, device, engine and format."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plimsoll.spec.io import write_text

__all__ = ["Errors", "write_tables"]

_START = "<!-- kernel tables: written by scripts/calibrate_kernels.py -->"
_END = "<!-- end of kernel tables -->"
_TITLE = "# Accuracy\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors of one group of rows; ``host_bound`` ones show the host's call time."""

    operator: str
    device: str
    engine: str
    label: str
    in_sample: np.ndarray
    left_out: np.ndarray
    host_bound: np.ndarray


def _row(names: Sequence[str], chosen: Iterable[Errors]) -> str:
    chosen = list(chosen)
    inside = np.concatenate([e.in_sample for e in chosen])
    outside = np.concatenate([e.left_out for e in chosen])
    cells = [f"{len(inside):,}"] if len(inside) else ["0"]
    for errors in (inside, outside):
        if len(errors):
            cells += [f"{np.median(errors):.1%}", f"{np.quantile(errors, 0.9):.0%}"]
        else:
            cells += ["-", "-"]
    return "| " + " | ".join([*names, *cells]) + " |"


def _table(
    errors: Sequence[Errors], heads: Sequence[str], key: Callable[[Errors], tuple[str, ...]]
) -> list[str]:
    columns = [*heads, "rows", "in sample", "P90", "left out", "P90"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    keys = dict.fromkeys(key(e) for e in errors)
    lines += [_row(one, (e for e in errors if key(e) == one)) for one in keys]
    return [*lines, ""]


def write_tables(errors: Sequence[Errors], path: Path) -> None:
    """Replace the tables between the markers of ``path``, or add them at its end."""
    device = [
        replace(e, in_sample=e.in_sample[~e.host_bound], left_out=e.left_out[~e.host_bound])
        for e in errors
    ]
    hidden = sum(int(e.host_bound.sum()) for e in errors)
    lines = [
        _START,
        "## Kernels",
        "",
        "Absolute error of predicted kernel times over shapes that take 20 µs or more: median and",
        "90th percentile. *In sample*: coefficients of the device's own class. *Left out*: none of",
        "the device's rows took part; it is known by its data sheet only. Rows are drawn at random",
        "from all files; none is dropped for its value. Made by `scripts/calibrate_kernels.py`.",
        "",
        *_table(errors, ("operator",), lambda e: (e.operator,)),
        "Some groups were timed without graph capture, so that the host's call time, and not the",
        "device, sets a floor. In sample that floor is taken from the group, left out from other",
        f"devices' groups. The {hidden:,} rows within half of the floor are counted above;",
        "without them:",
        "",
        *_table(device, ("operator",), lambda e: (e.operator,)),
        "By device:",
        "",
        *_table(errors, ("operator", "device"), lambda e: (e.operator, e.device)),
        "By engine (experts: by kernel):",
        "",
        *_table(errors, ("operator", "engine"), lambda e: (e.operator, e.engine)),
        "By number format, operation or phase:",
        "",
        *_table(errors, ("operator", "kind"), lambda e: (e.operator, e.label)),
        _END,
    ]
    block = "\n".join(lines)
    old = path.read_text(encoding="utf-8") if path.exists() else _TITLE
    if _START in old and _END in old:
        before, rest = old.split(_START, 1)
        after = rest.split(_END, 1)[1]
        text = before + block + after
    else:
        text = old.rstrip("\n") + "\n\n" + block + "\n"
    write_text(text, path)
