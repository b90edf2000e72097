"""BurstGPT traces: Timestamp, [Session ID], [Elapsed time], Model, tokens, Log Type.

Both schemas are read. Response tokens of 0 mark a failed request: dropped and counted, or kept
as a request of one token that its client gives up at once. Timestamps are whole seconds, so
ties are spread inside their second with a seeded draw. Rows out of order are sorted and counted
in the notes. Elapsed time is the full response time, not the time to first token; unused here.
Source: arXiv 2401.17644, github HPMLL/BurstGPT.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.traces.columns import numbers, tokens
from plimsoll.spec.traces.rows import RowSink
from plimsoll.spec.traces.source import IN_ANY_ORDER, Slice, open_trace
from plimsoll.spec.traces.tables import Table
from plimsoll.spec.workload import Workload

__all__ = ["BURSTGPT_COLUMNS", "load_burstgpt"]

BURSTGPT_COLUMNS = (
    "Timestamp",
    "Model",
    "Request tokens",
    "Response tokens",
    "Total tokens",
    "Log Type",
)
_EXPECTED = f"the BurstGPT header {','.join(BURSTGPT_COLUMNS)}"


def load_burstgpt(
    path: Path,
    *,
    part: Slice = IN_ANY_ORDER,
    failures: Literal["drop", "cancel"] = "drop",
    model: str = "",
    seed: int = 0,
) -> Workload:
    """A BurstGPT file; classes are the log types, sessions the Session IDs where given.

    ``model`` keeps the rows of one model ("ChatGPT", "GPT-4"); "" keeps all. ``failures``
    "cancel" keeps failed requests with one output token and a client that gives up at once.
    """
    sink = RowSink(path, part)
    log_types: dict[str, int] = {}
    sessions: dict[str, int] = {}
    unnamed = 0
    seen_models: set[str] = set()
    with open_trace(path, part) as lines:
        table = Table(path, lines)
        at = {name: table.index(name, expected=_EXPECTED) for name in BURSTGPT_COLUMNS}
        session_at = table.header.index("Session ID") if "Session ID" in table.header else -1
        for line, cells in table.chunks():
            time_s = numbers(cells[at["Timestamp"]], path=path, column="Timestamp", first_line=line)
            prompt, output, _ = (
                tokens(cells[at[name]], path=path, column=name, first_line=line)
                for name in ("Request tokens", "Response tokens", "Total tokens")
            )
            failed = output == 0
            extra: dict[str, np.ndarray[tuple[int], np.dtype[Any]]] = {}
            wanted = None
            if failures == "cancel":
                extra["cancel_after_s"] = np.where(failed, 0.0, np.inf)
                output = np.where(failed, 1, output)
            kinds = cells[at["Log Type"]]
            for kind in dict.fromkeys(kinds):
                log_types.setdefault(kind.strip() or "unnamed", len(log_types))
            index = {kind: log_types[kind.strip() or "unnamed"] for kind in set(kinds)}
            extra["class_index"] = np.array([index[kind] for kind in kinds], dtype=np.int64)
            if session_at >= 0:
                # A blank id is a request of its own; numbers below zero until all are known.
                ids = np.empty(len(kinds), dtype=np.int64)
                for i, text in enumerate(cells[session_at]):
                    if text and not text.isspace():
                        ids[i] = sessions.setdefault(text, len(sessions))
                    else:
                        unnamed += 1
                        ids[i] = -unnamed
                extra["session_id"] = ids
            if model:
                names = cells[at["Model"]]
                seen_models.update(names)
                wanted = np.array([name == model for name in names], dtype=bool)
            if not sink.add(
                line, time_s, wanted=wanted, prompt_tokens=prompt, output_tokens=output, **extra
            ):
                break
    if model:
        if model not in seen_models:
            found = ", ".join(sorted(seen_models)[:5])
            raise SpecError(f"{path}: no request of model {model!r}; the file holds {found}")
        sink.notes.append(f"only requests of model {model}")
    rows = sink.columns()
    if session_at >= 0:
        rows["session_id"] = np.unique(rows["session_id"], return_inverse=True)[1].astype(np.int64)
    rows["arrival_s"] = _spread_ties(rows["arrival_s"], seed=seed, notes=sink.notes)
    return sink.workload(format_name="BurstGPT columns", rows=rows, classes=tuple(log_types))


def _spread_ties(
    arrival_s: np.ndarray[tuple[int], np.dtype[np.float64]], *, seed: int, notes: list[str]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Whole-second stamps moved to an even draw inside their second, still in order."""
    since_first_s = arrival_s - arrival_s[0]
    if len(arrival_s) < 2 or np.any(since_first_s != np.floor(since_first_s)):
        return arrival_s
    ties = int(np.sum(np.diff(arrival_s) == 0))
    if not ties:
        return arrival_s
    notes.append(f"whole-second times: {ties:,} ties spread inside their second (seed {seed})")
    inside_s = stream(seed, "ties inside a second").random(len(arrival_s))
    return np.sort(arrival_s + inside_s)
