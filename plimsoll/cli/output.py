"""What verbs share on the command line: printing answers, reading options."""

import json as json_module
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, suggest

if TYPE_CHECKING:
    from plimsoll.api.answer import Answer
    from plimsoll.api.run_folder import WorkloadSpec

__all__ = [
    "check_folder",
    "check_writable",
    "dtype_option",
    "emit",
    "jobs_option",
    "show",
    "workload_spec",
]


def emit(answer: "Answer", *, json: bool, html: Path | None, figures: Path | None = None) -> None:
    """Print an answer to stdout; write its page and its pictures if they were asked for."""
    report = None if json and html is None and figures is None else answer.report()
    if figures is not None and report is not None:
        from plimsoll.report.figures import write_figures

        write_figures(report.pictures, figures)
    if html is not None and report is not None:
        from plimsoll.report.html import write_html

        write_html(report, html)
    if json:
        show(json_module.dumps(answer.data(), indent=2, allow_nan=False))
    elif report is not None:
        from plimsoll.report.terminal import make_console, print_report

        with _until_the_reader_leaves():
            print_report(report, make_console())


def show(text: str) -> None:
    """Print a line to stdout."""
    with _until_the_reader_leaves():
        print(text)


@contextmanager
def _until_the_reader_leaves() -> Iterator[None]:
    """A pipe that is closed early, as by ``head``, ends the output and is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dtype_option(text: str | None, where: str) -> DType | None:
    """A number format by name, or None."""
    if text is None:
        return None
    names = [dtype.value for dtype in DType]
    if text.lower() not in names:
        raise SpecError(
            f"{where}: unknown number format {text!r}; expected {', '.join(names)}."
            + suggest(text, names)
        )
    return DType(text.lower())


def jobs_option(jobs: int) -> int:
    """Processes to use: 0 means one a core."""
    if jobs < 0:
        raise SpecError(f"--jobs {jobs}: expected 0 (every core) or more")
    return jobs or os.cpu_count() or 1


def workload_spec(
    text: str, *, rate: str | None = None, requests: int = 0, in_flight: int = 0
) -> "WorkloadSpec":
    """A workload with the options beside it."""
    from plimsoll.api.run_folder import WorkloadSpec
    from plimsoll.spec.units import parse_quantity

    rate_per_s = None
    if rate is not None:
        rate_per_s = parse_quantity(rate, "rate", where="--rate")
        if rate_per_s <= 0:
            raise SpecError(f"--rate {rate}: the rate must be above zero")
    for name, value in (("--requests", requests), ("--in-flight", in_flight)):
        if value < 0:
            raise SpecError(f"{name} {value}: expected zero or more")
    return WorkloadSpec(
        text=text, rate_per_s=rate_per_s, num_requests=requests, num_in_flight=in_flight
    )


def check_writable(path: Path | None) -> None:
    """Refuse early a file that could not be written after minutes of work."""
    if path is None:
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir():
        raise SpecError(f"{path}: is a folder; name a file")
    if not folder.is_dir():
        raise SpecError(f"{path}: cannot be written: {folder} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None


def check_folder(path: Path | None) -> None:
    """Refuse early a folder that could not be written into."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise SpecError(f"{path}: is a file; name a folder")
    check_writable(path / "figure.svg")
