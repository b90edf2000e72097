"""Answers on a terminal: at most 80 columns, plain text through a pipe or with NO_COLOR.

Everything is a rich renderable made from plain data. Meaning is never in color alone: what is
missed is in capitals, the chosen row has a mark.
"""

import os
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
    "command_lines",
    "key_number_lines",
    "make_console",
    "memory_bars",
    "plan_lines",
    "print_report",
    "table_lines",
]

MAX_COLUMNS = 80
_WIDEST_NAME = 44
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


def command_lines(command: str, width: int) -> list[str]:
    """A command as lines that can be pasted: a backslash where it goes on, four spaces in.

    An option and its value stay on one line.
    """
    if "\n" in command:
        return command.split("\n")
    lines: list[str] = []
    words: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if words and words[-1].startswith("--") and not word.startswith("-"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width - 2:
            lines[-1] += f" {word}"
        elif lines:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines.append(word)
    return lines


def _wrapped(text: str, *, hang: int, style: str = "") -> "RenderableType":
    """Text broken at words with the lines after the first indented."""
    return _Hanging(text=text, hang=hang, style=style)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hanging:
    """Renders text to the width of the console it meets."""

    text: str
    hang: int
    style: str

    def __rich_console__(self, console: "Console", options: Any) -> Iterator[Any]:
        from rich.text import Text

        lines = textwrap.wrap(
            self.text,
            options.max_width,
            subsequent_indent=" " * self.hang,
            break_on_hyphens=False,
        )
        for line in lines or [""]:
            yield Text(line, style=self.style)


def table_lines(table: Table) -> "RenderableType":
    """A table with a rule under its head; numbers to the right, words to the left."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for k, name in enumerate(table.columns):
        cells = [row[k] for row in table.rows]
        longest = max(map(len, cells), default=0)
        right = k > 0 and all(c[:1].isdigit() or c[:1] in "-<>$+" or not c for c in cells)
        grid.add_column(
            Text(name),
            justify="right" if right else "left",
            no_wrap=right or (k == 0 and longest <= _WIDEST_NAME),
            overflow="fold",
        )
    for row in table.rows:
        chosen = any(cell.startswith("*") for cell in row[:1])
        texts = [Text(c, style=_ALERT if c.startswith("MISSED") else "") for c in row]
        grid.add_row(*texts, style="bold" if chosen else None)
    lines: list[Any] = [Text(table.title, style="bold")] if table.title else []
    if table.rows:
        lines.append(grid)
    lines += [_wrapped(f"({note})", hang=1, style="dim") for note in table.notes]
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
            Text(f"{number_text(item.number, item.digits)} {error_text(item.number)}".rstrip()),
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
    if plan.streams > 1:
        rows.append(("streams", f"{plan.streams}, each token run that many times"))
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
    """The whole report, pictures drawn in text; no line ends in a blank."""
    with console.capture() as capture:
        _print(report, console)
    for line in capture.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def _print(report: Report, console: "Console") -> None:
    from rich.text import Text

    from plimsoll.report.plots_terminal import picture_text

    console.print(_wrapped(report.title, hang=0, style="bold"))
    if report.subtitle:
        console.print(_wrapped(report.subtitle, hang=0))
    if report.key_numbers:
        console.print()
        console.print(key_number_lines(report.key_numbers))
    for table in report.tables:
        console.print()
        console.print(table_lines(table))
    for picture in report.pictures[: report.num_on_terminal]:
        console.print()
        if isinstance(picture, MemoryWaterfall):
            console.print(memory_bars(picture, width=console.width - 2))
        else:
            color = console.is_terminal and not console.no_color
            text = picture_text(picture, width=console.width - 2, color=color)
            title, _, body = text.partition("\n")
            console.print(_wrapped(title, hang=0, style="bold"))
            console.print(Text.from_ansi(body))
    for name, lines in (("Assumed", report.assumptions), ("Notes", report.notes)):
        if lines:
            console.print()
            console.print(Text(name, style="bold"))
            for line in lines:
                console.print(_wrapped(f"  {line}", hang=4))
    if report.start_command:
        console.print()
        console.print(Text("Start it", style="bold"))
        for line in command_lines(report.start_command, console.width):
            console.print(Text(line), soft_wrap=True)
    if report.next_command:
        console.print()
        first, *rest = command_lines(report.next_command, console.width - 7)
        console.print(Text("next:  ", style="bold").append(first, style="not bold"), soft_wrap=True)
        for line in rest:
            console.print(Text(f"       {line}"), soft_wrap=True)
