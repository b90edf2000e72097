"""Any workload from the text a user writes: a name, a file, or lengths as spoken.

chat                     a bundled workload: statistics of a measured trace
trace.csv, run.jsonl     a trace or benchmark report in any known format, or a saved workload
mine.yaml                a recipe (arrivals, lengths, sharing) or a fitted burst model
4000/500                 prompt/output tokens, constant
4000/500~0.8             the same, even between 0.8 and 1 times the stated lengths
"""

import functools
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.generators import (
    ConstantLength,
    Length,
    Lengths,
    PoissonArrivals,
    Recipe,
    UniformLength,
    generate,
)
from plimsoll.spec.io import read, read_data
from plimsoll.spec.saved_workloads import SAVED_KEY, load_saved, save_workload
from plimsoll.spec.traces import Slice, load_trace
from plimsoll.spec.traces.source import WHOLE, open_trace
from plimsoll.spec.transforms import poisson, slice_time, take, with_rate
from plimsoll.spec.units import parse_count
from plimsoll.spec.workload import Workload

__all__ = ["bundled_recipe", "bundled_workloads", "load_workload", "save_workload"]

_SPOKEN = re.compile(r"^\s*([\d_.]+[kKM]?)\s*/\s*([\d_.]+[kKM]?)\s*(?:~\s*([\d.]+))?\s*$")
_SPOKEN_REQUESTS = 1000
_SPOKEN_RATE_PER_S = 1.0
_FOR_TRACES = (
    "start_s, end_s, max_requests and sort are for traces; it is drawn from statistics, so use "
    "num_requests or duration_s"
)


@functools.cache
def bundled_workloads() -> tuple[str, ...]:
    """Names of the workloads that come with the package."""
    folder = files("plimsoll.library") / "workloads"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


@functools.cache
def bundled_recipe(name: str) -> Recipe:
    """The recipe of a bundled workload."""
    if name not in bundled_workloads():
        raise SpecError(
            f"{name!r} is no bundled workload; there are {', '.join(bundled_workloads())}."
            + suggest(name, bundled_workloads())
        )
    return read(Recipe, Path(str(files("plimsoll.library") / "workloads" / f"{name}.yaml")))


def _spoken(text: str) -> Recipe | None:
    match = _SPOKEN.match(text)
    if match is None:
        return None
    where = f"workload {text!r}"
    prompt, output = (parse_count(match.group(k), where=where) for k in (1, 2))
    if min(prompt, output) < 1:
        raise SpecError(f"{where}: both lengths must be at least 1 token")
    lengths: list[Length] = []
    if match.group(3) is None:
        lengths = [ConstantLength(tokens=prompt), ConstantLength(tokens=output)]
    else:
        try:
            low = float(match.group(3))
        except ValueError:
            low = -1.0
        if not 0 < low <= 1:
            raise SpecError(f"{where}: the part after ~ must be above 0 and at most 1, as in ~0.8")
        lengths = [UniformLength(low=max(round(low * k), 1), high=k) for k in (prompt, output)]
    return Recipe(
        name=text.strip(),
        num_requests=_SPOKEN_REQUESTS,
        arrivals=PoissonArrivals(rate_per_s=_SPOKEN_RATE_PER_S),
        lengths=Lengths(prompt=lengths[0], output=lengths[1], source="stated by the user"),
    )


def load_workload(
    text: str,
    *,
    seed: int = 0,
    num_requests: int = 0,
    rate_per_s: float | None = None,
    duration_s: float | None = None,
    num_in_flight: int = 0,
    start_s: float = 0.0,
    end_s: float = float("inf"),
    max_requests: int = 0,
    sort: bool = False,
) -> Workload:
    """The workload that ``text`` names, see the module header.

    A trace is cut to [start_s, end_s) and ``max_requests`` while it is read, then to exactly
    ``num_requests``, then brought to ``rate_per_s``, then cut to ``duration_s``.
    ``num_in_flight`` above 0 makes a closed loop of it. ``sort`` accepts rows out of order.

    Raises:
        SpecError: no such workload (with the nearest names), a bad file (with the line), or an
            option that means nothing for this workload.
    """
    options: dict[str, Any] = {
        "seed": seed,
        "num_requests": num_requests,
        "rate_per_s": rate_per_s,
        "duration_s": duration_s,
        "num_in_flight": num_in_flight,
    }
    part = Slice(start_s=start_s, end_s=end_s, max_requests=max_requests, sort=sort)
    spoken = _spoken(text)
    path = Path(text)
    recipe = spoken
    if spoken is None and text in bundled_workloads():
        recipe = bundled_recipe(text)
    elif spoken is None and path.suffix in (".yaml", ".yml"):
        if _is_burst_model(path):
            if part != WHOLE:
                raise SpecError(f"workload {text}: {_FOR_TRACES}")
            return _from_burst_model(path, options)
        recipe = read(Recipe, path)
    if recipe is not None:
        if part != WHOLE:
            raise SpecError(f"workload {text}: {_FOR_TRACES}")
        made = generate(recipe, **options)
        if spoken is not None and rate_per_s is None and not num_in_flight:
            assumed = f"assumed: Poisson arrivals at {_SPOKEN_RATE_PER_S:g} request/s"
            made = made.with_changes(notes=(*made.notes, assumed))
        return made
    return _from_file(text, path, part, options)


