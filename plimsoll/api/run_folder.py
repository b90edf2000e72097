"""A run as a folder that repeats itself: plan, workload, seed, versions, results.

    run.json      what was asked; `plimsoll simulate run.json` repeats it bit for bit
    plan.yaml     the plan
    record.npz    every request and step, with meta.json beside it
    summary.json  what it amounted to

A folder holds one run. It is claimed by creating ``run.json`` exclusively, so two runs that
name the same folder cannot mix.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import PLAIN, plain, read, write, write_text
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.record import RunRecord
from plimsoll.spec.summary import Summary

__all__ = [
    "RunSpec",
    "WorkloadSpec",
    "claimed",
    "digest",
    "is_run",
    "load_record",
    "read_run",
    "save_run",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """A workload as it was named, with what was changed; ``sha256`` of a file's content."""

    __pydantic_config__: ClassVar = PLAIN
    text: str
    rate_per_s: float | None = None
    num_requests: int = 0
    num_in_flight: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that decides a simulated run."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    kind: Literal["simulated-run"] = "simulated-run"
    plan: ServingPlan
    workload: WorkloadSpec
    seed: int = 0
    plimsoll: str = ""
    notes: tuple[str, ...] = field(default=())


def digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    return found.hexdigest()


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run folder or its run.json."""
    return (path / "run.json").is_file() or path.name == "run.json"


def read_run(path: Path) -> RunSpec:
    """The run a folder or its run.json describes; the workload file must be unchanged."""
    run = read(RunSpec, path / "run.json" if path.is_dir() else path)
    if run.workload.sha256:
        source = Path(run.workload.text)
        if not source.exists():
            raise SpecError(f"{path}: its workload {source} is not there any more; put it back")
        if digest(source) != run.workload.sha256:
            raise SpecError(
                f"{path}: its workload {source} has changed since; put the old one back"
            )
    return run


@contextmanager
def claimed(folder: Path, run: RunSpec) -> Iterator[Path]:
    """Claim a folder for one run before the work starts; let go of it if the work fails.

    Raises:
        SpecError: the folder holds a run, or cannot be written.
    """
    target = folder / "run.json"
    text = json.dumps(plain(run), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        raise SpecError(f"{folder}: already holds a run; choose another folder") from None
    except OSError as error:
        raise SpecError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        yield folder
    except BaseException:
        for name in ("run.json", "plan.yaml", "record.npz", "meta.json", "summary.json"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def save_run(folder: Path, plan: ServingPlan, record: RunRecord, summary: Summary) -> None:
    """Write the results into a claimed folder."""
    write(plan, folder / "plan.yaml")
    record.save(folder)
    write_text(json.dumps(plain(summary), indent=2) + "\n", folder / "summary.json")


def load_record(folder: Path) -> RunRecord:
    """The record of a finished run."""
    if not (folder / "record.npz").exists():
        raise SpecError(
            f"{folder}: the run did not finish; repeat it with `plimsoll simulate "
            f"{folder / 'run.json'} --out OTHER`"
        )
    return RunRecord.load(folder)
