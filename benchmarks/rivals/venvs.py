"""An environment of its own for each rival, and what a process run in it cost.

Environments lie under one cache folder outside the tree and are made once; the requirement that
each was made for is written beside it, so that a changed one is installed again. Only binary
wheels are taken, so that nothing is compiled. Left out: a lock of the rivals' own dependencies.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "plimsoll-rivals"
REQUIREMENTS = {
    "aiconfigurator": ["aiconfigurator==0.12.0"],
    "aisimulate": ["aisimulate==0.13.0.dev202610270000000085"],
}


class Unavailable(Exception):
    """A rival that cannot be run here; the message is one line: what is missing, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """User and system time of a process and its children, and how long it took."""

    cpu_s: float
    wall_s: float


def last_line(text: str) -> str:
    """The last line that says something, cut to a line's length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "no message"


def run(command: list[str], *, timeout_s: float, **options: Any) -> tuple[str, Cost]:
    """Run to the end; its standard output and its cost.

    Raises:
        Unavailable: it failed or took longer than ``timeout_s``.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= options.pop("env", {})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    name = " ".join(Path(part).name if "/" in part else part for part in command[:3])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            check=False,
            **options,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{name}: not done after {timeout_s:,.0f} s; ask for fewer rows"
        ) from error
    except OSError as error:
        raise Unavailable(f"{name}: {error}") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise Unavailable(f"{name}: {last_line(done.stderr or done.stdout)}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, Cost(cpu_s=cpu_s, wall_s=time.perf_counter() - started_s)


def python_of(cache: Path, name: str, requirements: list[str]) -> Path:
    """The interpreter of a rival's environment, made if it is not there.

    Raises:
        Unavailable: it could not be installed.
    """
    folder = cache / name
    python, made_for = folder / "bin" / "python", folder / "made-for.json"
    if made_for.exists() and json.loads(made_for.read_text()) == requirements:
        return python
    print(f"installing {', '.join(requirements)}", file=sys.stderr)
    try:
        run([sys.executable, "-m", "venv", "--clear", str(folder)], timeout_s=300)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        run([*pip, "--disable-pip-version-check", *requirements], timeout_s=3600)
    except Unavailable as error:
        raise Unavailable(
            f"{name} cannot be installed ({error}); it needs Linux x86-64, Python 3.11 to 3.13 "
            "and a package index"
        ) from error
    made_for.write_text(json.dumps(requirements))
    return python


def ask(
    python: Path, driver: str, verb: str, question: str, *, timeout_s: float = 7200.0
) -> tuple[Any, Cost]:
    """Run a driver of this folder on a question; its answer and its cost."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "question", Path(folder) / "answer.json"
        source.write_text(question)
        command = [str(python), str(HERE / driver), verb, str(source), str(target)]
        _, cost = run(command, timeout_s=timeout_s)
        return json.loads(target.read_text()), cost
