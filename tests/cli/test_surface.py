"""Verbs and options change on purpose; help and start-up stay light."""

import subprocess
import sys

import pytest

from scripts.pin_command_line import PINNED, command_line, verbs
from tests.command_line import environment, plimsoll

NAMES = [name for name, _ in verbs()]
EVERYWHERE = ("json", "quiet", "report", "figures")
HEAVY = ("numpy", "scipy", "plotly", "matplotlib", "torch", "polars", "ray")


def test_verbs_and_options_are_the_pinned_ones() -> None:
    pinned = PINNED.read_text(encoding="utf-8").splitlines()
    assert command_line() == pinned, "if this is meant, run python scripts/pin_command_line.py"


def test_no_verb_has_too_many_options() -> None:
    for name, command in verbs():
        options = [p for p in command.params if p.param_type_name == "option"]
        own = [p for p in options if p.name not in EVERYWHERE and not p.required]
        assert len(own) <= 12, name


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    done = plimsoll(*name.split(), "--help")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("Usage: ")
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert "..." not in done.out.partition("Commands:")[2], "a short help is cut off"


def test_every_option_is_explained() -> None:
    for name, command in verbs():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", ""), f"{name}: {parameter.name}"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, plimsoll.cli.main as m; from typer.main import get_command; "
        "get_command(m.app); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