def _is_burst_model(path: Path) -> bool:
    data = read_data(path)
    return isinstance(data, dict) and "windows" in data


def _from_burst_model(path: Path, options: dict[str, Any]) -> Workload:
    from plimsoll.spec.burst import BurstModel

    model = read(BurstModel, path)
    num_requests, duration_s = options["num_requests"], options["duration_s"]
    rate_per_s = options["rate_per_s"]
    if num_requests < 0 or options["num_in_flight"]:
        raise SpecError(
            f"{path}: a burst model has arrival times of its own; num_requests = {num_requests} "
            f"and num_in_flight = {options['num_in_flight']} must be zero or more, and zero"
        )
    if num_requests and duration_s is not None:
        raise SpecError(f"{path}: give num_requests or duration_s, not both")
    if not num_requests:
        return model.sample(options["seed"], rate_per_s=rate_per_s, duration_s=duration_s)
    span_s = max(1.25 * num_requests / (rate_per_s or model.rate_per_s), 1e-9)
    while True:
        made = model.sample(options["seed"], rate_per_s=rate_per_s, duration_s=span_s)
        if len(made) >= num_requests:
            return take(made, num_requests)
        span_s *= 2


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _from_file(text: str, path: Path, part: Slice, options: dict[str, Any]) -> Workload:
    if not _exists(path):
        if path.suffix or "/" in text:
            raise SpecError(f"{text}: no such file")
        raise SpecError(
            f"{text!r} is neither a file, a bundled workload ({', '.join(bundled_workloads())}) "
            f"nor lengths like 4000/500.{suggest(text, bundled_workloads())}"
        )
    if _is_saved(path):
        workload = load_saved(path)
        if part.start_s or part.end_s != float("inf"):
            workload = slice_time(workload, part.start_s, part.end_s)
        if part.max_requests:
            workload = take(workload, min(part.max_requests, len(workload)))
    else:
        workload = load_trace(path, part=part, seed=options["seed"])
    num_requests, duration_s = options["num_requests"], options["duration_s"]
    if num_requests < 0 or options["num_in_flight"] < 0:
        raise SpecError(f"{text}: num_requests and num_in_flight must be zero or more")
    if num_requests and duration_s is not None:
        raise SpecError(f"{text}: give num_requests or duration_s, not both")
    if options["num_in_flight"]:
        if options["rate_per_s"] is not None or duration_s is not None:
            raise SpecError(
                f"{text}: a closed loop has no rate and no duration; leave out both "
                "(--rate, --duration), or the number in flight (--in-flight)"
            )
        workload = workload.with_changes(num_in_flight=options["num_in_flight"])
    if num_requests:
        workload = take(workload, num_requests)
    rate_per_s = options["rate_per_s"]
    if rate_per_s is not None and workload.rate_per_s == 0 and 0 < rate_per_s < float("inf"):
        workload = poisson(workload, rate_per_s, seed=options["seed"])
    elif rate_per_s is not None:
        workload = with_rate(workload, rate_per_s)
    if duration_s is not None:
        if not 0 < duration_s <= workload.duration_s:
            raise SpecError(
                f"{text}: spans {workload.duration_s:g} s at this rate; duration_s = "
                f"{duration_s:g} must be above zero and no longer"
            )
        workload = slice_time(workload, 0.0, duration_s)
    return workload


def _is_saved(path: Path) -> bool:
    if path.suffix == ".npz":
        return True
    if path.suffix != ".jsonl":
        return False
    with open_trace(path, Slice(max_requests=1)) as lines:
        return f'"{SAVED_KEY}"' in next(lines, "")[:200]
