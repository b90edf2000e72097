"""Commands that answers propose, with the user's own names, quoted for a shell."""

import os
import shlex
from pathlib import Path

from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.spec.slo import Slo

__all__ = ["command", "slo_words", "workload_words"]


def command(*words: str) -> str:
    """``plimsoll`` and its words as a shell reads them."""
    return shlex.join(("plimsoll", *words))


def workload_words(workload: WorkloadSpec, *, drawn: bool = True) -> tuple[str, ...]:
    """The options that name a workload; ``drawn`` adds those of ``simulate`` alone."""
    words = ["--workload", _short(workload.text)]
    if workload.rate_per_s is not None:
        words += ["--rate", f"{workload.rate_per_s:.12g}req/s"]
    if drawn and workload.num_requests:
        words += ["--requests", str(workload.num_requests)]
    if drawn and workload.num_in_flight:
        words += ["--in-flight", str(workload.num_in_flight)]
    return tuple(words)


def slo_words(slo: Slo) -> tuple[str, ...]:
    """The options that state a promise."""
    words: list[str] = []
    for target in slo.targets:
        value = target.bound_s
        bound = f"{value:.12g}s" if value >= 1 else f"{value * 1e3:.12g}ms"
        plain_p99 = target.percentile == 99 and not target.request_class
        if plain_p99 and target.metric in ("ttft", "tpot"):
            words += [f"--{target.metric}-p99", bound]
            continue
        group = f"@{target.request_class}" if target.request_class else ""
        words += ["--slo", f"{target.metric}:p{target.percentile:.12g}{group}={bound}"]
    return tuple(words)


def _short(text: str) -> str:
    """A file below the current folder by its relative name."""
    path = Path(text)
    if not path.is_absolute():
        return text
    near = os.path.relpath(path)
    return near if len(near) < len(text) else text
