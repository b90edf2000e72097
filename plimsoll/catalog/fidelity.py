"""One plan, two executors: the simulator beside the real engine, on the machine at hand.

The machine is measured first (``plimsoll calibrate``), then eighteen settings are served for real
and on the simulated clock (``evals/fidelity.py``). The other clock is a roofline of the machine's
own peaks, without what was measured of its kernels and engine. One run of everything, about twenty
minutes, gives all checks; numbers of another machine are its own.
"""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plimsoll.catalog.contract import AtMost, Check, Claim, Context, Measured, System
from plimsoll.cost.measured_clock import measured_clock
from plimsoll.cost.step import replica_clock
from plimsoll.evals.fidelity import Cell, error_summary
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.plan import Parallel

__all__ = ["SYSTEM", "compare_clocks", "measured_here"]

Cells = tuple[tuple[Cell, ...], tuple[Cell, ...]]


def measured_here(device: str = "cpu", *, say: Callable[[str], None] = lambda _: None) -> Device:
    """The hardware file of this machine, measured now.

    Raises:
        UnsupportedError: torch is not installed.
    """
    try:
        from plimsoll.serving.executors.torch.measure import FULL, measure_device
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        return measure_device(
            device, DType.FP32, name="here", sizes=FULL, folder=Path(place), say=say
        )


def compare_clocks(
    found: Device,
    *,
    device: str = "cpu",
    run_s: float = 20.0,
    say: Callable[[str], None] = lambda _: None,
) -> Cells:
    """Every setting against the measured clock, and the same real runs against the roofline."""
    from plimsoll.evals.fidelity_run import compare_all

    assert found.measured is not None and found.measured.engine is not None
    bare = replace(found, measured=None)
    cells = list(
        compare_all(
            lambda model: measured_clock(model, found, dtype=DType.FP32),
            request_s=found.measured.engine.request_s.value,
            device=device,
            run_s=run_s,
            others=(
                lambda model: replica_clock(
                    model, bare, Parallel(), weight_dtype=DType.FP32, kv_dtype=DType.FP32
                ),
            ),
            say=say,
        )
    )
    return tuple(pair[0] for pair in cells), tuple(pair[1] for pair in cells)


@functools.cache
def _here() -> Cells:
    return compare_clocks(measured_here())


def _error(figure: str, *, roofline: bool = False) -> Callable[[Context], Measured]:
    """Median over the settings of the absolute error of a figure."""

    def compute(context: Context) -> Measured:
        cells = _here()[1 if roofline else 0]
        middle, worst = error_summary(cells, figure)
        return Measured(
            value=middle,
            detail=f"median of {len(cells)} settings, worst {worst:.1%}; 3 models, 3 loads, "
            f"2 policies, {sum(c.num_requests for c in cells):,} requests",
        )

    return compute


def _check(claim: str, figure: str, title: str, bound: float) -> Check:
    return Check(
        claim=claim,
        title=title,
        how="run",
        band=AtMost(bound),
        compute=_error(figure),
        unit="of real",
        ablation=_error(figure, roofline=True),
        ablation_title=f"{title}, on a roofline of the machine's peaks",
        slow=True,
    )


SYSTEM = System(
    id="fidelity",
    title="One plan, two executors: simulator against real engine",
    arxiv="",
    family="serving",
    summary=(
        "The same plan and requests, simulated from what `plimsoll calibrate` measured and served "
        "for real on this machine"
    ),
    claims=(
        Claim(id="ttft", text="Time to first token within 12 % at the median, 25 % at P99"),
        Claim(id="tpot", text="Time per output token within 12 % at the median, 25 % at P99"),
        Claim(id="throughput", text="Output tokens a second within 8 %"),
    ),
    rooms=(
        "evals/fidelity.py",
        "evals/fidelity_run.py",
        "cost/measured_clock.py",
        "serving/executors/torch/measure/",
    ),
    checks=(
        _check("ttft", "ttft_p50_s", "error of median TTFT", 0.12),
        _check("ttft", "ttft_p99_s", "error of P99 TTFT", 0.25),
        _check("tpot", "tpot_p50_s", "error of median TPOT", 0.12),
        _check("tpot", "tpot_p99_s", "error of P99 TPOT", 0.25),
        _check("throughput", "tokens_per_s", "error of throughput", 0.08),
    ),
)
