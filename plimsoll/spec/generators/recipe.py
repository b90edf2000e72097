"""A workload as a description: arrivals, lengths and sharing, from which requests are drawn.

A recipe is plain data (YAML) and the same recipe, seed and size give the same bytes. Arrivals,
lengths and sharing use streams of their own, so changing one leaves the others as they were.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.arrivals import Arrivals, ClosedLoop, WindowArrivals
from plimsoll.spec.generators.lengths import Lengths, draw_lengths
from plimsoll.spec.generators.sessions import (
    Conversations,
    Independent,
    MeasuredReuse,
    Sharing,
    reuse_columns,
)
from plimsoll.spec.io import PLAIN
from plimsoll.spec.workload import Workload

__all__ = ["Recipe", "generate"]

MAX_REQUESTS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make a workload; ``num_requests`` is its size where the caller names none."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    name: str
    description: str = ""
    num_requests: Annotated[int, Field(ge=1, le=MAX_REQUESTS)]
    arrivals: Arrivals
    lengths: Lengths
    sharing: Sharing = field(default_factory=Independent)
    measured: dict[str, float] = field(default_factory=dict)
    """Statistics of the trace this describes, for the reader and the tests; not used to draw."""


def generate(
    recipe: Recipe,
    *,
    seed: int = 0,
    num_requests: int = 0,
    rate_per_s: float | None = None,
    duration_s: float | None = None,
    num_in_flight: int = 0,
) -> Workload:
    """Requests drawn from a recipe.

    ``rate_per_s`` rescales time to that mean rate (of session starts for conversations), bursts
    keep their shape; measured windows are scaled to have that rate over the requests made.
    ``num_requests`` or ``duration_s`` sets the size, else the recipe's own.
    ``num_in_flight`` above 0 makes it a closed loop of that many clients.

    Raises:
        SpecError: a size or rate that means nothing for this recipe.
    """
    arrivals = recipe.arrivals
    where = f"workload {recipe.name}"
    if num_requests < 0 or num_requests > MAX_REQUESTS:
        raise SpecError(f"{where}: num_requests = {num_requests:,}; at most {MAX_REQUESTS:,}")
    if num_in_flight < 0:
        raise SpecError(f"{where}: num_in_flight = {num_in_flight} must be zero or more")
    if num_requests and duration_s is not None:
        raise SpecError(f"{where}: give num_requests or duration_s, not both")
    timeless = bool(num_in_flight) or arrivals.mean_rate_per_s == 0
    if timeless and (rate_per_s is not None or duration_s is not None):
        raise SpecError(
            f"{where}: a closed loop, or work that is all there at the start, has no rate and no "
            "duration; leave out both (--rate, --duration), or choose an open-loop workload"
        )
    stretch = 1.0
    if rate_per_s is not None:
        if not 0 < rate_per_s < np.inf:
            raise SpecError(f"{where}: rate_per_s = {rate_per_s} must be above zero")
        stretch = arrivals.mean_rate_per_s / rate_per_s
    size = num_requests or recipe.num_requests
    if duration_s is not None:
        if not 0 < duration_s < np.inf:
            raise SpecError(f"{where}: duration_s = {duration_s} must be above zero")
        size = int(1.1 * duration_s * arrivals.mean_rate_per_s / stretch) + 64
        if size > MAX_REQUESTS:
            raise SpecError(
                f"{where}: {duration_s:g} s hold about {size:,} requests; at most {MAX_REQUESTS:,}"
            )
    columns = _columns(recipe, size, stretch, seed)
    while duration_s is not None and columns["arrival_s"][-1] < duration_s:
        size *= 2
        columns = _columns(recipe, size, stretch, seed)
    if duration_s is not None:
        keep = int(np.searchsorted(columns["arrival_s"], duration_s))
        if keep == 0:
            raise SpecError(f"{where}: no request arrives within {duration_s:g} s")
        columns = _first_rows(columns, keep)
    span_s = columns["arrival_s"][-1] - columns["arrival_s"][0]
    measured = isinstance(arrivals, WindowArrivals) and duration_s is None
    if measured and rate_per_s is not None and span_s > 0:
        # The first windows need not be average ones: the rows asked for have the rate asked for.
        columns["arrival_s"] *= (size - 1) / span_s / rate_per_s
    if timeless:
        columns["arrival_s"] = np.zeros(len(columns["arrival_s"]))
        if isinstance(arrivals, ClosedLoop):
            num_in_flight = num_in_flight or arrivals.num_in_flight
            if arrivals.think_s and "think_s" not in columns:
                columns["think_s"] = np.full(len(columns["arrival_s"]), arrivals.think_s)
    sharing = recipe.sharing
    source = dict.fromkeys(s for s in (recipe.lengths.source, arrivals.source, sharing.source) if s)
    return Workload(
        name=recipe.name,
        num_in_flight=num_in_flight,
        prefix_block_tokens=0 if isinstance(sharing, Independent) else sharing.block_tokens,
        sessions_wait=isinstance(sharing, Conversations),
        source="; ".join(source),
        notes=(f"drawn from statistics, seed {seed}",),
        **columns,
    )


def _first_rows(columns: dict[str, Any], n: int) -> dict[str, Any]:
    cut = {name: values[:n] for name, values in columns.items()}
    if "prefix_start" in columns:
        cut["prefix_start"] = columns["prefix_start"][: n + 1]
        cut["prefix_keys"] = columns["prefix_keys"][: cut["prefix_start"][-1]]
    return cut


def _columns(recipe: Recipe, n: int, stretch: float, seed: int) -> dict[str, Any]:
    """The columns of the first ``n`` requests in order of arrival."""
    sharing = recipe.sharing
    if isinstance(sharing, Conversations):
        # Enough sessions that the first n turns come before the last session starts, so that
        # late turns are not missing; the rows are then cut to the first n by time.
        sessions = int(1.1 * n / sharing.mean_turns) + 16
        while True:
            turns = sharing.turns(sessions, seed)
            rows = int(turns.sum())
            new, output = draw_lengths(recipe.lengths, rows, seed=seed)
            start_s = recipe.arrivals.sample(sessions, seed) * stretch
            columns: dict[str, Any] = sharing.columns(start_s, turns, new, output, seed)
            times_s = columns["arrival_s"]
            endless = recipe.arrivals.mean_rate_per_s == 0
            if len(times_s) >= n and (endless or times_s[n - 1] <= start_s[-1]):
                return _first_rows(columns, n)
            if len(times_s) == 0 or sessions > 8 * n + 1000:
                raise SpecError(
                    f"workload {recipe.name}: max_context_tokens = {sharing.max_context_tokens:,} "
                    "leaves too few turns; raise it or shorten the prompts"
                )
            sessions *= 2
    prompt, output = draw_lengths(recipe.lengths, n, seed=seed)
    arrival_s = recipe.arrivals.sample(n, seed) * stretch
    columns = {"arrival_s": arrival_s, "prompt_tokens": prompt, "output_tokens": output}
    if isinstance(sharing, MeasuredReuse):
        columns.update(reuse_columns(sharing, arrival_s, prompt, seed=seed))
    return columns
