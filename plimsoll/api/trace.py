"""Traffic as files: what a trace looks like, a model fitted to it, workloads drawn and saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import count_text, percent_text, plain_text, rate_text, seconds_text
from plimsoll.spec.burst import BurstModel
from plimsoll.spec.burst import fit as fit_burst
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import plain, write
from plimsoll.spec.origin import Origin
from plimsoll.spec.statistics import statistics_of
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload, save_workload

__all__ = ["BurstAnswer", "TrafficAnswer", "fit_trace", "make_workload", "show_workload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficAnswer:
    """A workload in numbers; ``saved`` is the file it was written to, "" if none."""

    text: str
    workload: Workload
    statistics: dict[str, float]
    origin: Origin
    saved: str = ""

    def report(self) -> Report:
        """See ``Answer``."""
        w, s = self.workload, self.statistics
        title = f"{len(w):,} requests"
        if w.num_in_flight:
            title += f" in a closed loop of {w.num_in_flight:,}"
        elif s["rate_per_s"]:
            title += f" in {seconds_text(s['span_s'])}, {rate_text(s['rate_per_s'], 'req/s')}"
        else:
            title += ", all at once"
        title = f"Saved {self.saved}: {title}" if self.saved else f"{w.name}: {title}"
        shown = self.saved or self.text
        how = "counted in the file" if self.origin is Origin.MEASURED else "counted in the draw"
        fits = self.origin is Origin.MEASURED and bool(s["rate_per_s"])
        return Report(
            title=title,
            subtitle=f"{how}; {self.origin.value}",
            command=command("trace", "show", shown),
            tables=(_lengths_table(s), _habits_table(w, s)),
            assumptions=w.notes,
            next_command=command("trace", "fit", shown, "--out", "burst-model.yaml")
            if fits and not self.saved
            else command("plan", "llama-3.1-70b", "--on", "8xH100-SXM", "--workload", shown),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "name": self.workload.name,
            "source": self.workload.source,
            "origin": self.origin.value,
            "saved": self.saved,
            "statistics": self.statistics,
            "num_in_flight": self.workload.num_in_flight,
            "classes": _class_counts(self.workload),
            "sessions": _sessions(self.workload),
            "cancelled": _cancelled(self.workload),
            "notes": list(self.workload.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstAnswer:
    """A burst model and how well it describes the trace it was fitted to."""

    text: str
    workload: Workload
    model: BurstModel
    saved: str = ""

    def report(self) -> Report:
        """See ``Answer``."""
        m = self.model
        alphas = sorted(window.alpha for window in m.windows)
        rates = sorted(window.rate_per_s for window in m.windows)
        rows = [
            ("windows", f"{len(m.windows):,} of {seconds_text(m.window_s)}"),
            ("rate", f"{_range(rates)} req/s, mean {plain_text(m.rate_per_s)} req/s"),
            ("Gamma shape of gaps", f"{_range(alphas)}, CV {_cvs(alphas)}"),
            ("distance of gaps (KS)", f"{m.gap_ks:.3f}"),
            (
                "drift in windows",
                f"CV {m.drift.cv:.2g} in steps of {seconds_text(m.drift.step_s)}"
                if m.drift.cv
                else "none",
            ),
            (
                "pauses",
                f"{percent_text(m.idle.share)} of gaps, {plain_text(m.idle.mean_gaps)} times the "
                "mean gap"
                if m.idle.share
                else "none",
            ),
            ("failures", percent_text(m.failures.share) if m.failures.share else "none"),
            ("sessions", "yes" if m.sessions is not None else "none"),
        ]
        for kind in m.kinds:
            name = f" of {kind.name}" if kind.name else ""
            rows.append((f"prompts{name}", kind.lengths.prompt.kind))
            rows.append((f"outputs{name}", kind.lengths.output.kind))
            rows.append((f"rank correlation{name}", f"{kind.lengths.rank_correlation:.2f}"))
        next_command = (
            command("trace", "make", self.saved, "--out", "drawn.jsonl")
            if self.saved
            else command("trace", "fit", self.text, "--out", "burst-model.yaml")
        )
        return Report(
            title=f"Burst model of {self.workload.name}, {len(self.workload):,} requests"
            + (f", in {self.saved}" if self.saved else ""),
            subtitle=f"fitted window by window; {Origin.CALIBRATED.value}",
            command=command("trace", "fit", self.text),
            tables=(Table(title="Fitted", columns=("", "value"), rows=tuple(rows)),),
            assumptions=self.workload.notes,
            notes=()
            if self.saved
            else ("nothing was written; add --out burst-model.yaml to keep the model",),
            next_command=next_command,
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "origin": Origin.CALIBRATED.value,
            "saved": self.saved,
            "requests": len(self.workload),
            "model": plain(self.model),
            "notes": list(self.workload.notes),
        }


def show_workload(text: str, *, seed: int = 0) -> TrafficAnswer:
    """Statistics of any trace, saved workload, bundled name, recipe or burst model."""
    return _answer(text, load_workload(text, seed=seed))


def make_workload(
    text: str,
    out: Path,
    *,
    seed: int = 0,
    rate_per_s: float | None = None,
    num_requests: int = 0,
    duration_s: float | None = None,
    num_in_flight: int = 0,
    start_s: float = 0.0,
    end_s: float = float("inf"),
    max_requests: int = 0,
    sort: bool = False,
) -> TrafficAnswer:
    """Draw (or cut and rescale) a workload and save it as .npz or .jsonl.

    ``start_s``, ``end_s``, ``max_requests`` and ``sort`` act while a trace is read.

    Raises:
        SpecError: no such source, or an option that means nothing for it.
    """
    if out.suffix not in (".npz", ".jsonl"):
        raise SpecError(f"{out}: a workload is saved as .npz or .jsonl; choose one of them")
    workload = load_workload(
        text,
        seed=seed,
        rate_per_s=rate_per_s,
        num_requests=num_requests,
        duration_s=duration_s,
        num_in_flight=num_in_flight,
        start_s=start_s,
        end_s=end_s,
        max_requests=max_requests,
        sort=sort,
    )
    save_workload(workload, out)
    return _answer(text, workload, saved=str(out))


def fit_trace(text: str, *, window_s: float = 1200.0, out: Path | None = None) -> BurstAnswer:
    """Fit a burst model to a trace; write it as YAML if ``out`` is given.

    Raises:
        SpecError: a closed loop, too few requests, or a file that cannot be written.
    """
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise SpecError(f"{out}: a burst model is written as .yaml")
    workload = load_workload(text)
    model = fit_burst(workload, window_s=window_s)
    if out is not None:
        write(model, out)
    return BurstAnswer(text=text, workload=workload, model=model, saved=str(out) if out else "")


def _answer(text: str, workload: Workload, *, saved: str = "") -> TrafficAnswer:
    drawn = any(note.startswith("drawn from") for note in workload.notes)
    return TrafficAnswer(
        text=text,
        workload=workload,
        statistics=statistics_of(workload),
        origin=Origin.MODELED if drawn else Origin.MEASURED,
        saved=saved,
    )


def _lengths_table(s: dict[str, float]) -> Table:
    return Table(
        title="Lengths, tokens",
        columns=("", "mean", "P50", "P90", "P99"),
        rows=tuple(
            (
                name,
                plain_text(s[f"{key}_mean"]),
                *(count_text(s[f"{key}_p{p}"]) for p in (50, 90, 99)),
            )
            for name, key in (("prompt", "prompt_tokens"), ("output", "output_tokens"))
        ),
    )


def _habits_table(w: Workload, s: dict[str, float]) -> Table:
    rows = [("rank correlation of lengths", f"{s['length_rank_correlation']:.2f}")]
    if s["rate_per_s"]:
        rows = [
            ("arrival rate", rate_text(s["rate_per_s"], "req/s")),
            ("CV of gaps", f"{s['gap_cv']:.2f}"),
            *rows,
        ]
    if "reused_block_fraction" in s:
        rows.append(("prompt blocks seen before", percent_text(s["reused_block_fraction"])))
    rows += [(f"requests of {name}", f"{count:,}") for name, count in _class_counts(w).items()]
    if _sessions(w):
        rows.append(("sessions", f"{_sessions(w):,}"))
    if _cancelled(w):
        rows.append(("cancelled or failed", percent_text(_cancelled(w) / len(w))))
    return Table(title="Habits", columns=("", "value"), rows=tuple(rows))


def _class_counts(w: Workload) -> dict[str, int]:
    if not len(w.class_index):
        return {}
    return {name: int((w.class_index == k).sum()) for k, name in enumerate(w.classes)}


def _sessions(w: Workload) -> int:
    return len(set(w.session_id.tolist()))


def _cancelled(w: Workload) -> int:
    return int((w.cancel_after_s < float("inf")).sum())


def _range(values: list[float]) -> str:
    low, high = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return low if low == high else f"{low} to {high}"


def _cvs(alphas: list[float]) -> str:
    low, high = f"{alphas[-1] ** -0.5:.2f}", f"{alphas[0] ** -0.5:.2f}"
    return low if low == high else f"{low} to {high}"
