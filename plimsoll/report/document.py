"""A report as plain data: what was asked, what was assumed, the answer, what to do next.

Terminal, HTML and JSON are drawn from the same ``Report``, so they cannot disagree.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from plimsoll.report.pictures import Picture
from plimsoll.spec.io import PLAIN
from plimsoll.spec.origin import Number

__all__ = ["KeyNumber", "Report", "Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNumber:
    """One headline number; ``note`` says what it is of ("P99, 1,000 requests"); ``digits`` are
    shown, more than three where the last ones matter."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    number: Number
    note: str = ""
    digits: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of ready text; the first column is left-aligned, the others by their content."""

    __pydantic_config__: ClassVar = PLAIN
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a report shows, in order. ``title`` is the answer in one sentence.

    ``start_command`` starts what the report proposes; ``next_command`` is the next thing to ask.
    ``num_on_terminal``: a terminal draws only the first so many pictures; None: all.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    title: str
    subtitle: str = ""
    command: str = ""
    assumptions: tuple[str, ...] = ()
    key_numbers: tuple[KeyNumber, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    num_on_terminal: int | None = None
    start_command: str = ""
    next_command: str = ""
    notes: tuple[str, ...] = ()
