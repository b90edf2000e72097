"""Commands that answers propose, with the user's own names, quoted for a shell."""

import math
import os
import shlex
from pathlib import Path

from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.spec.slo import Slo

__all__ = ["command", "rounded_down", "slo_words", "workload_words"]


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


def rounded_down(value: float) -> float:
    """Two digits, never more than ``value``: a rate to try after one that was found."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / step) * step:.2g}")


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
