"""Traffic sent to a real server at its own times, and what came back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.evals.replay_outcomes import Outcomes
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import seconds_text
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.io import write_text
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

__all__ = ["ReplayAnswer", "replay_workload"]

_SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayAnswer:
    """What the server did with a workload."""

    text: str
    url: str
    workload: Workload
    outcomes: Outcomes

    def report(self) -> Report:
        """See ``Answer``."""
        o = self.outcomes
        finished, cancelled, failed = (int(np.sum(o.status == k)) for k in range(3))
        rows = [
            (name, *(_quantile(values, share) for share in _SHARES), _quantile(values, 1.0))
            for name, values in (
                ("sent after its time", o.late_s),
                ("TTFT, sent to first token", o.ttft_s),
                ("TPOT", o.tpot_s),
            )
        ]
        first = next(iter(o.errors.values()), "")
        span_s = float(np.nanmax(o.finished_s) - np.nanmin(o.sent_s)) if finished else 0.0
        tokens = int(np.sum(o.output_tokens))
        rate = f", {tokens / span_s:,.0f} output tokens/s" if span_s else ""
        return Report(
            title=f"{finished:,} of {len(o.status):,} requests finished, {cancelled:,} cancelled, "
            f"{failed:,} failed{rate}",
            subtitle=f"{self.text} sent to {self.url}; measured by this client",
            command=command("trace", "replay", self.text, "--url", self.url),
            tables=(
                Table(
                    title="Seconds",
                    columns=("", "P50", "P90", "P99", "largest"),
                    rows=tuple(rows),
                ),
            ),
            assumptions=self.workload.notes,
            notes=(f"first failure: {first}",) if first else (),
            next_command=command("trace", "show", self.text),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        o = self.outcomes
        columns = {
            "due_s": o.due_s,
            "sent_s": o.sent_s,
            "first_token_s": o.first_token_s,
            "finished_s": o.finished_s,
            "output_tokens": o.output_tokens,
            "status": o.status,
        }
        return {
            "format_version": 1,
            "url": self.url,
            "requests": {
                name: [None if x != x else x for x in column.tolist()]
                for name, column in columns.items()
            },
            "errors": {str(row): why for row, why in o.errors.items()},
        }


def replay_workload(
    text: str,
    url: str,
    *,
    model: str = "",
    key: str = "",
    rate_per_s: float | None = None,
    num_requests: int = 0,
    num_in_flight: int = 0,
    vocab_size: int = 256,
    seed: int = 0,
    out: Path | None = None,
) -> ReplayAnswer:
    """Send any workload to the server at ``url``; write every row to ``out`` as JSON if given.

    Raises:
        SpecError: no such workload, or an address that is none.
        UnsupportedError: httpx is not installed.
        ExecutionError: no server answers there.
    """
    import json

    if not url.startswith(("http://", "https://")):
        raise SpecError(f"--url {url}: expected an address such as http://127.0.0.1:8000")
    try:
        from plimsoll.evals.http_replay import replay_http
    except ImportError as error:
        raise UnsupportedError(
            f"trace replay needs {error.name}; install plimsoll[server]"
        ) from None
    workload = load_workload(
        text,
        seed=seed,
        rate_per_s=rate_per_s,
        num_requests=num_requests,
        num_in_flight=num_in_flight,
    )
    outcomes = replay_http(workload, url, model=model, key=key, vocab_size=vocab_size, seed=seed)
    answer = ReplayAnswer(text=text, url=url, workload=workload, outcomes=outcomes)
    if out is not None:
        write_text(json.dumps(answer.data()) + "\n", out)
    return answer


def _quantile(values: Any, share: float) -> str:
    known = values[np.isfinite(values)]
    return seconds_text(float(np.quantile(known, share))) if len(known) else "-"
