"""Answers on a terminal: at most 80 columns, plain text through a pipe or with NO_COLOR.

Everything is a rich renderable made from plain data. Meaning is never in color alone: what is
missed is in capitals, the chosen row has a mark.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.pictures import MemoryWaterfall
from plimsoll.report.wording import (
    TERMINAL_COLORS,
    count_text,
    error_text,
    number_text,
    percent_text,
)
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "MAX_COLUMNS",
    "key_number_lines",
    "make_console",
    "memory_bars",
    "plan_lines",
    "print_report",
    "table_lines",
]

MAX_COLUMNS = 80
_ALERT = f"bold color({TERMINAL_COLORS['alert']})"


def make_console(file: TextIO | None = None) -> "Console":
    """A console on ``file`` (standard output by default), never wider than 80 columns."""
    from rich.console import Console

    console = Console(file=file, highlight=False, soft_wrap=False)
    width = min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS
    return Console(
        file=file,
        highlight=False,
        width=max(width, 40),
        no_color=bool(os.environ.get("NO_COLOR")) or None,
        legacy_windows=False,
    )


def table_lines(table: Table) -> "RenderableType":
    """A table with a rule under its head; numbers to the right, words to the left."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for k, name in enumerate(table.columns):
        cells = [row[k] for row in table.rows]
        right = k > 0 and all(c[:1].isdigit() or c[:1] in "-<>$+" or not c for c in cells)
        grid.add_column(
            Text(name),
            justify="right" if right else "left",
            no_wrap=k == 0 or right,
            overflow="fold",
        )
    for row in table.rows:
        chosen = any(cell.startswith("*") for cell in row[:1])
        texts = [Text(c, style=_ALERT if c.startswith("MISSED") else "") for c in row]
        grid.add_row(*texts, style="bold" if chosen else None)
    lines: list[Any] = [Text(table.title, style="bold")] if table.title else []
    if table.rows:
        lines.append(grid)
    lines += [Text(f"({note})", style="dim") for note in table.notes]
    return Group(*lines)


def key_number_lines(numbers: Iterable[KeyNumber]) -> "RenderableType":
    """One number a line, with what it is of and where it comes from."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True, style="bold")
    grid.add_column(style="dim")
    grid.add_column(style="dim", no_wrap=True)
    for item in numbers:
        grid.add_row(
            Text(item.name),
            Text(f"{number_text(item.number)} {error_text(item.number)}".rstrip()),
            Text(item.note),
            Text(item.number.origin.value),
        )
    return grid


def _parallel_words(pool: Pool) -> str:
    p = pool.parallel
    words = [f"TP {p.tp}"]
    words += [f"PP {p.pp}"] if p.pp > 1 else []
    words += [f"attention DP {p.attention_dp}"] if p.attention_dp > 1 else []
    words += [f"EP {p.ep}"] if p.ep > 1 else []
    return ", ".join(words)


def _policy_words(pool: Pool) -> str:
    policy = pool.policy
    budget = getattr(policy, "token_budget", None) or getattr(policy, "max_batched_tokens", None)
    return policy.kind if budget is None else f"{policy.kind}, {count_text(budget)} tokens a step"


def plan_lines(plan: ServingPlan) -> "RenderableType":
    """A plan, one line a decision."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    rows = [("model", f"{plan.model} on {plan.fleet}, engine {plan.engine}")]
    roles = {"both": "replicas", "prefill": "prefill", "decode": "decode"}
    for pool in plan.pools:
        each = pool.parallel.num_devices
        rows += [
            (
                roles[pool.role],
                f"{pool.replicas} x ({_parallel_words(pool)}): {pool.num_devices} of "
                f"{pool.device}, {each} a replica",
            ),
            ("", f"{_policy_words(pool)}; at most {count_text(pool.max_num_seqs)} requests"),
            (
                "",
                f"{percent_text(pool.memory_fraction)} of memory, blocks of {pool.block_tokens} "
                f"tokens, prefix caching {'on' if pool.prefix_caching else 'off'}",
            ),
        ]
    if len(plan.pools) > 1 or plan.pools[0].replicas > 1:
        rows.append(("router", plan.router.kind))
    kinds = (("weights", plan.weight_dtype), ("KV cache", plan.kv_dtype))
    dtypes = [f"{what} {dtype}" for what, dtype in kinds if dtype is not None]
    if dtypes:
        rows.append(("dtypes", ", ".join(dtypes)))
    if plan.max_model_len:
        rows.append(("context", f"{count_text(plan.max_model_len)} tokens at most"))
    for name, words in rows:
        grid.add_row(Text(name), Text(words))
    return grid


