"""The errors of Plimsoll, one tree, so that callers can tell an answer from a failure.

    PlimsollError
    ├── SpecError          bad input: a file, a value, an option            (exit code 2)
    ├── InfeasibleError    understood, and nothing fits: this is an answer  (exit code 3)
    ├── UnsupportedError   no data or no code for this                      (exit code 4)
    ├── ExecutionError     a run failed                                     (exit code 1)
    │   └── PolicyError    a policy made an illegal decision
    └── LivelockError      a loop that retries made no progress             (exit code 1)

A message says what was found, where, what was expected and what to do.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ExecutionError",
    "InfeasibleError",
    "LivelockError",
    "PlimsollError",
    "PolicyError",
    "SpecError",
    "UnsupportedError",
    "suggest",
]


class PlimsollError(Exception):
    """Root of every error raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class SpecError(PlimsollError):
    """The input is wrong: the message names the file and field."""

    exit_code: ClassVar[int] = 2


class InfeasibleError(PlimsollError):
    """The question was understood and no plan satisfies it.

    ``binding`` names the limit that binds, ``nearest`` the closest candidate in words,
    ``change`` the smallest change that would make it fit; each is "" where unknown.
    """

    exit_code: ClassVar[int] = 3

    def __init__(
        self, message: str, *, binding: str = "", nearest: str = "", change: str = ""
    ) -> None:
        super().__init__(message)
        self.binding = binding
        self.nearest = nearest
        self.change = change


class UnsupportedError(PlimsollError):
    """There is no data or no code for what was asked."""

    exit_code: ClassVar[int] = 4


class ExecutionError(PlimsollError):
    """A run failed."""


class PolicyError(ExecutionError):
    """A policy made a decision that breaks an invariant; the message names the decision."""


class LivelockError(PlimsollError):
    """A loop that retries made no progress; the message holds the state."""


def suggest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """`` Did you mean a, b or c?`` for the known names nearest to ``name``, or ""."""
    names = list(known)
    lowered = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=most, cutoff=0.5)
    found = [lowered[c] for c in close]
    if not found:
        return ""
    if len(found) == 1:
        return f" Did you mean {found[0]}?"
    return f" Did you mean {', '.join(found[:-1])} or {found[-1]}?"
