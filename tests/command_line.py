"""Runs the command line for tests: in this process, or as a process of its own."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from plimsoll.cli.main import run

ROOT = Path(__file__).resolve().parents[1]
START = [sys.executable, "-c", "from plimsoll.cli.main import run; run()"]
PLAN = """\
format_version: 1
kind: serving
model: llama-3.1-8b
fleet: 2xH100-SXM
pools:
- {device: H100-SXM, replicas: 2, max_num_seqs: 64}
slo:
  targets:
  - {metric: ttft, percentile: 99.0, bound_s: 2.0}
  - {metric: tpot, percentile: 99.0, bound_s: 0.05}
"""
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def plimsoll(*words: str) -> Done:
    """The command in this process; the current folder is the caller's."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plimsoll", *words])
        patch.delenv("PLIMSOLL_DEBUG", raising=False)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            run()
    code = stop.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that finds the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def spawn(*words: str, folder: Path, **changes: str) -> "subprocess.Popen[str]":
    """The command as a process in ``folder``, in a group of its own."""
    return subprocess.Popen(
        [*START, *words],
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
