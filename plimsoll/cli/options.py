"""Options that several verbs share, spelled once."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

__all__ = [
    "Figures",
    "Json",
    "Model",
    "On",
    "Quiet",
    "Rate",
    "ReportFile",
    "Seed",
    "SloOption",
    "TpotP99",
    "TtftP99",
    "WorkloadOption",
]

Model = Annotated[str, Argument(help="Bundled model, config.json, or a folder that holds one.")]
On = Annotated[str, Option("--on", help="Hardware, as in 8xH100-SXM or 2x(8xH200-SXM)+16xL40S.")]
WorkloadOption = Annotated[
    str, Option("--workload", "-w", help="Bundled workload, trace file, or lengths as in 4000/500.")
]
Rate = Annotated[str | None, Option(help="Arrival rate, as in 5req/s; rescales a trace.")]
TtftP99 = Annotated[str | None, Option("--ttft-p99", help="Bound on P99 TTFT, as in 2s.")]
TpotP99 = Annotated[str | None, Option("--tpot-p99", help="Bound on P99 TPOT, as in 60ms.")]
SloOption = Annotated[
    list[str] | None, Option("--slo", help="More targets, as in itl:p95=80ms or ttft:p90@chat=1s.")
]
Seed = Annotated[int, Option(min=0, help="Seed of every random stream.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
ReportFile = Annotated[
    Path | None, Option("--report", help="Also write one self-contained HTML page.")
]
Figures = Annotated[
    Path | None, Option("--figures", help="Also write every picture as SVG and PNG here.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress on stderr.")]
