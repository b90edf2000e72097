"""Write the pinned list of verbs and options: run it when one changes on purpose.

    python scripts/pin_command_line.py

One line an option: the verb, its flags, and "flag" where it takes no value.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

PINNED = Path(__file__).resolve().parents[1] / "tests" / "cli" / "command_line.txt"


def verbs() -> Iterator[tuple[str, Any]]:
    """Every verb with the command behind it, groups walked; the root is ""."""
    from typer.main import get_command

    from plimsoll.cli.main import app

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for part, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {part}".strip(), inner)

    yield from walk("", get_command(app))


def command_line() -> list[str]:
    """The surface of the command line, a line an argument or option."""
    lines = []
    for name, command in verbs():
        shown = f"plimsoll {name}".strip()
        lines.append(shown)
        for parameter in command.params:
            kind = " flag" if getattr(parameter, "is_flag", False) else ""
            words = parameter.opts if parameter.param_type_name == "option" else [parameter.name]
            required = " required" if parameter.required else ""
            lines.append(f"{shown}: {' '.join(words)}{kind}{required}")
    return lines


if __name__ == "__main__":
    PINNED.write_text("\n".join(command_line()) + "\n", encoding="utf-8")
    print(PINNED)
