"""Commands as shell text: quoted, one option a line, the same every time.

An argument is quoted unless it is marked ``Raw`` (a reference to a shell variable that the
script itself checks). Several commands of one host run side by side; the script ends with the
first of them that fails.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Launch", "Raw", "command", "script"]


class Raw(str):
    """Text the shell is to expand, quoted by whoever wrote it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program: ``argv`` starts with its words, options follow as (flag, value) words."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _quoted(word: str) -> str:
    return str(word) if isinstance(word, Raw) else shlex.quote(word)


def command(launch: Launch) -> str:
    """The command with its environment, an option and its values on each line."""
    lines = [" ".join(f"{k}={_quoted(v)}" for k, v in launch.env.items())]
    if not lines[0]:
        lines = []
    current: list[str] = []
    for word in launch.argv:
        if word.startswith("--") and current:
            lines.append(" ".join(current))
            current = []
        current.append(_quoted(word))
    lines.append(" ".join(current))
    return " \\\n  ".join(lines)


def script(opening: str, launches: Sequence[Launch], *, needs: Sequence[str] = ()) -> str:
    """A bash script; ``needs`` are variables that must be set (addresses of hosts)."""
    parts = ["#!/usr/bin/env bash\n", opening, "set -euo pipefail\n"]
    parts += [f': "${{{name}:?set it to the address of that host}}"\n' for name in needs]
    if len(launches) == 1:
        parts.append("\n" + command(launches[0]) + "\n")
    else:
        parts.append("trap 'jobs -p | xargs -r kill' EXIT\n")
        parts += ["\n" + command(launch) + " &\n" for launch in launches]
        parts.append("\nwait -n\n")
    return "".join(parts)
