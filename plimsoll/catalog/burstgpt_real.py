"""A trace sent to the real server: are its times and its failures kept?"""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import AtMost, Between, Check, Context, Measured
from plimsoll.spec.errors import ExecutionError, UnsupportedError
from plimsoll.spec.workload import Workload

__all__ = ["REAL_CHECKS"]

_REQUESTS = 200
_RATE = 20.0
_START_S = 600.0
_GIVE_UP_SHARE = 0.05
_ADDRESS = re.compile(r"http://[\d.]+:\d+")


def _trace(seed: int, *, in_flight: int = 0) -> Workload:
    """Gamma gaps of CV 2 at 20 requests/s; one request in twenty is given up after 50 ms."""
    rng = np.random.default_rng(seed)
    gaps = rng.gamma(0.25, 4.0 / _RATE, _REQUESTS)
    gives_up = rng.random(_REQUESTS) < _GIVE_UP_SHARE
    gives_up[0] = True
    return Workload(
        name="bursts",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=rng.integers(4, 60, _REQUESTS),
        output_tokens=np.where(gives_up, 400, rng.integers(2, 20, _REQUESTS)),
        cancel_after_s=np.where(gives_up, 0.05, np.inf),
        num_in_flight=in_flight,
    )


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """The address of `plimsoll serve` with the demonstration model."""
    try:
        import fastapi  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch,server]") from None
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        said = Path(place) / "log"  # a pipe that nobody reads would fill and block it
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "plimsoll.cli.main", "serve", "--port", "0"],
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
        try:
            yield _address(process, said)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", said: Path) -> str:
    """What the server says it listens on; it may train its model first."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        found = _ADDRESS.search(said.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[0]
        if process.poll() is not None:
            raise ExecutionError("the server ended before it listened")
        time.sleep(0.1)
    raise ExecutionError("the server did not start in time")


def _replayed(*, in_flight: int) -> Callable[[Context], Measured]:
    """P99 of how late requests were sent. ``in_flight``: clients that wait for answers instead."""

    def compute(context: Context) -> Measured:
        from plimsoll.evals.http_replay import replay_http

        values, shown = [], []
        with _server() as url:
            warm = _trace(97)
            replay_http(replace(warm, arrival_s=warm.arrival_s / 4), url)
            for seed in context.seeds:
                planned = _trace(seed)
                outcomes = replay_http(replace(planned, num_in_flight=in_flight), url)
                late_s = outcomes.sent_s - planned.arrival_s
                values.append(float(np.quantile(np.abs(late_s), 0.99)))
                shown.append(f"{int(np.sum(outcomes.status == 0))} finished")
        detail = f"{_REQUESTS} requests at {_RATE:.0f}/s, gaps of CV 2; {', '.join(shown)}"
        return Measured(value=float(np.median(values)), values=tuple(values), detail=detail)

    return compute


def _kept_events(context: Context) -> Measured:
    """Share of requests that ended as the trace says: given up, or finished whole."""
    from plimsoll.evals.http_replay import replay_http

    values = []
    with _server() as url:
        for seed in context.seeds:
            planned = _trace(seed)
            outcomes = replay_http(planned, url)
            given_up = np.isfinite(planned.cancel_after_s)
            as_planned = np.where(
                given_up,
                outcomes.status == 1,
                (outcomes.status == 0) & (outcomes.output_tokens == planned.output_tokens),
            )
            values.append(float(np.mean(as_planned)))
    detail = f"about {_GIVE_UP_SHARE:.0%} of {_REQUESTS} clients leave after 50 ms"
    return Measured(value=min(values), values=tuple(values), detail=detail)


REAL_CHECKS = (
    Check(
        claim="effect",
        title="how late a replay sends to the real server, P99",
        how="run",
        band=AtMost(0.010),
        compute=_replayed(in_flight=0),
        unit="s",
        ablation=_replayed(in_flight=4),
        ablation_title="four clients that wait for answers, against the same plan",
        slow=True,
        timed=True,
    ),
    Check(
        claim="effect",
        title="requests that end on the real server as the trace says",
        how="run",
        band=Between(1.0, 1.0),
        compute=_kept_events,
        unit="of requests",
        slow=True,
    ),
)