def memory_bars(picture: MemoryWaterfall, *, width: int = 76) -> "RenderableType":
    """Memory of one GPU by part: a bar each, sizes in binary units, and the limit."""
    from rich.console import Group
    from rich.text import Text

    name_width = max([len(p.name) for p in picture.parts] + [12])
    bar_width = width - name_width - 24
    full = max(picture.capacity_bytes, picture.used_bytes)
    over = picture.used_bytes > picture.limit_bytes
    lines = [Text(picture.title, style="bold")]
    before = 0.0
    for part in picture.parts:
        begin = round(before / full * bar_width)
        end = round((before + part.size_bytes) / full * bar_width)
        bar = " " * begin + ("█" * (end - begin) or ("▏" if part.size_bytes else ""))
        lines.append(
            _bar_line(part.name, bar, part.size_bytes, full, name_width, bar_width, "blue")
        )
        before += part.size_bytes
    limit_at = min(max(round(picture.limit_bytes / full * bar_width) - 1, 0), bar_width - 1)
    lines.append(
        _bar_line(
            "limit",
            " " * limit_at + "┃",
            picture.limit_bytes,
            full,
            name_width,
            bar_width,
            "alert" if over else "green",
        )
    )
    spare = picture.limit_bytes - picture.used_bytes
    verdict = f"OVER by {format_bytes(-spare)}" if over else f"{format_bytes(spare)} to spare"
    lines.append(
        Text(
            f"{format_bytes(picture.used_bytes)} of {format_bytes(picture.limit_bytes)} that the "
            f"engine may take: {verdict}",
            style=_ALERT if over else "",
        )
    )
    lines += [Text(f"({note})", style="dim") for note in picture.notes]
    return Group(*lines)


def _bar_line(
    name: str, bar: str, size: float, full: float, name_width: int, bar_width: int, color: str
) -> Any:
    from rich.text import Text

    line = Text(f"{name:<{name_width}}  ")
    line.append(f"{bar:<{bar_width}}", style=f"color({TERMINAL_COLORS[color]})")
    line.append(f"  {format_bytes(size):>10} {size / full * 100:5.1f} %")
    return line


def print_report(report: Report, console: "Console") -> None:
    """The whole report, pictures drawn in text."""
    from rich.text import Text

    from plimsoll.report.plots_terminal import picture_text

    def gap() -> None:
        console.print()

    console.print(Text(report.title, style="bold"))
    if report.subtitle:
        console.print(Text(report.subtitle))
    if report.key_numbers:
        gap()
        console.print(key_number_lines(report.key_numbers))
    for table in report.tables:
        gap()
        console.print(table_lines(table))
    for picture in report.pictures:
        gap()
        if isinstance(picture, MemoryWaterfall):
            console.print(memory_bars(picture, width=console.width - 2))
        else:
            color = console.is_terminal and not console.no_color
            text = picture_text(picture, width=console.width - 2, color=color)
            title, _, body = text.partition("\n")
            console.print(Text(title, style="bold"))
            console.print(Text.from_ansi(body))
    if report.assumptions:
        gap()
        console.print(Text("Assumed", style="bold"))
        for line in report.assumptions:
            console.print(Text(f"  {line}"))
    for note in report.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if report.next_command:
        gap()
        console.print(Text("next:  ", style="bold").append(report.next_command, style="not bold"))
