"""What every verb returns: a report for people, data for machines.

Both are made from the same answer, so that the terminal, the HTML page and ``--json`` agree.
"""

from typing import Any, Protocol

from plimsoll.report.document import Report

__all__ = ["Answer"]


class Answer(Protocol):
    """The result of a verb."""

    def report(self) -> Report:
        """The answer as title, numbers, tables, pictures and the next command."""
        ...

    def data(self) -> dict[str, Any]:
        """The answer as JSON-ready data, units in the keys, with ``format_version``."""
        ...
